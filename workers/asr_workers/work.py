"""The jobs that the engine has been given and has not answered yet. Pure.

The engine does jobs in order, so the first of them is in the engine. When it stays there from one heartbeat to the
next, it is stuck: the worker itself was running, because it counts its own heartbeats. A worker that was stopped as a
whole sends no heartbeat, and nothing of it counts as stuck.
"""

from __future__ import annotations

from collections import deque

from asr_proto.messages import LEASES_MAX

STUCK_BEATS = 2
"""Number of heartbeats that a job must last to count as stuck."""


class Work:
    """The jobs in the engine's queue, by the leases for which it does them."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[int, ...]] = deque()
        self._beats = 0
        """Number of heartbeats since the first job began."""

    def given(self, leases: tuple[int, ...]) -> None:
        """The engine has one more job."""
        self._jobs.append(leases)

    def answered(self) -> None:
        """The engine has done its first job."""
        if self._jobs:
            self._jobs.popleft()
        self._beats = 0

    def beat(self) -> None:
        """A heartbeat is due."""
        self._beats += bool(self._jobs)

    def stuck(self) -> tuple[int, ...]:
        """The leases of a job that lasts too long."""
        return self._jobs[0][:LEASES_MAX] if self._jobs and self._beats >= STUCK_BEATS else ()
