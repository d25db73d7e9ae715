"""Votes and terms: which broker leads after which votes, and a Hypothesis machine of two brokers and real voters."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asr_broker.events import ToWorker
from asr_broker.leadership import CLAIM_S, FORGET_S, LAPSE_S, LEASE_S, ROUND_S, START_S, Leadership, Role
from asr_proto import messages as m
from asr_workers.brokers import WorkerBrokers
from asr_workers.outbox import WorkerPost
from asr_workers.sessions import Sessions

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
US, OTHER = 7, 3
FIRST_S = START_S / 2
"""When a broker with workers sends its first claim, with the random numbers of these tests."""
W1, W2, W3, W4 = b"W1", b"W2", b"W3", b"W4"


class Broker:
    """The core with a clock that tests set, and workers that answer as a test says."""

    def __init__(self, *workers: bytes) -> None:
        self.now = 0.0
        self.core = Leadership(US, self.now, lambda: 0.5)
        self.claims: list[m.Claim] = []
        for worker in workers:
            self.take(self.core.joined(worker, worker.decode(), self.now))

    def take(self, commands: list[ToWorker]) -> list[ToWorker]:
        self.claims += [one.message for one in commands if isinstance(one.message, m.Claim)]
        self.core.check()
        return commands

    def vote(self, *workers: bytes, boot: int = US, term: int | None = None, number: int | None = None) -> None:
        claim = self.claims[-1] if self.claims and boot == US else m.Claim(0, boot, round(self.now * 1e6))
        for worker in workers:
            vote = m.Vote(claim.term if term is None else term, boot, claim.number if number is None else number)
            self.take(self.core.voted(worker, vote, self.now))

    def advance(self, seconds: float, voters: tuple[bytes, ...] = (), boot: int = US) -> None:
        """Let time pass; `voters` renew their votes meanwhile."""
        end = self.now + seconds
        self.vote(*voters, boot=boot)
        while self.now < end:
            self.now = min(end, max(self.now, self.core.next_deadline()), self.now + CLAIM_S / 2)
            self.take(self.core.tick(self.now))
            self.vote(*voters, boot=boot)

    @property
    def leads(self) -> bool:
        return self.core.leads(self.now)


def leader(*workers: bytes) -> Broker:
    broker = Broker(*workers)
    broker.advance(FIRST_S)
    broker.vote(*workers)
    assert broker.leads
    return broker


# ---- To begin ----


def test_more_than_half_of_the_votes_are_needed() -> None:
    broker = Broker(W1, W2, W3, W4)
    broker.advance(FIRST_S)
    assert len(broker.claims) == 4
    broker.vote(W1, W2)
    assert not broker.leads
    broker.vote(W3)
    assert broker.leads and broker.core.term == 1


def test_one_worker_is_a_majority_of_one_and_none_is_not() -> None:
    assert leader(W1).leads
    broker = Broker()
    broker.advance(60.0)
    assert broker.core.role is Role.FOLLOWING and not broker.claims


def test_a_round_that_is_not_won_is_given_up_and_tried_again_in_a_later_term() -> None:
    broker = Broker(W1, W2)
    broker.advance(FIRST_S)
    broker.vote(W1)
    broker.vote(W2, boot=OTHER)
    broker.advance(ROUND_S)
    assert broker.core.role is Role.FOLLOWING
    broker.advance(LEASE_S)
    broker.vote(W1, W2)
    assert broker.leads and broker.core.term > 1


def test_a_broker_that_sees_a_leader_claims_nothing() -> None:
    broker = Broker(W1, W2, W3)
    broker.advance(10.0, voters=(W1, W2), boot=OTHER)
    assert not broker.claims and broker.core.leader == OTHER


def test_freed_votes_are_claimed_at_once() -> None:
    """This makes a takeover fast: the workers' votes show that the leader is gone."""
    broker = Broker(W1, W2, W3)
    broker.advance(10.0, voters=(W1, W2, W3), boot=OTHER)
    broker.vote(W1, W2, boot=0)
    assert [claim.boot for claim in broker.claims] == [US] * 3
    broker.vote(W1, W2)
    assert broker.leads


