"""The rules by which the processes of a pool stop: repeated signals, and the supervisor's order. Pure.

Terminals signal a whole process group, and programs such as `make` pass a signal on to a process that has received it
already. So another signal counts only AGAIN_S after the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

AGAIN_S = 2.0
"""Within this time after the first stop signal, every other one counts as its repetition. In seconds."""


# ---- Signals ----


class Request(Enum):
    """What a stop signal means."""

    FIRST = "first"
    REPEATED = "repeated"
    """The first one again, by another way."""
    AGAIN = "again"
    """The wish to end at once."""


class StopRequests:
    """The stop signals that one process has received. Pure."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def take(self, now: float) -> Request:
        """The meaning of a signal that arrives now, in seconds of a monotonic clock."""
        if self._first_at is None:
            self._first_at = now
            return Request.FIRST
        return Request.AGAIN if now - self._first_at >= AGAIN_S else Request.REPEATED


# ---- Orders ----

ORDER = re.compile(rb"stop (\d+\.?\d*) (\d+\.?\d*)")


@dataclass(frozen=True, slots=True)
class Order:
    """Stop: the whole pool ends, so no other process takes over."""

    drain_s: float
    """Longest time for which sessions may continue, in seconds."""
    end_s: float
    """After that, longest time until the process has ended, in seconds; then it exits immediately."""

    def line(self) -> bytes:
        """The line that the supervisor writes."""
        return f"stop {self.drain_s:.3f} {self.end_s:.3f}\n".encode("ascii")


ORPHANED = Order(3.0, 2.0)
"""The order of a supervisor that has ended: its children follow within five seconds."""


def parsed(line: bytes) -> Order | None:
    """The order in a line without its end; None for any other line."""
    match = ORDER.fullmatch(line)
    return Order(float(match[1]), float(match[2])) if match else None
