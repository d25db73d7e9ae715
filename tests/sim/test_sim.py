from __future__ import annotations

import pytest

from asr_frontends import events as e
from tests.sim.simulator import QUIET, STORMY, Faults, run_seed


@pytest.mark.parametrize("seed", range(8))
def test_quiet_runs_lose_no_session(seed: int) -> None:
    """Doing nothing wrong is not enough: without faults every client gets its text to the end."""
    world = run_seed(seed, QUIET, clients=4)
    assert all(isinstance(client.terminal, e.Bye) for client in world.clients)


@pytest.mark.parametrize("seed", range(40))
def test_storms_are_safe_and_end(seed: int) -> None:
    run_seed(seed, STORMY)


@pytest.mark.parametrize("seed", range(10))
def test_worker_deaths_alone_end_no_session(seed: int) -> None:
    """A session that has begun does not notice more than a pause; only a new one is refused while none is there."""
    world = run_seed(seed, Faults(worker_crash=0.3, delay_ms=2.0), clients=3)
    for client in world.clients:
        refused = isinstance(client.terminal, e.Error) and client.terminal.slug == "no-worker"
        assert isinstance(client.terminal, e.Bye) or (refused and not client.finals)