def test_a_repeated_vote_for_another_is_not_valid_for_longer() -> None:
    """Workers repeat it in place of a heartbeat. Their leader may have stopped sending claims since."""
    broker = Broker(W1)
    broker.vote(W1, boot=OTHER, term=1, number=5)
    broker.now = LEASE_S / 2
    broker.vote(W1, boot=OTHER, term=1, number=5)
    broker.now = LEASE_S
    broker.take(broker.core.tick(broker.now))
    assert broker.core.leader != OTHER and broker.claims


# ---- To go on ----


def test_a_vote_counts_from_its_claim() -> None:
    """This holds for a late vote, too: it begins later at the worker, so it ends later there."""
    broker = Broker(W1)
    broker.advance(FIRST_S)
    sent_at = broker.now
    number = broker.claims[-1].number
    broker.now = sent_at + LEASE_S - 0.1
    broker.vote(W1, number=number)
    assert broker.leads
    broker.now = sent_at + LEASE_S
    assert not broker.leads


def test_half_of_the_votes_are_enough_to_go_on() -> None:
    """If one of two workers hangs, the other keeps its leader."""
    broker = leader(W1, W2)
    broker.advance(10.0, voters=(W1,))
    assert broker.leads


def test_of_two_that_have_half_each_one_yields() -> None:
    """Each began with workers that the other had not seen yet."""
    broker = leader(W1)
    broker.take(broker.core.joined(W2, "W2", broker.now))
    broker.vote(W2, boot=OTHER)
    assert not broker.leads and broker.core.leader == OTHER
    broker = leader(W1)
    broker.take(broker.core.joined(W2, "W2", broker.now))
    broker.vote(W2, boot=US + 1)
    assert broker.leads


def test_newcomers_do_not_unseat_a_leader() -> None:
    broker = leader(W1)
    for worker in (W2, W3, W4):
        claims = broker.take(broker.core.joined(worker, worker.decode(), broker.now))
        assert [claim.peer for claim in claims] == [worker]
        assert broker.leads
    broker.vote(W2, W3, W4)
    assert broker.leads


def test_a_stall_of_all_workers_costs_nothing_but_the_stall() -> None:
    broker = leader(W1, W2)
    term = broker.core.term
    broker.advance(LEASE_S + 0.1)
    assert broker.core.role is Role.LAPSED and not broker.leads
    broker.vote(W1, W2)
    assert broker.leads and broker.core.term == term


def test_a_lapsed_leader_gives_up_in_the_end() -> None:
    broker = leader(W1, W2)
    broker.advance(LEASE_S + LAPSE_S)
    assert broker.core.role is not Role.LAPSED and not broker.leads


def test_a_leader_that_stalled_does_not_lead() -> None:
    """No message and no tick came since, only time passed."""
    broker = leader(W1, W2)
    broker.now += 5.0
    assert not broker.leads
    broker.take(broker.core.tick(broker.now))
    assert broker.core.role is Role.LAPSED
    broker.vote(W1, W2, boot=OTHER, term=9)
    assert broker.core.role is Role.FOLLOWING


def test_a_leader_wins_a_worker_back_with_a_later_term() -> None:
    broker = leader(W1, W2, W3)
    broker.vote(W3, boot=OTHER, term=broker.core.term)
    assert broker.leads
    broker.advance(CLAIM_S, voters=(W1, W2))
    assert broker.core.term == 2 and broker.leads


# ---- Who counts ----


def test_workers_that_die_while_a_broker_leads_no_longer_count() -> None:
    broker = leader(W1, W2, W3)
    for worker in (W3, W2):
        broker.take(broker.core.left(worker, broker.now))
        assert broker.leads


def test_a_minority_refuses() -> None:
    """The other workers may serve another leader beyond a broken network."""
    broker = leader(W1, W2, W3)
    broker.advance(LEASE_S, voters=(W1,))
    assert not broker.leads
    for worker in (W2, W3):
        broker.take(broker.core.left(worker, broker.now))
    broker.advance(600.0, voters=(W1,))
    assert not broker.leads
    broker.take(broker.core.joined(b"W2 again", "W2", broker.now))
    broker.advance(2.0)
    broker.vote(W1, b"W2 again")
    assert broker.leads


