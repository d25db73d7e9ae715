"""The exception for a fault that cannot be injected."""

from __future__ import annotations


class FaultImpossible(Exception):
    """The victim is not running, or this machine does not support the fault."""
