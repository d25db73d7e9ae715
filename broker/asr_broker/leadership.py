"""Which broker leads, where several share a pool: counts the votes of the workers. Pure: time is an argument.

- A broker that wants to lead sends every worker a Claim of a term, every CLAIM_S. A worker votes for one broker at a
  time, for LEASE_S on its own clock, and sends its vote to every broker. So each broker sees which one leads.
- The broker counts a vote from the time when it sent the claim. It stops leading before the vote can go elsewhere.
- A broker begins to lead with the votes of more than half of the workers and goes on with those of half. Two such sets
  always share a worker.
- A leader whose votes expire, but go to no other broker, has *lapsed*. It grants nothing. Within LAPSE_S it may win the
  votes back in the same term. So no session moves when all workers stall for a moment.
- A worker that disconnects while a broker leads no longer counts. One that disconnects while none leads counts until it
  comes back: it may serve another leader beyond a broken network. Where exactly half of the workers are gone, they
  count as dead after FORGET_S.

Terms and majorities are Raft's (D. Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 3.4), and so are
the leader's lease (6.4.1) and voters that reject claims while they have a leader (4.2.3). The differences:

- The voters are the workers; the candidates are the brokers, which do not vote. There is no log and no disk.
- A vote is itself the lease: it expires, and each claim renews it. The lease lies at the voter, which takes sessions
  only from the broker that it voted for.
- Instead of the pre-vote (9.6), which asks voters before a term is raised, workers send their votes to all brokers. A
  broker claims a term only while it sees no leader and enough workers to win.
- Half of the votes keep a leader, and a lapsed leader may go on in its term.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from asr_broker.events import ToWorker
from asr_process.states import StateMachine, TransitionTable
from asr_proto import messages as m

LEASE_S = 0.6
"""How long a vote is valid."""
CLAIM_S = 0.2
"""How often a vote is renewed."""
ROUND_S = 0.3
"""A broker that has not won after claiming for this long withdraws."""
START_S = 0.3
"""Longest pause before the first claim. The pause is random, so brokers that start together do not split the votes."""
LAPSE_S = 1.0
"""How long a lapsed leader may win its votes back."""
FORGET_S = 10.0
"""When half of the workers have been gone or hung for this long, the other half may elect a leader."""
NO_BROKER = 0
TERMS_AHEAD_MAX = 2**32
"""A vote whose term is so far beyond all terms seen is ignored: one bad worker could use up the terms."""


class Role(Enum):
    FOLLOWING = "following"
    CLAIMING = "claiming"
    LEADING = "leading"
    LAPSED = "lapsed"


class RoleEvent(Enum):
    """The events of LEADERSHIP: what makes a broker change its role."""

    CLAIM = "claim"
    """No broker leads, and enough workers are registered to win."""
    WIN = "win"
    """This broker has the votes to lead."""
    OTHER_LEADS = "other-leads"
    VOTES_EXPIRE = "votes-expire"
    """Too few of its votes are valid, and no other broker leads."""
    GIVE_UP = "give-up"
    """The votes did not come within ROUND_S, or did not come back within LAPSE_S."""


LEADERSHIP: TransitionTable[Role, RoleEvent] = TransitionTable(
    "leadership",
    Role.FOLLOWING,
    {
        Role.FOLLOWING: {RoleEvent.CLAIM: Role.CLAIMING, RoleEvent.WIN: Role.LEADING},
        Role.CLAIMING: {
            RoleEvent.WIN: Role.LEADING,
            RoleEvent.OTHER_LEADS: Role.FOLLOWING,
            RoleEvent.GIVE_UP: Role.FOLLOWING,
        },
        Role.LEADING: {RoleEvent.OTHER_LEADS: Role.FOLLOWING, RoleEvent.VOTES_EXPIRE: Role.LAPSED},
        Role.LAPSED: {
            RoleEvent.WIN: Role.LEADING,
            RoleEvent.OTHER_LEADS: Role.FOLLOWING,
            RoleEvent.GIVE_UP: Role.FOLLOWING,
        },
    },
)
"""FOLLOWING may WIN: a vote for the last claim may arrive after the broker gave up, and still be valid."""


@dataclass(slots=True)
class Voter:
    """A registered worker and its last vote."""

    name: str
    joined_at: float
    vote: m.Vote | None = None
    boot: int = NO_BROKER
    until: float = -math.inf
    voted_at: float | None = None
    """When its last vote arrived."""

    @property
    def last_message_at(self) -> float:
        return self.joined_at if self.voted_at is None else self.voted_at


@dataclass(frozen=True, slots=True)
class Departed:
    """A worker that disconnected while no broker led."""

    name: str
    at: float


class Leadership:
    """The role of one broker. `random` returns a number in [0, 1), which breaks ties between brokers."""

    def __init__(self, boot: int, now: float, random: Callable[[], float]) -> None:
        self.boot = boot
        self._machine = StateMachine(LEADERSHIP)
        self.term = 0
        self.leader = NO_BROKER
        """The broker that has the votes to lead, as far as this one sees."""
        self._random = random
        self._voters: dict[bytes, Voter] = {}
        self._departed: dict[bytes, Departed] = {}
        self._term_seen = 0
        self._contested = False
        """Whether a worker may have voted for another broker in this broker's term or later. It rejects a claim of this
        term, so the next claim needs a later one."""
        self._number = 0
        self._sent: dict[int, float] = {}
        """By number: when each claim was sent whose votes may still be valid."""
        self._claim_at = now + random() * START_S
        """When to send the next claim."""
        self._until = math.inf
        """When a claiming or lapsed broker gives up."""
        self._deadline = now

    @property
    def role(self) -> Role:
        return self._machine.state

    # ---- Events ----

    def joined(self, peer: bytes, name: str, now: float) -> list[ToWorker]:
        """A worker registered. It replaces a departed one of the same name."""
        self._departed = {gone: one for gone, one in self._departed.items() if one.name != name}
        if peer not in self._voters:
            self._voters[peer] = Voter(name, now)
        claims = [self._claim(peer)] if self.role is not Role.FOLLOWING else []
        return [*claims, *self._advance(now)]

    def left(self, peer: bytes, now: float) -> list[ToWorker]:
        """A worker's connection has ended."""
        self._count(now)
        voter = self._voters.pop(peer, None)
        if voter is not None and self.leader == NO_BROKER:
            self._departed[peer] = Departed(voter.name, now)
        return self._advance(now)

    def voted(self, peer: bytes, vote: m.Vote, now: float) -> list[ToWorker]:
        """A worker sent its vote, which may be for another broker or for none."""
        if vote.term > self._term_seen + TERMS_AHEAD_MAX:
            return self._advance(now)
        voter = self._voters[peer]
        voter.voted_at = now
        if vote.boot == self.boot:
            voter.until = self._sent.get(vote.number, -math.inf) + LEASE_S
        elif vote != voter.vote:  # a repeated vote is not valid for longer
            voter.until = now + LEASE_S if vote.boot else -math.inf
        voter.vote, voter.boot = vote, vote.boot
        self._term_seen = max(self._term_seen, vote.term)
        self._contested |= vote.boot != self.boot and vote.term >= self.term
        return self._advance(now)

    def tick(self, now: float) -> list[ToWorker]:
        return self._advance(now) if now >= self._deadline else []

    def next_deadline(self) -> float:
        return self._deadline

    # ---- State ----

    def has_voter(self, peer: bytes) -> bool:
        return peer in self._voters

    def has_vote_of(self, peer: bytes, now: float) -> bool:
        """Whether the last vote of this worker is for this broker, and valid."""
        voter = self._voters.get(peer)
        return voter is not None and voter.boot == self.boot and voter.until > now

    def leads(self, now: float) -> bool:
        """Whether this broker may grant leases at this moment."""
        return self.role is Role.LEADING and self._elected(now) == self.boot

    def check(self) -> None:
        """The invariants."""
        assert self.role is not Role.LEADING or self.leader == self.boot
        assert self.term <= self._term_seen
        assert not (self._departed and self.leader)
        assert not self._departed.keys() & self._voters.keys()

    # ---- Counting ----

    def _elected(self, now: float) -> int:
        """The broker with the votes of more than half of the workers, or the leader while it has the votes of half.

        Two brokers that began with different workers may have half each: then the broker with the lower `boot` leads.
        """
        votes = Counter(voter.boot for voter in self._voters.values() if voter.until > now)
        # A new worker counts from its first vote on, or after LEASE_S: its registration alone deposes no leader.
        settled = [one for one in self._voters.values() if one.voted_at is not None or now - one.joined_at >= LEASE_S]
        halves = [boot for boot, count in votes.items() if 2 * count >= len(settled) + len(self._departed)]
        if self.leader in halves:
            return min(halves)
        return next((boot for boot, count in votes.items() if 2 * count > self._total(now)), NO_BROKER)

    def _total(self, now: float) -> int:
        """The number of workers of which more than half must vote. Hung workers do not count, up to half of all."""
        total = len(self._voters) + len(self._departed)
        hung = [one for one in self._voters.values() if now - one.last_message_at > FORGET_S]
        return total - len(hung) if 2 * (len(self._voters) - len(hung)) >= total else total

    def _count(self, now: float) -> None:
        self.leader = self._elected(now)
        if self.leader:
            self._departed.clear()
        elif 2 * len(self._voters) >= len(self._voters) + len(self._departed):
            self._departed = {peer: one for peer, one in self._departed.items() if now - one.at < FORGET_S}

    # ---- Deciding ----

    def _advance(self, now: float) -> list[ToWorker]:
        self._count(now)
        event = self._event(now)
        if event is not None:
            self._fire(event, now)
        if self.leader not in (NO_BROKER, self.boot):
            self._claim_at = now  # when this leader loses its votes, the claim is sent without a pause
        claims: list[ToWorker] = []
        if self.role is not Role.FOLLOWING and self._claim_at <= now:
            claims = self._claim_all(now)
        self._deadline = self._next(now)
        return claims

    def _event(self, now: float) -> RoleEvent | None:
        """The event that changes this broker's role, if there is one."""
        if self.leader == self.boot:
            return None if self.role is Role.LEADING else RoleEvent.WIN
        if self.leader:
            return None if self.role is Role.FOLLOWING else RoleEvent.OTHER_LEADS
        if self.role is Role.LEADING:
            return RoleEvent.VOTES_EXPIRE
        if self._until <= now:
            return RoleEvent.GIVE_UP
        may_claim = self.role is Role.FOLLOWING and self._claim_at <= now and self._may_win(now)
        return RoleEvent.CLAIM if may_claim else None

    def _fire(self, event: RoleEvent, now: float) -> None:
        """Change the role; set when this broker gives up in it."""
        self._machine.fire(event, now)
        self._until = math.inf
        match event:
            case RoleEvent.CLAIM:
                self._until, self.term = now + ROUND_S, self._term_seen + 1
            case RoleEvent.VOTES_EXPIRE:
                self._until = now + LAPSE_S
            case RoleEvent.GIVE_UP:
                # The votes for this broker must expire first. Chance keeps two brokers from claiming at the same time.
                self._claim_at = now + LEASE_S * (0.5 + self._random())

    def _may_win(self, now: float) -> bool:
        return 2 * len(self._voters) > self._total(now)

    def _claim_all(self, now: float) -> list[ToWorker]:
        if self._contested:
            self.term = self._term_seen + 1
        self._term_seen, self._contested = max(self._term_seen, self.term), False
        self._number += 1
        self._claim_at = now + CLAIM_S
        self._sent = {number: at for number, at in self._sent.items() if now - at < LEASE_S}
        self._sent[self._number] = now
        return [self._claim(peer) for peer in self._voters]

    def _claim(self, peer: bytes) -> ToWorker:
        return ToWorker(peer, m.Claim(self.term, self.boot, self._number))

    def _next(self, now: float) -> float:
        """The next time in the future at which something is due. What is overdue waits for an event."""
        times = [self._claim_at, self._until]
        times += [voter.until for voter in self._voters.values()]
        times += [voter.joined_at + LEASE_S for voter in self._voters.values() if voter.voted_at is None]
        times += [departed.at + FORGET_S for departed in self._departed.values()]
        return min((time for time in times if time > now), default=math.inf)