def test_exactly_half_may_go_on_after_a_while() -> None:
    """Two hosts have a broker and a worker each, and one host is gone."""
    broker = Broker(W1, W2)
    broker.advance(1.0, voters=(W1, W2), boot=OTHER)
    broker.advance(LEASE_S)
    broker.take(broker.core.left(W1, broker.now))
    broker.advance(FORGET_S - 0.1)
    broker.vote(W2)
    assert not broker.leads
    broker.advance(2.0)
    broker.vote(W2)
    assert broker.leads


def test_a_hung_worker_does_not_keep_a_standby_from_leading() -> None:
    """It is connected, but has not voted for longer than FORGET_S."""
    broker = Broker(W1, W2)
    broker.advance(1.0, voters=(W1, W2), boot=OTHER)
    broker.advance(FORGET_S + 1.0, voters=(W2,), boot=OTHER)
    assert broker.core.leader == OTHER
    broker.vote(W2, boot=0)
    broker.vote(W2)
    assert broker.leads


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_leader_sends_only_its_claims(workers: int) -> None:
    """A claim for each worker every CLAIM_S, and no more."""
    names = tuple(f"W{number}".encode() for number in range(workers))
    broker = leader(*names)
    before = len(broker.claims)
    broker.advance(10.0, voters=names)
    assert len(broker.claims) - before <= 10.0 / CLAIM_S * workers + workers


def test_a_majority_that_comes_after_the_round_still_counts() -> None:
    """Its votes are valid for a while after the broker gave up."""
    broker = Broker(W1, W2)
    broker.advance(FIRST_S)
    broker.advance(ROUND_S)
    assert broker.core.role is Role.FOLLOWING
    broker.vote(W1, W2)
    assert broker.leads


def test_a_broker_that_lost_the_lead_claims_as_soon_as_the_next_leader_is_gone() -> None:
    broker = leader(W1, W2)
    broker.vote(W1, W2, boot=OTHER, term=9)
    claims = len(broker.claims)
    broker.vote(W1, W2, boot=0)
    assert len(broker.claims) == claims + 2 and broker.claims[-1].term == 10


def test_a_supporter_that_leaves_a_leader_does_not_count_against_it() -> None:
    broker = leader(W1, W2, W3)
    broker.vote(W3, boot=0)
    broker.take(broker.core.left(W2, broker.now))
    assert broker.leads


def test_after_a_lost_round_a_broker_pauses() -> None:
    """Its votes expire meanwhile. The pause is random, 0.5 to 1.5 times LEASE_S, so that two brokers do not collide."""
    broker = Broker(W1, W2)
    broker.advance(FIRST_S + ROUND_S)
    claims = len(broker.claims)
    broker.advance(LEASE_S - 0.05)
    assert len(broker.claims) == claims
    broker.advance(0.1)
    assert len(broker.claims) == claims + 2 and broker.core.term == 2


def test_a_minority_claims_nothing() -> None:
    broker = Broker(W1, W2, W3)
    for worker in (W2, W3):
        broker.take(broker.core.left(worker, broker.now))
    broker.advance(2.0)
    assert not broker.claims


def test_a_worker_that_comes_back_counts_once() -> None:
    """It has a new connection and its old name."""
    broker = Broker(W1, W2, W3)
    for worker in (W2, W3):
        broker.take(broker.core.left(worker, broker.now))
    for worker in (W2, W3):
        broker.take(broker.core.joined(worker + b" again", worker.decode(), broker.now))
    broker.advance(FIRST_S)
    broker.vote(W1, b"W2 again")
    assert broker.leads


# ---- Two brokers and their voters ----


