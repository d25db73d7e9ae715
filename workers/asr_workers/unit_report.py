"""What a worker reports to systemd: that it is ready, whether a broker has registered it, and that its engine works.

A worker feeds the watchdog while the engine has nothing to do. While the engine has jobs, it feeds the watchdog only
after an answer. So systemd restarts a worker whose engine hangs in a step.
"""

from __future__ import annotations

import math

import structlog

from asr_process.notify import Unit

log = structlog.get_logger()

REGISTERED_S_MAX = 5.0
"""A worker reports ready after this long even if no broker answers, because that is not a failure of the worker."""


class UnitReport:
    """The state of one worker as it was reported to systemd. All times are on one monotonic clock."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._ready_by = math.inf
        self._jobs_unanswered = 0
        """Engine jobs submitted and not answered yet."""
        self._is_answering = True
        """Whether the engine has answered a job since the watchdog was fed last."""
        self._registered: bool | None = None
        """The value reported last; None before the first report."""

    def start(self, now: float, step_s_p99: float) -> None:
        """The worker begins to serve. Warns where one step may take longer than the watchdog allows."""
        self._ready_by = now + REGISTERED_S_MAX
        self._unit.feed(now)
        if 2 * step_s_p99 > self._unit.feed_at - now:
            log.warning(
                "steps may starve the watchdog: raise WatchdogSec= of the unit",
                step_s_p99=round(step_s_p99, 1),
                watchdog_s=round(2 * (self._unit.feed_at - now), 1),
            )

    def submitted(self) -> None:
        """The engine has one more job to do."""
        self._jobs_unanswered += 1

    def answered(self) -> None:
        """The engine has done a job."""
        self._jobs_unanswered -= 1
        self._is_answering = True

    def draining(self, sessions: int) -> None:
        """The worker takes no new session and ends after its `sessions` sessions."""
        self._unit.stopping(f"draining {sessions} sessions")

    def report(self, now: float, *, registered: bool) -> None:
        """Report whether a broker has registered the worker, when that changes, and feed the watchdog when due."""
        if registered is not self._registered and (registered or self._registered or now >= self._ready_by):
            if self._registered is None and not registered:
                log.warning(
                    "no broker answers the registration: check that a broker runs and that its release can read it"
                )
            send = self._unit.ready if self._registered is None else self._unit.status
            send("registered with a broker" if registered else "no broker answers")
            self._registered = registered
        if self._may_feed() and self._unit.feed(now):
            self._is_answering = False

    def next_deadline(self) -> float:
        """When the watchdog must be fed. Infinity while the engine does not answer."""
        return self._unit.feed_at if self._may_feed() else math.inf

    def _may_feed(self) -> bool:
        return self._is_answering or not self._jobs_unanswered
