"""What a peer with a valid key can do to the sessions of others: nothing, whatever it sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_broker.events import Command, FromFrontend, FromWorker, Gone, ToFrontend, ToWorker
from asr_broker.peers import Timing
from asr_broker.routing import Routing
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 4, 960, 1.0, "none")
F1, W1 = b"F1", b"W1"
"""The frontend and the worker of the session that is attacked."""
F2, W2 = b"F2", b"W2"
"""The bad peers."""
LEASE = (7 << 32) + 1
NUMBERS = st.sampled_from([0, 1, LEASE, LEASE + 1, LEASE + 2, 2**63 - 1])
LEASES = st.lists(NUMBERS, max_size=4).map(tuple)
PEERS = st.sampled_from([F1, F2, W1, W2, b""])
OTHERS = st.sampled_from(["t", "u", ""])
"""Sessions. A bad frontend does not know the id of the attacked one, which is random and secret."""

BAD_FRONTEND = st.one_of(
    st.builds(m.RegisterFrontend, st.just(m.PROTOCOL_VERSION), st.just("bad")),
    st.builds(m.Open, OTHERS, NUMBERS, st.just(""), st.just(""), st.booleans()),
    st.builds(m.Close, NUMBERS),
    st.builds(m.Detach, NUMBERS),
    st.builds(m.Resume, OTHERS, NUMBERS),
    st.builds(m.FrontendHeartbeat, LEASES),
    st.builds(m.Bundle, PEERS, LEASES),
)
BAD_WORKER = st.one_of(
    st.builds(m.RegisterWorker, st.just(m.PROTOCOL_VERSION), st.just("bad"), st.just(SPEC)),
    st.builds(m.WorkerHeartbeat, st.just(m.Load(1, 5, 0.0, 0.0, 1.0, 1.0))),
    st.builds(m.Closed, NUMBERS),
    st.builds(m.Drain),
    st.builds(m.Vote, NUMBERS, NUMBERS, NUMBERS),
    st.builds(m.Bundle, PEERS, LEASES),
)
FORGED = st.one_of(
    st.builds(m.Lost, NUMBERS, st.just("resumed")),
    st.builds(m.Release, NUMBERS),
    st.builds(m.Grant, NUMBERS, NUMBERS, OTHERS, PEERS),
    st.builds(m.Unregistered),
)
"""Messages that only a broker sends."""


class Attacked:
    """A broker with one session, whose lease is LEASE, and two bad peers."""

    def __init__(self) -> None:
        self.core = Routing(7, 0.0, Timing(register_s=0.0))
        self.frontend(F1, m.RegisterFrontend(m.PROTOCOL_VERSION, "f1"))
        self.worker(W1, m.RegisterWorker(m.PROTOCOL_VERSION, "w1", SPEC))
        self.frontend(F1, m.Open("s", 0, "", "", resumable=True))
        self.frontend(F2, m.RegisterFrontend(m.PROTOCOL_VERSION, "f2"))
        self.worker(W2, m.RegisterWorker(m.PROTOCOL_VERSION, "w2", SPEC))
        self.before = self.session()
        assert self.before is not None

    def frontend(self, peer: bytes, message: m.Message) -> list[Command]:
        return self.core.handle(FromFrontend(peer, message, b"x"), 0.0)  # type: ignore[arg-type]

    def worker(self, peer: bytes, message: m.Message) -> list[Command]:
        return self.core.handle(FromWorker(peer, message, b"x"), 0.0)  # type: ignore[arg-type]

    def session(self) -> tuple[object, ...] | None:
        lease = self.core.leases.get(LEASE)
        return None if lease is None else (lease.session, lease.state, lease.slot, lease.worker, lease.frontend)

    def unharmed(self, commands: list[Command]) -> None:
        """Assert that the session is as before, and that no command concerns it."""
        self.core.check()
        assert self.session() == self.before
        for command in commands:
            named = getattr(command.message, "leases", (getattr(command.message, "lease", 0),))
            is_answer = isinstance(command.message, m.Stale) and command.peer in (F2, W2)
            assert LEASE not in named or is_answer, command


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    it = Attacked()
    yield it
    it.unharmed([])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), BAD_FRONTEND | BAD_WORKER | FORGED), max_size=30))
def test_no_sequence_of_messages_harms_a_session_of_others(sent: list[tuple[bool, m.Message]]) -> None:
    attacked = Attacked()
    for from_worker, message in sent:
        attacked.unharmed(attacked.worker(W2, message) if from_worker else attacked.frontend(F2, message))


def test_a_worker_with_the_identity_of_a_frontend_does_not_end_it(attacked: Attacked) -> None:
    """A worker receives the identities of its frontends, and chooses its own."""
    register = m.RegisterWorker(m.PROTOCOL_VERSION, "bad", SPEC)
    for _ in range(2):
        attacked.unharmed(attacked.worker(F1, register))
        attacked.unharmed(attacked.core.handle(Gone(F1, "worker"), 0.0))
        attacked.unharmed(attacked.core.handle(Gone(F1, "worker"), 0.0))
    assert set(attacked.core.frontends) == {F1, F2}


def test_a_frontend_with_the_identity_of_a_worker_does_not_end_it(attacked: Attacked) -> None:
    attacked.unharmed(attacked.frontend(W1, m.RegisterFrontend(m.PROTOCOL_VERSION, "bad")))
    attacked.unharmed(attacked.core.handle(Gone(W1, "frontend"), 0.0))
    assert set(attacked.core.workers) == {W1, W2}


def test_a_bundle_does_not_carry_the_lease_of_others(attacked: Attacked) -> None:
    """A bad peer names the lease of others beside its own. The header that is forwarded has only its own."""
    pinned = next(
        one.message for one in attacked.frontend(F2, m.Open("t", 0, "", "")) if isinstance(one.message, m.Pinned)
    )
    commands = attacked.frontend(F2, m.Bundle(pinned.worker, (pinned.lease, LEASE)))
    assert commands == [
        ToFrontend(F2, m.Stale(LEASE)),
        ToWorker(pinned.worker, m.Bundle(pinned.worker, (pinned.lease,)), b"x"),
    ]
    commands = attacked.worker(pinned.worker, m.Bundle(F2, (LEASE, pinned.lease)))
    assert commands[-1] == ToFrontend(F2, m.Bundle(F2, (pinned.lease,)), b"x")
