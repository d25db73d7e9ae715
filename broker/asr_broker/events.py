"""The events that a broker's core receives and the commands that it returns: two closed families. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asr_proto import messages as m

Side = Literal["worker", "frontend"]
"""Peers are identified by their side and their identity: a peer chooses its identity, and could choose one of the other
side."""

# ---- Events ----


@dataclass(frozen=True, slots=True)
class FromFrontend:
    peer: bytes
    message: m.FromFrontend
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class FromWorker:
    peer: bytes
    message: m.FromWorker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The connection of this peer ended, or a message to it could not be queued."""

    peer: bytes
    side: Side


Event = FromFrontend | FromWorker | Gone


# ---- Commands: messages that the shell must send ----


@dataclass(frozen=True, slots=True)
class ToFrontend:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class ToWorker:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


Command = ToFrontend | ToWorker
