from __future__ import annotations

from dataclasses import replace

import pytest

from asr_frontends import events as e
from asr_frontends.session import POISONOUS
from asr_workers.engines.fake import EXCEPTION, HANG, SIGKILL, SIGSEGV
from tests.sim.simulator import QUIET, STORMY, STORMY_PAIR, Faults, World, run_seed


@pytest.mark.parametrize("seed", range(8))
def test_quiet_runs_lose_no_session(seed: int) -> None:
    """Liveness: without faults every client receives its whole text."""
    world = run_seed(seed, QUIET, clients=4)
    assert all(isinstance(client.terminal, e.Bye) for client in world.clients)


@pytest.mark.parametrize("seed", range(40))
def test_storms_are_safe_and_end(seed: int) -> None:
    run_seed(seed, STORMY)


@pytest.mark.parametrize("seed", range(10))
def test_worker_deaths_alone_end_no_session(seed: int) -> None:
    """A session that has begun only pauses; a new one may be refused while there is no worker."""
    world = run_seed(seed, Faults(worker_crash=0.3, delay_ms=2.0), clients=3)
    for client in world.clients:
        refused = isinstance(client.terminal, e.Error) and client.terminal.slug == "no-worker"
        assert isinstance(client.terminal, e.Bye) or (refused and not client.finals)


@pytest.mark.parametrize("seed", range(6))
def test_sessions_leave_a_draining_worker_within_a_second(seed: int) -> None:
    """Where another worker has room for them. No session ends, and the worker does."""
    world = World(seed, QUIET, slots=8)
    clients = [world.add_client(f"c{number}", 8.0, 20, 1.0, at=1.0) for number in range(4)]
    world.run(3.0)
    drained = world.workers[seed % 2]
    incarnation = drained.incarnation
    assert len(drained.core)
    drained.drain()
    world.run(4.0)
    assert drained.incarnation > incarnation
    world.run(60.0)
    assert all(isinstance(client.terminal, e.Bye) for client in clients)


@pytest.mark.parametrize("brokers", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_new_broker_refuses_no_session_while_its_workers_live(seed: int, brokers: int) -> None:
    """Sessions begin before, during and after three deaths of the broker that leads."""
    world = World(seed, QUIET, slots=12, brokers=brokers)
    clients = [world.add_client(f"c{number}", 2.0, 100, 1.0, at=3.0 + 0.4 * number) for number in range(24)]
    for died_at in (4.0, 7.0, 10.0):
        world.run(died_at + world.random.random())
        for leader in world.leaders():
            world.crash_broker(leader.number)
    world.run(60.0)
    assert [client.terminal for client in clients] == [e.Bye()] * len(clients)


@pytest.mark.parametrize("seed", range(10))
def test_workers_that_swallow_audio_lose_no_word(seed: int) -> None:
    world = run_seed(seed, Faults(worker_swallows=0.2), clients=3, workers=3)
    assert all(isinstance(client.terminal, e.Bye) for client in world.clients)


def test_storms_in_which_workers_swallow_audio_are_safe_and_end() -> None:
    for seed in range(10):
        run_seed(seed, replace(STORMY, worker_swallows=0.1))


@pytest.mark.parametrize("seed", range(10))
def test_a_frontend_that_leaves_its_sessions_loses_no_word(seed: int) -> None:
    """Also if workers die meanwhile. Clients resume elsewhere, or receive the text of all that they have sent."""
    world = run_seed(seed, Faults(frontend_leave=1.0, worker_crash=0.1, delay_ms=2.0), clients=6)
    for client in world.clients:
        refused = isinstance(client.terminal, e.Error) and client.terminal.slug == "no-worker"
        assert isinstance(client.terminal, e.Bye) or (refused and not client.finals)


# ---- Poison ----


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "kind, deaths_max", [(EXCEPTION, 2), (SIGSEGV, 2), (SIGKILL, 3), (HANG, 2)], ids=["raise", "segv", "kill", "hang"]
)
def test_poison_kills_few_workers_and_no_neighbor(seed: int, kind: int, deaths_max: int) -> None:
    """The neighbors' texts are whole. The session of the poison ends before a third worker, or a fourth."""
    world = run_seed(seed, Faults(slow_step_ms=20.0), clients=8, workers=3, poisons=[kind])
    assert 0 < world.killed[world.clients[0].session] <= deaths_max
    for client in world.clients[1:]:
        refused = isinstance(client.terminal, e.Error) and client.terminal.slug in ("no-worker", "at-capacity")
        assert isinstance(client.terminal, e.Bye) or (refused and not client.finals), client


