"""Decides when `asr serve` starts, restarts and stops its child processes, and when it announces that it is ready.

Pure: no processes, no clock. `handle` and `tick` return commands; asr_ops.serve performs them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from asr_process.stopping import Order, Request, StopRequests

Role = Literal["broker", "worker", "frontend"]
STOP_ORDER: tuple[Role, ...] = ("frontend", "worker", "broker")
"""The order in which roles stop: frontends inform their clients first, and the broker serves the others to the end."""

RESTART_S_MIN = 0.2
RESTART_S_MAX = 5.0
HEALTHY_S = 10.0
"""After a run of this many seconds, a child's next restart delay is RESTART_S_MIN again."""
PROBE_S = 0.1
STOP_S = 10.0
"""The budget of a stop, in seconds: children that have not ended within it are killed. All children share it."""
DRAIN_SHARE, END_SHARE = 0.6, 0.2
"""The frontends' shares of the budget: for their sessions, and then for the rest of their end."""
KILLED_S = 5.0
"""Seconds to wait for killed children to end. A child that is blocked in a device driver may never end."""
SETUP_ERROR = 2
"""Exit code of a process that cannot start as configured."""


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    role: Role
    argv: tuple[str, ...]


# ---- What happened ----


@dataclass(frozen=True, slots=True)
class Begin:
    """Start serving."""


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child process ended. `returncode` is negative for a signal, as in subprocess."""

    name: str
    returncode: int


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer to Probe."""

    ready: bool
    """Whether the frontends accept sessions."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Ctrl+C or a stop signal. One more kills the children, see asr_process.stopping."""


Event = Begin | ChildEnded | Probed | StopAsked


# ---- What to do ----


@dataclass(frozen=True, slots=True)
class StartChild:
    child: Child


@dataclass(frozen=True, slots=True)
class StopChild:
    name: str
    order: Order


@dataclass(frozen=True, slots=True)
class KillChild:
    name: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Request a frontend's readiness. The shell answers with Probed."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Print that the pool is ready. Issued once."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Log a warning."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Exit:
    code: int


Command = StartChild | StopChild | KillChild | Probe | Announce | Warn | Exit


@dataclass(slots=True)
class _Watched:
    child: Child
    running: bool = False
    stopped: bool = False
    """Whether it has its order, or was killed."""
    started_at: float = 0.0
    restart_at: float | None = None
    delay_s: float = RESTART_S_MIN
    """Seconds from the child's next end to its restart."""


