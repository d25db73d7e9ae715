"""A worker with several brokers: which one it votes for, and which one's sessions it accepts."""

from __future__ import annotations

import pytest

from asr_broker.leadership import LEASE_S
from asr_proto import messages as m
from asr_workers.brokers import VOTE_S, WorkerBrokers
from asr_workers.jobs import CloseSlot, OpenSlot
from asr_workers.outbox import Command, Quit, WorkerPost
from asr_workers.sessions import Sessions

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
SETUP = m.Setup("", True, 8000, None)
A, B = 0, 1
BOOTS = (11, 12)


class Worker:
    def __init__(self, links: int = 2) -> None:
        self.now = 0.0
        self.core = WorkerBrokers(Sessions("w", SPEC, 0.0), links)

    def deliver(self, link: int, message: m.FromBroker) -> list[Command]:
        """A message of a broker arrives; return the commands of the worker."""
        self.core.handle(link, message, SETUP if isinstance(message, m.Grant) else None, (), self.now)
        self.core.check()
        return self.outgoing()

    def outgoing(self) -> list[Command]:
        return self.core.outgoing(self.now)

    def broken(self, link: int) -> list[Command]:
        self.core.broken(link, self.now)
        return self.outgoing()

    def restored(self, link: int) -> list[Command]:
        self.core.restored(link)
        return self.outgoing()

    def tick(self) -> list[Command]:
        self.core.sessions.tick(self.now)
        return self.outgoing()

    def claim(self, link: int, term: int, number: int = 1) -> dict[int, m.Vote]:
        """A broker claims; return the votes that the worker sends."""
        return votes(self.deliver(link, m.Claim(term, BOOTS[link], number)))

    def welcome(self, link: int) -> list[Command]:
        return self.deliver(link, m.Welcome(BOOTS[link], 1.0, 1))

    def grant(self, link: int, number: int = 1, slot: int = 0) -> list[Command]:
        return self.deliver(link, m.Grant(BOOTS[link] << 32 | number, slot, "s", b"F"))


def votes(commands: list[Command]) -> dict[int, m.Vote]:
    return {
        one.link: one.message for one in commands if isinstance(one, WorkerPost) and isinstance(one.message, m.Vote)
    }


@pytest.fixture
def worker() -> Worker:
    worker = Worker()
    for link in (A, B):
        assert votes(worker.deliver(link, m.Standby(BOOTS[link]))) == {link: m.Vote(0, 0, 0)}
    return worker


@pytest.fixture
def serving(worker: Worker) -> Worker:
    """For the first broker, with one session."""
    worker.claim(A, 1)
    worker.welcome(A)
    assert [type(command) for command in worker.grant(A)] == [OpenSlot]
    return worker


# ---- Votes ----


def test_a_vote_is_sent_to_all_brokers(worker: Worker) -> None:
    assert worker.claim(A, 1) == {A: m.Vote(1, 11, 1), B: m.Vote(1, 11, 1)}


def test_one_vote_at_a_time(worker: Worker) -> None:
    worker.claim(A, 1)
    worker.now = VOTE_S - 0.01
    assert worker.claim(B, 2) == {B: m.Vote(1, 11, 1)}
    worker.now = VOTE_S
    assert worker.claim(B, 2)[B] == m.Vote(2, 12, 1)


def test_a_renewed_vote_stays_valid(worker: Worker) -> None:
    worker.claim(A, 1)
    worker.now = 0.5
    assert worker.claim(A, 1, number=2)[B] == m.Vote(1, 11, 2)
    worker.now = 1.0
    assert worker.claim(B, 2)[B].boot == 11


def test_a_vote_is_valid_as_long_as_a_broker_counts_it(worker: Worker) -> None:
    """Until then it is repeated. After that the worker votes for no broker."""
    assert VOTE_S == LEASE_S
    worker.claim(A, 1)
    worker.now = LEASE_S - 0.01
    assert votes(worker.deliver(B, m.Standby(BOOTS[B]))) == {B: m.Vote(1, 11, 1)}
    worker.now = LEASE_S
    assert votes(worker.deliver(B, m.Standby(BOOTS[B]))) == {B: m.Vote(1, 0, 1)}


def test_a_broker_that_has_not_answered_yet_receives_the_vote_that_it_claimed() -> None:
    worker = Worker()
    assert worker.claim(A, 1) == {A: m.Vote(1, 11, 1)}


def test_a_term_has_one_broker(worker: Worker) -> None:
    """No other broker gets the vote in the same term. The same broker may get it again if it was only slow."""
    worker.claim(A, 1)
    worker.now = 5.0
    assert worker.claim(B, 1) == {B: m.Vote(1, 0, 1)}
    assert worker.claim(A, 1, number=9)[A] == m.Vote(1, 11, 9)


# ---- Which broker it serves ----


def test_only_the_broker_it_voted_for_is_served(worker: Worker) -> None:
    """The fence: a broker that has lost its lead without noticing cannot grant a slot here."""
    worker.claim(A, 1)
    worker.welcome(B)
    assert worker.grant(B) == [] and worker.core.leader is None
    worker.welcome(A)
    assert worker.grant(B) == []
    assert [type(command) for command in worker.grant(A)] == [OpenSlot]


def test_a_vote_for_another_ends_the_sessions(serving: Worker) -> None:
    serving.now = VOTE_S
    commands = serving.deliver(B, m.Claim(2, 12, 1))
    assert isinstance(commands[0], CloseSlot)
    assert len(serving.core.sessions) == 0 and serving.core.leader is None
    assert serving.grant(A, 2) == []
    serving.welcome(B)
    assert [type(command) for command in serving.grant(B)] == [OpenSlot]


