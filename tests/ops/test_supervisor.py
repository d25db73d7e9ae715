"""The supervision policy, without a process and without a clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.supervisor import (
    HEALTHY_S,
    KILLED_S,
    PROBE_S,
    RESTART_S_MAX,
    STOP_S,
    Announce,
    Begin,
    Child,
    ChildEnded,
    Command,
    Exit,
    KillChild,
    Probe,
    Probed,
    StartChild,
    StopAsked,
    StopChild,
    Supervisor,
    Warn,
)
from asr_process.stopping import AGAIN_S, Order

BROKER = Child("broker", "broker", ("broker",))
WORKERS = (Child("worker-1", "worker", ("worker",)), Child("worker-2", "worker", ("worker",)))
FRONTEND = Child("frontend", "frontend", ("frontend",))
CHILDREN = (BROKER, *WORKERS, FRONTEND)
NAMES = [child.name for child in CHILDREN]
FOR_FRONTENDS = Order(0.6 * STOP_S, 0.2 * STOP_S)


@pytest.fixture
def core() -> Iterator[Supervisor]:
    core = Supervisor(CHILDREN)
    assert core.handle(Begin(), 0.0) == [StartChild(child) for child in CHILDREN]
    yield core
    core.check()


@pytest.fixture
def ready(core: Supervisor) -> Supervisor:
    assert core.tick(PROBE_S) == [Probe()]
    assert core.handle(Probed(True), 0.2) == [Announce()]
    return core


def restart_delay(core: Supervisor, name: str, now: float) -> float:
    """End a child and wait for its restart. Returns the delay."""
    assert isinstance(core.handle(ChildEnded(name, -9), now)[0], Warn)
    restart_at = core.next_deadline()
    assert restart_at is not None
    assert [type(command) for command in core.tick(restart_at)] == [StartChild]
    return restart_at - now


def test_probes_until_ready_and_announces_once(core: Supervisor) -> None:
    assert core.tick(PROBE_S) == [Probe()]
    assert core.next_deadline() is None  # the next probe waits for the answer to this one
    assert core.handle(Probed(False), 1.0) == []
    assert core.next_deadline() == 1.0 + PROBE_S
    assert core.tick(1.0 + PROBE_S) == [Probe()]
    assert core.handle(Probed(True), 1.2) == [Announce()]
    assert core.handle(Probed(True), 1.3) == []
    assert core.next_deadline() is None


@pytest.mark.parametrize(
    ("returncode", "how"),
    [(-9, "by SIGKILL"), (-11, "by SIGSEGV"), (-70, "by signal 70"), (1, "with exit code 1"), (0, "with exit code 0")],
)
def test_reports_how_a_child_ended(ready: Supervisor, returncode: int, how: str) -> None:
    assert ready.handle(ChildEnded("worker-2", returncode), 1.0) == [
        Warn(f"worker-2 ended {how}: starting it again in 0.2 s")
    ]
    assert ready.tick(1.1) == []
    assert ready.tick(1.2) == [StartChild(WORKERS[1])]


def test_a_crash_loop_backs_off_and_a_long_life_is_forgiven(ready: Supervisor) -> None:
    now, delays = 1.0, []
    for _ in range(7):
        delays.append(round(restart_delay(ready, "worker-1", now), 3))
        now += delays[-1] + 0.1
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, RESTART_S_MAX, RESTART_S_MAX]
    assert restart_delay(ready, "worker-1", now + HEALTHY_S) == pytest.approx(0.2)


def test_children_back_off_apart(ready: Supervisor) -> None:
    assert restart_delay(ready, "worker-1", 1.0) == pytest.approx(0.2)
    assert restart_delay(ready, "worker-1", 2.0) == pytest.approx(0.4)
    assert restart_delay(ready, "broker", 3.0) == pytest.approx(0.2)


def test_a_bad_configuration_before_ready_ends_everything(core: Supervisor) -> None:
    commands = core.handle(ChildEnded("broker", 2), 1.0)
    assert commands == [Warn("broker cannot start as configured (exit code 2)"), StopChild("frontend", FOR_FRONTENDS)]
    order = Order(0.0, STOP_S - 0.5)
    assert core.handle(ChildEnded("frontend", 0), 1.5) == [StopChild("worker-1", order), StopChild("worker-2", order)]
    assert core.handle(ChildEnded("worker-1", 0), 1.6) == []
    assert core.handle(ChildEnded("worker-2", 0), 1.7) == [Exit(2)]


def test_exit_code_2_after_ready_is_a_crash_like_any_other(ready: Supervisor) -> None:
    assert ready.handle(ChildEnded("worker-1", 2), 1.0) == [
        Warn("worker-1 ended with exit code 2: starting it again in 0.2 s")
    ]


def test_stops_frontends_then_workers_then_the_broker(core: Supervisor) -> None:
    """Frontends have their shares of the budget; when they have ended, the others have the rest, and end at once."""
    assert core.handle(StopAsked(), 5.0) == [StopChild("frontend", FOR_FRONTENDS)]
    assert core.handle(ChildEnded("worker-2", -9), 5.1) == []  # it ends before its turn
    assert core.handle(ChildEnded("frontend", 0), 5.5) == [StopChild("worker-1", Order(0.0, STOP_S - 0.5))]
    assert core.handle(ChildEnded("worker-1", 0), 6.0) == [StopChild("broker", Order(0.0, STOP_S - 1.0))]
    assert core.handle(ChildEnded("broker", 0), 6.1) == [Exit(0)]
    assert core.next_deadline() is None


@given(st.floats(1.0, 600.0), st.floats(0.0, 600.0))
def test_the_orders_fit_into_the_budget(stop_s: float, frontends_s: float) -> None:
    """However long the frontends take, no child has time left beyond the budget."""
    core = Supervisor(CHILDREN, stop_s)
    core.handle(Begin(), 0.0)
    (first,) = core.handle(StopAsked(), 0.0)
    assert isinstance(first, StopChild) and first.order.drain_s + first.order.end_s < stop_s
    for command in core.handle(ChildEnded("frontend", 0), frontends_s):
        assert isinstance(command, StopChild)
        assert command.order.drain_s == 0.0 and frontends_s + command.order.end_s <= max(stop_s, frontends_s) + 1e-9


def test_stopping_cancels_restarts_and_probes(core: Supervisor) -> None:
    core.handle(ChildEnded("frontend", 1), 1.0)
    assert [type(command) for command in core.handle(StopAsked(), 1.1)] == [StopChild, StopChild]
    assert core.handle(Probed(True), 1.2) == []
    assert core.next_deadline() == 1.1 + STOP_S


def test_with_nothing_running_a_stop_is_the_end() -> None:
    core = Supervisor([BROKER])
    core.handle(Begin(), 0.0)
    core.handle(ChildEnded("broker", 1), 1.0)
    assert core.handle(StopAsked(), 1.1) == [Exit(0)]


def test_what_does_not_end_in_time_is_killed(core: Supervisor) -> None:
    core.handle(StopAsked(), 5.0)
    core.handle(ChildEnded("frontend", 0), 5.1)
    assert core.tick(5.0 + STOP_S) == [
        Warn("broker, worker-1, worker-2 did not end within 10 s: killed"),
        *(KillChild(name) for name in ("broker", "worker-1", "worker-2")),
    ]
    assert core.handle(ChildEnded("broker", -9), 16.0) == []
    assert core.handle(ChildEnded("worker-1", -9), 16.0) == []
    assert core.handle(ChildEnded("worker-2", -9), 16.0) == [Exit(1)]


def test_a_signal_that_is_passed_on_is_the_same_one(core: Supervisor) -> None:
    """`make` and terminals repeat a signal; only a later one kills."""
    core.handle(StopAsked(), 5.0)
    assert core.handle(StopAsked(), 5.0) == []
    assert core.handle(StopAsked(), 5.0 + AGAIN_S - 0.1) == []
    assert core.handle(StopAsked(), 5.0 + AGAIN_S) == [KillChild(name) for name in NAMES]


def test_a_stop_after_a_bad_configuration_is_the_first_signal(core: Supervisor) -> None:
    core.handle(ChildEnded("broker", 2), 1.0)
    assert core.handle(StopAsked(), 4.0) == []
    assert [type(command) for command in core.handle(StopAsked(), 4.0 + AGAIN_S)] == [KillChild] * 3


def test_a_child_that_cannot_be_killed_does_not_hold_us(core: Supervisor) -> None:
    core.handle(StopAsked(), 0.0)
    core.handle(StopAsked(), AGAIN_S)
    for name in ("broker", "worker-1", "frontend"):
        assert core.handle(ChildEnded(name, -9), AGAIN_S) == []
    assert core.tick(AGAIN_S + KILLED_S) == [Warn("worker-2 cannot be killed and still runs"), Exit(1)]


crashes = st.builds(ChildEnded, st.sampled_from(NAMES), st.sampled_from([0, 1, -9]))
probes = st.builds(Probed, st.booleans())


@given(st.lists(st.tuples(st.floats(0.0, 12.0), st.one_of(crashes, probes, st.none())), max_size=40))
def test_whatever_happens_a_stop_leaves_nothing_running(steps: list[tuple[float, ChildEnded | Probed | None]]) -> None:
    core, running, now = Supervisor(CHILDREN), set[str](), 0.0
    _note_starts(core.handle(Begin(), now), running)
    for pause_s, event in steps:
        now += pause_s
        if isinstance(event, ChildEnded) and event.name in running:
            running.remove(event.name)
            core.handle(event, now)
        elif isinstance(event, Probed):
            core.handle(event, now)
        _note_starts(core.tick(now), running)
        core.check()
    _stop(core, running, now)


def _note_starts(commands: list[Command], running: set[str]) -> None:
    for command in commands:
        if isinstance(command, StartChild):
            assert command.child.name not in running
            running.add(command.child.name)


def _stop(core: Supervisor, running: set[str], now: float) -> None:
    """Request the stop and end the stopped children: exactly one Exit follows, as the last command."""
    commands = core.handle(StopAsked(), now)
    for command in commands:
        core.check()
        if isinstance(command, StopChild):
            running.remove(command.name)
            commands += core.handle(ChildEnded(command.name, 0), now)
    assert not running
    assert [command for command in commands if isinstance(command, Exit)] == [commands[-1]]