@dataclass(slots=True)
class Supervisor:
    """The state machine: starting, ready, stopping. Starts the children in the order of `children`."""

    children: Iterable[Child]
    stop_s: float = STOP_S
    """The budget of a stop, in seconds."""
    _watched: dict[str, _Watched] = field(init=False)
    _state: Literal["starting", "ready", "stopping"] = "starting"
    _exit_code: int = 0
    _probe_at: float | None = None
    _requests: StopRequests = field(default_factory=StopRequests)
    _kill_at: float | None = None
    _give_up_at: float | None = None

    def __post_init__(self) -> None:
        self._watched = {child.name: _Watched(child) for child in self.children}

    def handle(self, event: Event, now: float) -> list[Command]:
        match event:
            case Begin():
                return self._begin(now)
            case ChildEnded(name, returncode):
                return self._ended(self._watched[name], returncode, now)
            case Probed(ready):
                return self._probed(ready, now)
            case StopAsked():
                return self._stop_asked(now)

    def tick(self, now: float) -> list[Command]:
        commands: list[Command] = [
            self._start(watched, now) for watched in self._watched.values() if _due(watched.restart_at, now)
        ]
        if _due(self._probe_at, now):
            self._probe_at = None
            commands.append(Probe())
        if _due(self._give_up_at, now):
            self._give_up_at = None
            commands += [Warn(f"{_names(self._running())} cannot be killed and still runs"), Exit(1)]
        if _due(self._kill_at, now):
            commands.append(Warn(f"{_names(self._running())} did not end within {self.stop_s:g} s: killed"))
            commands += self._kill_all(now)
        return commands

    def next_deadline(self) -> float | None:
        deadlines = [watched.restart_at for watched in self._watched.values()]
        deadlines += [self._probe_at, self._kill_at, self._give_up_at]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def check(self) -> None:
        """The invariants."""
        for watched in self._watched.values():
            assert not (watched.running and watched.restart_at is not None), watched
            assert RESTART_S_MIN <= watched.delay_s <= RESTART_S_MAX, watched
            assert watched.restart_at is None or self._state != "stopping", watched
        if self._state == "stopping":
            assert self._probe_at is None
        else:
            assert self._kill_at is None
            assert self._give_up_at is None

    # ---- Starting ----

    def _begin(self, now: float) -> list[Command]:
        self._probe_at = now + PROBE_S
        return [self._start(watched, now) for watched in self._watched.values()]

    def _start(self, watched: _Watched, now: float) -> StartChild:
        watched.running, watched.started_at, watched.restart_at = True, now, None
        return StartChild(watched.child)

    def _probed(self, ready: bool, now: float) -> list[Command]:
        if self._state != "starting":
            return []
        if ready:
            self._state = "ready"
            return [Announce()]
        self._probe_at = now + PROBE_S
        return []

    # ---- A child ended ----

    def _ended(self, watched: _Watched, returncode: int, now: float) -> list[Command]:
        watched.running = False
        if self._state == "stopping":
            return self._stop_next(now)
        name = watched.child.name
        if self._state == "starting" and returncode == SETUP_ERROR:
            return [Warn(f"{name} cannot start as configured (exit code 2)"), *self._stop(SETUP_ERROR, now)]
        if now - watched.started_at >= HEALTHY_S:
            watched.delay_s = RESTART_S_MIN
        delay_s = watched.delay_s
        watched.restart_at = now + delay_s
        watched.delay_s = min(2 * delay_s, RESTART_S_MAX)
        return [Warn(f"{name} ended {_how(returncode)}: starting it again in {delay_s:g} s")]

    # ---- Stopping ----

    def _stop_asked(self, now: float) -> list[Command]:
        request = self._requests.take(now)
        if self._state != "stopping":
            return self._stop(0, now)
        return self._kill_all(now) if request is Request.AGAIN else []

    def _stop(self, exit_code: int, now: float) -> list[Command]:
        self._state, self._exit_code = "stopping", exit_code
        self._probe_at, self._kill_at = None, now + self.stop_s
        for watched in self._watched.values():
            watched.restart_at = None
        return self._stop_next(now)

    def _stop_next(self, now: float) -> list[Command]:
        """Stop the children of the first role in STOP_ORDER that still run. If none run, exit."""
        for role in STOP_ORDER:
            running = [watched for watched in self._running() if watched.child.role == role]
            if running:
                order = self._order(role, now)
                return [self._stop_child(watched, order) for watched in running if not watched.stopped]
        self._kill_at = self._give_up_at = None
        return [Exit(self._exit_code)]

    def _order(self, role: Role, now: float) -> Order:
        """A role's share of the budget. When the frontends have ended, no session is left that a client waits for."""
        if role == "frontend":
            return Order(DRAIN_SHARE * self.stop_s, END_SHARE * self.stop_s)
        return Order(0.0, max(0.0, (self._kill_at or now) - now))

    def _stop_child(self, watched: _Watched, order: Order) -> StopChild:
        watched.stopped = True
        return StopChild(watched.child.name, order)

    def _kill_all(self, now: float) -> list[Command]:
        self._kill_at, self._give_up_at = None, now + KILLED_S
        self._exit_code = self._exit_code or 1
        for watched in self._watched.values():
            watched.stopped = True
        return [KillChild(watched.child.name) for watched in self._running()]

    def _running(self) -> Iterator[_Watched]:
        return (watched for watched in self._watched.values() if watched.running)


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"with exit code {returncode}"
    try:
        return f"by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"by signal {-returncode}"


def _names(watched: Iterable[_Watched]) -> str:
    return ", ".join(one.child.name for one in watched)