def test_a_vote_that_expires_ends_no_session(serving: Worker) -> None:
    serving.now = 5.0
    serving.tick()
    assert len(serving.core.sessions) == 1
    serving.claim(A, 1, number=2)
    assert len(serving.core.sessions) == 1


def test_a_broken_connection_frees_the_vote_immediately(serving: Worker) -> None:
    commands = serving.broken(A)
    assert isinstance(commands[0], CloseSlot)
    assert votes(commands) == {B: m.Vote(1, 0, 1)}
    assert serving.claim(B, 2)[B].boot == 12


def test_the_connection_to_the_standby_may_break_and_come_back(serving: Worker) -> None:
    assert serving.broken(B) == []
    assert serving.restored(B) == [WorkerPost(B, m.RegisterWorker(m.PROTOCOL_VERSION, "w", SPEC))]
    serving.deliver(B, m.Unregistered())
    assert len(serving.core.sessions) == 1


def test_messages_from_before_a_disconnect_are_dropped(serving: Worker) -> None:
    """Otherwise a claim that was in transit when its broker died would take the vote."""
    serving.broken(A)
    assert serving.deliver(A, m.Claim(2, 11, 2)) == []
    assert serving.claim(B, 2)[B].boot == 12


def test_brokers_that_do_not_share_the_pool_end_the_worker(worker: Worker) -> None:
    (quit,) = worker.deliver(A, m.Welcome(11, 1.0))
    assert isinstance(quit, Quit) and "--shared-lead" in quit.detail


def test_a_leader_that_sends_standby_is_no_longer_served(serving: Worker) -> None:
    commands = serving.deliver(A, m.Standby(11))
    assert isinstance(commands[0], CloseSlot)
    assert serving.grant(A, 2) == []


def test_any_broker_may_reject_a_worker(serving: Worker) -> None:
    """A standby may, too: a worker of another version cannot work in this pool."""
    assert serving.deliver(B, m.Rejected("version", "its protocol version is 9")) == [Quit("its protocol version is 9")]


# ---- Registering ----


def test_registrations_and_heartbeats_go_to_all_brokers(worker: Worker) -> None:
    fresh = Worker()
    registrations = fresh.tick()
    assert [(post.link, type(post.message)) for post in registrations if isinstance(post, WorkerPost)] == [
        (A, m.RegisterWorker),
        (B, m.RegisterWorker),
    ]
    worker.claim(A, 1)
    worker.welcome(A)
    worker.now = 10.0
    beats = [post for post in worker.tick() if isinstance(post, WorkerPost)]
    assert [(post.link, type(post.message)) for post in beats] == [(A, m.WorkerHeartbeat), (B, m.Vote)]


def test_unregistered_is_answered_with_one_registration(worker: Worker) -> None:
    (again,) = worker.deliver(B, m.Unregistered())
    assert isinstance(again, WorkerPost) and isinstance(again.message, m.RegisterWorker)
    assert worker.deliver(B, m.Unregistered()) == []


def test_one_broker_alone_needs_no_vote() -> None:
    """While it claims no votes, a broken connection changes nothing: the broker answers Unregistered afterwards."""
    worker = Worker(links=1)
    worker.deliver(A, m.Welcome(5, 1.0))
    assert [type(command) for command in worker.grant(A)] == [OpenSlot]
    worker.now = 60.0
    assert worker.broken(A) == []
    assert worker.restored(A) == []
    assert len(worker.core.sessions) == 1
    (closed,) = worker.deliver(A, m.Unregistered())
    assert isinstance(closed, CloseSlot)


def test_a_single_broker_that_claims_votes_is_served_only_with_the_vote() -> None:
    """It shares a pool with a broker whose address this worker does not have."""
    worker = Worker(links=1)
    assert worker.claim(A, 1) == {A: m.Vote(1, 11, 1)}
    worker.deliver(A, m.Welcome(12, 1.0, 1))
    assert worker.core.leader is None
    worker.welcome(A)
    assert [type(command) for command in worker.grant(A)] == [OpenSlot]
    assert isinstance(worker.broken(A)[0], CloseSlot)


def test_nothing_is_sent_over_a_broken_connection(serving: Worker) -> None:
    serving.broken(B)
    serving.now = 10.0
    beats = [post for post in serving.tick() if isinstance(post, WorkerPost)]
    assert [(post.link, type(post.message)) for post in beats] == [(A, m.WorkerHeartbeat)]


def test_messages_of_the_sessions_are_for_the_leader(serving: Worker) -> None:
    serving.core.sessions.drain(serving.now)
    assert serving.outgoing() == [WorkerPost(A, m.Drain())]


def test_frames_go_to_the_leader_before_the_jobs_of_the_same_turn(serving: Worker) -> None:
    """The last frames of a lease are sent before its slot is closed, and so before Closed."""
    lease = BOOTS[A] << 32 | 1
    broken_off = m.Audio(lease, 5, b"")
    serving.core.handle(A, m.Bundle(b"W", (lease,)), None, [broken_off], serving.now)
    post, closed = serving.deliver(A, m.Release(lease))
    assert isinstance(post, WorkerPost) and post.message == m.Bundle(b"F", (lease,))
    assert [type(frame) for frame in post.frames or []] == [m.Failed]
    assert closed == CloseSlot(lease, 0)


def test_a_leader_that_is_gone_receives_nothing_that_was_queued_for_it(serving: Worker) -> None:
    lease = BOOTS[A] << 32 | 1
    serving.core.handle(A, m.Bundle(b"W", (lease,)), None, [m.Audio(lease, 5, b"")], serving.now)
    serving.core.sessions.drain(serving.now)
    commands = serving.broken(A)
    assert [type(command) for command in commands] == [CloseSlot, WorkerPost]
    assert votes(commands) == {B: m.Vote(1, 0, 1)}
