"""The Lost of a dead worker's sessions waits for the report of its witness."""

from __future__ import annotations

from asr_broker.deaths import WITNESS_S
from asr_broker.events import Command, FromFrontend, FromWorker, Gone, ToFrontend, ToWorker
from asr_broker.routing import Routing
from asr_proto import messages as m

SPEC = m.Spec("fake", "one", ("en",), 4, 960, 1.0, "none")
W1, W2, X1, F1 = b"W1", b"W2", b"X1", b"F1"


class Broker:
    """A broker with a worker that has a witness, and two sessions on it."""

    def __init__(self, witness: bytes = X1) -> None:
        self.core = Routing(1, 0.0)
        self.now = 0.0
        self.worker(W1, m.RegisterWorker(m.PROTOCOL_VERSION, "w1", SPEC, witness))
        self.frontend(m.RegisterFrontend(m.PROTOCOL_VERSION, "f1"))
        self.leases = [self.open(session) for session in ("a", "b")]

    def worker(self, peer: bytes, message: m.FromWorker) -> list[Command]:
        return self.core.handle(FromWorker(peer, message), self.now)

    def frontend(self, message: m.FromFrontend) -> list[Command]:
        return self.core.handle(FromFrontend(F1, message, b""), self.now)

    def open(self, session: str, **fields: str) -> int:
        commands = self.frontend(m.Open(session, 0, "", "", **fields))
        (pinned,) = [one.message for one in commands if isinstance(one.message, m.Pinned)]
        return pinned.lease

    def die(self) -> list[m.Lost]:
        return lost(self.core.handle(Gone(W1, "worker"), self.now))


def lost(commands: list[Command]) -> list[m.Lost]:
    found = [one.message for one in commands if isinstance(one, ToFrontend)]
    return [message for message in found if isinstance(message, m.Lost)]


def test_the_report_names_the_suspects() -> None:
    broker = Broker()
    a, b = broker.leases
    assert broker.die() == []
    reported = lost(broker.worker(X1, m.Crashed((a,), proven=True)))
    assert reported == [m.Lost(a, "worker-lost", 1, True, "w1"), m.Lost(b, "worker-lost")]
    assert lost(broker.worker(X1, m.Crashed((a,), proven=True))) == []


def test_the_report_may_come_before_the_end_of_the_connection() -> None:
    broker = Broker()
    assert len(lost(broker.worker(X1, m.Crashed((), proven=False)))) == 2
    assert broker.die() == []


def test_the_worker_itself_may_report_before_and_after() -> None:
    for is_late in (False, True):
        broker = Broker()
        if is_late:
            assert broker.die() == []
        reported = lost(broker.worker(W1, m.Crashed(tuple(broker.leases), proven=True)))
        assert [one.suspects for one in reported] == [2, 2]


def test_without_a_report_the_sessions_move_a_second_later() -> None:
    broker = Broker()
    broker.die()
    assert broker.core.next_deadline() <= WITNESS_S
    assert lost(broker.core.tick(WITNESS_S - 0.01)) == []
    assert lost(broker.core.tick(WITNESS_S)) == [m.Lost(lease, "worker-lost") for lease in broker.leases]
    assert broker.core.next_deadline() > WITNESS_S


def test_without_a_witness_nothing_waits() -> None:
    assert len(Broker(witness=b"").die()) == 2


def test_a_lease_whose_loss_is_not_explained_yet_is_not_stale() -> None:
    """Else its frontend would move the session without the suspicion."""
    broker = Broker()
    broker.die()
    leases = tuple(broker.leases)
    commands = broker.frontend(m.FrontendHeartbeat(leases)) + broker.frontend(m.Bundle(W1, leases))
    assert not [one for one in commands if isinstance(one.message, m.Stale)]
    broker.core.tick(WITNESS_S)
    assert [one for one in broker.frontend(m.FrontendHeartbeat(leases)) if isinstance(one.message, m.Stale)]


def test_a_lease_whose_loss_is_not_explained_yet_is_not_forwarded() -> None:
    """The header of a bundle names only leases between its sender and its receiver."""
    broker = Broker()
    dead, _ = broker.leases
    assert broker.die() == []
    broker.worker(W2, m.RegisterWorker(m.PROTOCOL_VERSION, "w2", SPEC))
    current = broker.open("c")
    assert broker.frontend(m.Bundle(W2, (dead, current))) == [ToWorker(W2, m.Bundle(W2, (current,)), b"")]


def test_a_stranger_cannot_report() -> None:
    broker = Broker()
    assert lost(broker.worker(W2, m.Crashed(tuple(broker.leases), proven=True))) == []
    broker.die()
    assert lost(broker.worker(W2, m.Crashed(tuple(broker.leases), proven=True))) == []


def test_a_worker_that_hangs_has_named_the_job_that_does_not_end() -> None:
    broker = Broker()
    a, b = broker.leases
    for _ in range(20):
        broker.now += 0.25
        broker.worker(W1, m.WorkerHeartbeat(m.Load(1, 1, 0.0, 0.0, 1.0, 0.0), stuck=(b,)))
        if found := lost(broker.core.tick(broker.now)):
            assert found == [m.Lost(a, "worker-hangs"), m.Lost(b, "worker-hangs", 1, True, "w1")]
            return
    raise AssertionError("the worker was not given up")


def test_a_session_under_suspicion_has_its_worker_for_itself_for_a_while() -> None:
    broker = Broker()
    broker.worker(W2, m.RegisterWorker(m.PROTOCOL_VERSION, "w2", SPEC))
    suspect = broker.core.leases[broker.open("s", suspected_at="w1")]
    assert suspect.worker == W2
    assert broker.core.leases[broker.open("other")].worker == W1
    broker.now = 3.5
    for peer in (W1, W2):
        broker.worker(peer, m.WorkerHeartbeat(m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)))
    assert broker.core.leases[broker.open("later")].worker == W2
