"""The lease's table: every pair of state and event, and the story of a forbidden one."""

from __future__ import annotations

import pytest

from asr_broker.peers import LEASE, Lease, LeaseEvent, LeaseState
from asr_process.states import ForbiddenTransition

ALLOWED = {
    "pinned": {
        "allow-resume": "resumable",
        "release": "releasing",
        "closed": "ended",
        "worker-lost": "ended",
        "replace": "ended",
    },
    "resumable": {
        "detach": "detached",
        "release": "releasing",
        "resume": "ended",
        "closed": "ended",
        "worker-lost": "ended",
        "replace": "ended",
    },
    "detached": {
        "detach": "detached",
        "release": "releasing",
        "resume": "ended",
        "reclaim": "ended",
        "closed": "ended",
        "worker-lost": "ended",
        "replace": "ended",
    },
    "releasing": {"closed": "ended", "worker-lost": "ended", "replace": "ended"},
}


def lease() -> Lease:
    return Lease(1, "s", 0, 2, b"W", b"F", due_at=10.0)


def test_the_table_is_what_is_written_here() -> None:
    table = {
        state.value: {event.value: target.value for event, target in events.items()}
        for state, events in LEASE.transitions.items()
    }
    assert table == ALLOWED
    assert lease().state is LeaseState.PINNED


@pytest.mark.parametrize("event", LeaseEvent)
def test_nothing_follows_the_end(event: LeaseEvent) -> None:
    ended = lease()
    ended.fire(LeaseEvent.CLOSED, 1.0)
    with pytest.raises(ForbiddenTransition):
        ended.fire(event, 2.0)


def test_a_forbidden_transition_names_what_came_before() -> None:
    """A session that is being released cannot be resumed."""
    one = lease()
    one.fire(LeaseEvent.ALLOW_RESUME, 1.0)
    one.fire(LeaseEvent.RELEASE, 2.0)
    with pytest.raises(ForbiddenTransition) as raised:
        one.fire(LeaseEvent.RESUME, 3.0)
    assert str(raised.value) == (
        "lease: resume is not allowed in state releasing; before: 1.000 pinned allow-resume, 2.000 resumable release"
    )


def test_the_pair_of_a_lease_is_its_frontend_and_its_worker() -> None:
    assert lease().pair == (b"F", b"W")
