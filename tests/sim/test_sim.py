from __future__ import annotations

import pytest

from asr_frontends import events as e
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