@pytest.mark.parametrize("seed", range(4))
def test_three_poisons_kill_at_most_twice_each(seed: int) -> None:
    world = run_seed(seed, Faults(slow_step_ms=20.0), clients=10, workers=3, poisons=[EXCEPTION, SIGSEGV, SIGSEGV])
    assert all(0 < world.killed[client.session] <= 2 for client in world.clients[:3])


@pytest.mark.parametrize("seed", range(8))
def test_storms_with_poison_are_safe_and_end(seed: int) -> None:
    """Reports of deaths may be lost. No session of an innocent client ends as poisonous (`run_seed` asserts it)."""
    brokers = 1 + seed % 2
    faults = STORMY_PAIR if brokers == 2 else STORMY
    run_seed(seed, faults, workers=3, brokers=brokers, poisons=[EXCEPTION, (SIGSEGV, SIGKILL, HANG)[seed % 3]])


@pytest.mark.parametrize("seed", range(8))
def test_workers_that_are_killed_in_their_steps_end_no_session(seed: int) -> None:
    """Each kill strikes some session in its step, and none proves that the audio was the cause."""
    world = run_seed(seed, Faults(worker_crash=1.0, slow_step_ms=60.0), workers=4)
    assert not any(isinstance(one.terminal, e.Error) and one.terminal.slug == POISONOUS for one in world.clients)


# ---- Two brokers ----


@pytest.mark.parametrize("seed", range(4))
def test_quiet_runs_with_a_standby_lose_no_session(seed: int) -> None:
    world = run_seed(seed, QUIET, clients=4, brokers=2)
    assert all(isinstance(client.terminal, e.Bye) for client in world.clients)


@pytest.mark.parametrize("seed", range(20))
def test_storms_with_a_standby_are_safe_and_end(seed: int) -> None:
    run_seed(seed, STORMY_PAIR, workers=2 + seed % 2, brokers=2)


@pytest.mark.parametrize("seed", range(6))
def test_a_standby_takes_over_within_a_second(seed: int) -> None:
    """After the leader's death, and after its freeze; no session ends."""
    world = World(seed, QUIET, brokers=2)
    clients = [world.add_client(f"c{number}", 8.0, 20, 1.0, at=3.0) for number in range(3)]
    world.run(6.0)
    (before,) = world.leaders()
    if seed % 2:
        world.crash_broker(before.number)
    else:
        world.freeze_broker(before.number, 4.0)
    world.run(7.0)
    (after,) = world.leaders()
    assert after.number != before.number and len(after.core.leases) == len(clients)
    world.run(60.0)
    assert all(isinstance(client.terminal, e.Bye) for client in clients)


@pytest.mark.parametrize("seed", range(6))
def test_a_minority_refuses(seed: int) -> None:
    """A leader that keeps only one of three workers after a partition stops leading; the other broker leads."""
    world = World(seed, QUIET, workers=3, brokers=2)
    clients = [world.add_client(f"c{number}", 8.0, 20, 1.0, at=3.0) for number in range(4)]
    world.run(5.0)
    (before,) = world.leaders()
    for worker in world.workers[:2]:
        world.cut(before.number, worker, 30.0)
    # Its last worker must leave it before the other broker has all three.
    world.run(10.0)
    while world.now < 34.0:
        (leader,) = world.leaders()
        assert leader.number != before.number
        world.run(world.now + 0.25)
    world.run(90.0)
    assert len(world.leaders()) == 1
    assert all(isinstance(client.terminal, e.Bye) for client in clients)
