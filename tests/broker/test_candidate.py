"""A broker that shares its pool: what its peers receive while it leads, is lapsed and stands by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asr_broker import waiting
from asr_broker.candidate import Candidate
from asr_broker.events import Command, FromFrontend, FromWorker, Gone, Side
from asr_broker.leadership import LAPSE_S, LEASE_S, START_S, Leadership, Role
from asr_broker.routing import Routing
from asr_proto import messages as m

US, OTHER = 7, 9
SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
F1, W1, W2 = b"F1", b"W1", b"W2"


class Broker:
    """The core with a clock that tests set, and workers that vote as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.core = Candidate(Routing(US, self.now), Leadership(US, self.now, lambda: 0.5))
        self.claim = m.Claim(0, US, 0)

    def take(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            if isinstance(command.message, m.Claim):
                self.claim = command.message
        self.core.check()
        return commands

    def register(self, *peers: bytes) -> list[Command]:
        commands: list[Command] = []
        for peer in peers:
            if peer.startswith(b"F"):
                commands += self.frontend(peer, m.RegisterFrontend(m.PROTOCOL_VERSION, peer.decode()))
            else:
                commands += self.worker(peer, m.RegisterWorker(m.PROTOCOL_VERSION, peer.decode(), SPEC))
        return commands

    def frontend(self, peer: bytes, message: m.FromFrontend) -> list[Command]:
        return self.take(self.core.handle(FromFrontend(peer, message, b"setup"), self.now))

    def worker(self, peer: bytes, message: m.FromWorker) -> list[Command]:
        return self.take(self.core.handle(FromWorker(peer, message), self.now))

    def gone(self, peer: bytes) -> list[Command]:
        side: Side = "frontend" if peer.startswith(b"F") else "worker"
        return self.take(self.core.handle(Gone(peer, side), self.now))

    def vote(self, *peers: bytes, boot: int = US, term: int = 0) -> list[Command]:
        votes = [m.Vote(term or self.claim.term, boot, self.claim.number)] * len(peers)
        return [command for peer, vote in zip(peers, votes, strict=True) for command in self.worker(peer, vote)]

    def advance(self, seconds: float) -> list[Command]:
        self.now += seconds
        return self.take(self.core.tick(self.now))

    def open(self, session: str = "s", epoch: int = 0) -> list[Command]:
        return self.frontend(F1, m.Open(session, epoch, "", ""))


def received(commands: list[Command], peer: bytes) -> list[type]:
    return [type(command.message) for command in commands if command.peer == peer]


@pytest.fixture
def standby() -> Broker:
    broker = Broker()
    broker.register(F1, W1, W2)
    return broker


@pytest.fixture
def leader(standby: Broker) -> Iterator[Broker]:
    standby.advance(START_S / 2)
    standby.vote(W1, W2)
    assert standby.core.leads(standby.now)
    yield standby
    standby.core.check()


def test_a_standby_registers_its_peers_and_grants_nothing() -> None:
    broker = Broker()
    assert received(broker.register(F1), F1) == [m.Standby]
    assert received(broker.register(W1), W1)[0] is m.Standby
    assert received(broker.open(), F1) == [m.Standby]
    assert received(broker.frontend(F1, m.FrontendHeartbeat(())), F1) == [m.Standby]
    assert broker.core.leases == {}
    status = broker.core.status(broker.now)
    assert not status.leads
    assert [worker.name for worker in status.workers] == ["W1"]
    assert [frontend.name for frontend in status.frontends] == ["F1"]


def test_unregistered_peers_must_register() -> None:
    broker = Broker()
    assert received(broker.frontend(F1, m.FrontendHeartbeat(())), F1) == [m.Unregistered]
    assert received(broker.worker(W1, m.Vote(1, OTHER, 1)), W1) == [m.Unregistered]


def test_the_winner_welcomes_all_peers_in_its_term(standby: Broker) -> None:
    standby.advance(START_S / 2)
    assert m.Welcome not in received(standby.vote(W1), W1)
    commands = standby.vote(W2)
    welcomes = {one.peer: one.message for one in commands if isinstance(one.message, m.Welcome)}
    assert set(welcomes) == {F1, W1, W2}
    assert {welcome.term for welcome in welcomes.values()} == {1}
    assert received(standby.open(), F1) == [m.Pinned]
    assert standby.core.status(standby.now).leads


def test_a_broker_that_loses_the_lead_drops_all_leases_and_sends_standby(leader: Broker) -> None:
    leader.open()
    assert leader.core.leases
    commands = [*leader.vote(W1, boot=OTHER, term=5), *leader.vote(W2, boot=OTHER, term=5)]
    assert received(commands, F1)[-1] is m.Standby
    assert not leader.core.leases and leader.core.role is Role.FOLLOWING
    assert received(leader.open("s", 1), F1) == [m.Standby]


def test_the_sessions_of_a_worker_that_votes_for_another_are_lost(leader: Broker) -> None:
    """The worker has dropped them itself."""
    leader.open()
    (lease,) = leader.core.leases.values()
    commands = leader.vote(lease.worker, boot=OTHER, term=5)
    assert [one.message for one in commands if isinstance(one.message, m.Lost)] == [m.Lost(lease.lease, "worker-lost")]
    assert m.Unregistered not in received(commands, lease.worker)
    assert leader.core.leads(leader.now) and not leader.core.leases
    leader.advance(0.3)
    welcomed = leader.vote(lease.worker)
    assert received(welcomed, lease.worker) == [m.Welcome]


def test_in_a_lapse_new_sessions_wait_and_others_continue(leader: Broker) -> None:
    leader.open()
    (lease,) = leader.core.leases.values()
    leader.advance(LEASE_S)
    assert leader.core.role is Role.LAPSED
    assert leader.open("late") == []
    forwarded = leader.frontend(F1, m.Bundle(lease.worker, (lease.lease,)))
    assert received(forwarded, lease.worker) == [m.Bundle]
    commands = leader.vote(W1, W2)
    assert received(commands, F1) == [m.Pinned]
    assert set(leader.core.leases) > {lease.lease}


def test_a_new_leader_waits_for_the_votes_of_its_other_workers(standby: Broker) -> None:
    """Two of three workers have voted, and have no slot for the fifth session; the vote of the third follows."""
    standby.register(b"W3")
    standby.advance(START_S / 2)
    standby.vote(W1, W2)
    for session in "abcd":
        assert received(standby.open(session), F1) == [m.Pinned]
    assert received(standby.open("e"), F1) == []
    assert m.Pinned in received(standby.vote(b"W3"), F1)


def test_a_leader_of_long_refuses_at_once(leader: Broker) -> None:
    for _ in range(40):
        leader.advance(0.1)
        leader.vote(W1, W2)
    for session in "abcd":
        leader.open(session)
    assert received(leader.open("e"), F1) == [m.Refused]


def test_a_broker_that_leads_again_waits_again(leader: Broker) -> None:
    for _ in range(40):
        leader.advance(0.1)
        leader.vote(W1, W2)
    leader.vote(W1, W2, boot=OTHER, term=5)
    for _ in range(12):  # the other broker does not renew the votes
        leader.advance(0.1)
    leader.vote(W1, W2)
    assert leader.core.leads(leader.now)
    for session in "abcd":
        leader.open(session)
    assert received(leader.open("e"), F1) == []


def test_in_a_lapse_the_number_of_waiting_sessions_is_limited(leader: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REQUESTS_MAX", 1)
    leader.advance(LEASE_S)
    assert leader.open("a") == []
    (refused,) = leader.open("b", epoch=2)
    assert isinstance(refused.message, m.Refused)
    assert (refused.message.session, refused.message.epoch, refused.message.slug) == ("b", 2, "at-capacity")


def test_messages_that_waited_in_a_lapse_are_dropped_with_the_lead(leader: Broker) -> None:
    leader.advance(LEASE_S)
    leader.open("late")
    commands = leader.advance(LAPSE_S)
    assert received(commands, F1) == [m.Standby]
    leader.advance(LEASE_S)
    assert m.Pinned not in received(leader.vote(W1, W2), F1)


def test_a_leader_that_stalled_grants_nothing(leader: Broker) -> None:
    """The first message after the stall arrives before any tick."""
    leader.now += 30.0
    assert m.Pinned not in received(leader.open(), F1)
    commands = leader.vote(W1, W2, boot=OTHER, term=9)
    assert received(commands, F1)[-1] is m.Standby


def test_a_peer_that_registers_again_holds_nothing(leader: Broker) -> None:
    leader.open()
    (lease,) = leader.core.leases.values()
    commands = leader.register(lease.worker)
    assert m.Lost in received(commands, F1) and not leader.core.leases
    assert received(leader.vote(lease.worker), lease.worker) == []
    assert received(commands, lease.worker).count(m.Welcome) == 1
    assert received(leader.register(F1), F1)[:2] == [m.Standby, m.Welcome]


def test_a_hung_worker_is_adopted_again_after_it_has_registered(leader: Broker) -> None:
    load = m.Load(1, 3, 0.0, 0.0, 0.0, 0.0)
    leader.worker(W1, m.WorkerHeartbeat(load))
    for _ in range(20):
        leader.advance(0.1)
        leader.vote(W1, W2)
        leader.worker(W2, m.WorkerHeartbeat(m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)))
    assert leader.core.leads(leader.now)
    assert set(leader.core.routing.workers) == {W2}
    leader.register(W1)
    assert set(leader.core.routing.workers) == {W1, W2}


def test_the_end_of_a_connection_ends_a_registration(leader: Broker) -> None:
    for peer in (W1, F1):
        leader.gone(peer)
    assert set(leader.core.routing.workers) == {W2} and not leader.core.routing.frontends
    assert received(leader.open(), F1) == [m.Unregistered]


def test_a_vote_for_no_broker_ends_no_session(leader: Broker) -> None:
    """The worker may vote for this broker again."""
    leader.open()
    (lease,) = leader.core.leases.values()
    leader.vote(lease.worker, boot=0)
    assert set(leader.core.leases) == {lease.lease}


def test_a_standby_forwards_nothing(standby: Broker) -> None:
    assert received(standby.frontend(F1, m.Bundle(W1, (1,))), F1) == [m.Standby]
    assert standby.worker(W1, m.Bundle(F1, (1,))) == []


def test_a_registered_worker_of_another_leader_need_not_register(standby: Broker) -> None:
    assert standby.worker(W1, m.WorkerHeartbeat(m.Load(0, 0, 0.0, 0.0, 0.0, 0.0))) == []


def test_a_short_stall_makes_a_leader_lapse_before_its_next_grant(leader: Broker) -> None:
    """Its votes have expired before the next tick. Another broker may have them."""
    leader.now += LEASE_S + 0.1
    assert received(leader.open(), F1) == []
    assert leader.core.role is Role.LAPSED


def test_clients_that_return_in_a_lapse_wait_too(leader: Broker) -> None:
    leader.advance(LEASE_S)
    assert leader.frontend(F1, m.Resume("s", 0)) == []
    assert received(leader.vote(W1, W2), F1) == [m.Refused]


def test_a_frontend_that_disconnects_while_its_message_waits_receives_nothing(leader: Broker) -> None:
    leader.advance(LEASE_S)
    leader.open("late")
    leader.gone(F1)
    assert received(leader.vote(W1, W2), F1) == []