class TwoBrokers(RuleBasedStateMachine):
    """Under any delays, stalls and broken connections, each vote that a broker counts is held for it by the worker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.brokers = [Leadership(boot, 0.0, lambda: 0.37) for boot in (11, 12)]
        self.workers = [WorkerBrokers(Sessions(f"w{n}", SPEC, 0.0), 2) for n in range(3)]
        self.links = {(b, w): True for b in range(2) for w in range(3)}
        self.down: dict[tuple[int, int], deque[m.Claim]] = {link: deque() for link in self.links}
        self.up: dict[tuple[int, int], deque[m.FromWorker]] = {link: deque() for link in self.links}
        for b, w in self.links:
            self.up[b, w].append(self.workers[w]._registration())

    def claimed(self, b: int, commands: list[ToWorker]) -> None:
        for command in commands:
            link = b, int(command.peer)
            if self.links[link]:
                assert isinstance(command.message, m.Claim)
                self.down[link].append(command.message)

    def post(self, w: int) -> None:
        for command in self.workers[w].outgoing(self.now):
            if isinstance(command, WorkerPost):
                self.up[command.link, w].append(command.message)

    @rule(b=st.integers(0, 1), w=st.integers(0, 2))
    def deliver_up(self, b: int, w: int) -> None:
        if self.links[b, w] and self.up[b, w]:
            message = self.up[b, w].popleft()
            peer = str(w).encode()
            if isinstance(message, m.RegisterWorker):
                self.workers[w].handle(b, m.Standby(self.brokers[b].boot), None, (), self.now)
                self.post(w)
                self.claimed(b, self.brokers[b].joined(peer, f"w{w}", self.now))
            elif isinstance(message, m.Vote) and self.brokers[b].has_voter(peer):
                self.claimed(b, self.brokers[b].voted(peer, message, self.now))

    @rule(b=st.integers(0, 1), w=st.integers(0, 2))
    def deliver_down(self, b: int, w: int) -> None:
        if self.links[b, w] and self.down[b, w]:
            claim = self.down[b, w].popleft()
            self.workers[w].handle(b, claim, None, (), self.now)
            self.post(w)

    @rule()
    def deliver_all(self) -> None:
        for link in self.links:
            while self.links[link] and (self.up[link] or self.down[link]):
                self.deliver_up(*link)
                self.deliver_down(*link)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 0.5, 0.7, 2.0]), running=st.sets(st.integers(0, 1)))
    def time_passes(self, seconds: float, running: set[int]) -> None:
        """Let time pass; a broker that is not `running` stalls."""
        self.now += seconds
        for b in running:
            self.claimed(b, self.brokers[b].tick(self.now))

    @rule(b=st.integers(0, 1), w=st.integers(0, 2))
    def connection_breaks(self, b: int, w: int) -> None:
        if self.links[b, w]:
            self.links[b, w] = False
            self.up[b, w].clear()
            self.down[b, w].clear()
            self.claimed(b, self.brokers[b].left(str(w).encode(), self.now))
            self.workers[w].broken(b, self.now)
            self.post(w)

    @rule(b=st.integers(0, 1), w=st.integers(0, 2))
    def connection_heals(self, b: int, w: int) -> None:
        if not self.links[b, w]:
            self.links[b, w] = True
            self.up[b, w].clear()
            self.workers[w].restored(b)
            self.post(w)

    @precondition(lambda self: all(self.links.values()))
    @rule()
    def peace_finds_one_leader(self) -> None:
        for _ in range(400):
            self.time_passes(0.02, {0, 1})
            self.deliver_all()
        (leader,) = [broker for broker in self.brokers if broker.leads(self.now)]
        assert all(leader.has_vote_of(str(w).encode(), self.now) for w in range(3))

    @invariant()
    def a_counted_vote_is_held(self) -> None:
        for broker in self.brokers:
            broker.check()
            for w, worker in enumerate(self.workers):
                if broker.has_vote_of(str(w).encode(), self.now):
                    assert worker._boot == broker.boot and self.now < worker._until


TwoBrokers.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestTwoBrokers = TwoBrokers.TestCase


def test_a_vote_of_an_impossible_term_uses_up_no_terms() -> None:
    """With the largest term in use, a broker could not claim a later one."""
    broker = Broker(W1, W2, W3)
    broker.vote(W3, boot=OTHER, term=m.INT_MAX)
    broker.advance(FIRST_S + CLAIM_S)
    assert broker.claims and broker.claims[-1].term == 1
    broker.vote(W1, W2)
    assert broker.leads
