"""Who leads, where several brokers share a pool: the votes of the workers, counted. Pure: time is an argument.

- A broker that wants to lead claims a term from every worker, again and again. A worker votes for one broker at a time,
  for LEASE_S on its own clock, and tells every broker so: each of them sees who leads.
- The broker counts a vote from when it sent the claim: it stops leading before the vote can go elsewhere.
- To begin takes the votes of more than half of the workers, to go on those of half: two such sets always share one.
- A leader that loses its votes, but to nobody, has *lapsed*: it grants nothing, and for LAPSE_S it may win them back as
  if nothing had been. So workers that stall cost nothing but the stall.
- A worker that goes away while somebody leads is struck off. Otherwise it counts until it comes back: it may serve
  beyond a broken network, with another leader. Where exactly half are gone they are taken for dead after FORGET_S.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from asr_broker.events import ToWorker
from asr_proto import messages as m

LEASE_S = 0.6
"""How long a vote lives."""
CLAIM_S = 0.2
"""How often a vote is renewed."""
ROUND_S = 0.3
"""A candidate that has not won by then withdraws."""
START_S = 0.3
"""Longest pause before the first claim, so that brokers that start together do not split the votes."""
LAPSE_S = 1.0
"""How long a leader without votes may wait for them."""
FORGET_S = 10.0
"""After this long without half of the workers, gone or hung, the other half may go on."""
NOBODY = 0


class Role(Enum):
    FOLLOWING = "following"
    CLAIMING = "claiming"
    LEADING = "leading"
    LAPSED = "lapsed"


@dataclass(slots=True)
class Elector:
    """A registered worker and its vote, as far as we know."""

    name: str
    joined_at: float
    vote: m.Vote | None = None
    boot: int = NOBODY
    until: float = -math.inf
    heard_at: float | None = None

    @property
    def seen_at(self) -> float:
        """When it last gave a sign of life."""
        return self.joined_at if self.heard_at is None else self.heard_at


@dataclass(frozen=True, slots=True)
class Departed:
    name: str
    at: float


class Leadership:
    """The standing of one broker among its workers. `random` is uniform in [0, 1): it breaks ties."""

    def __init__(self, boot: int, now: float, random: Callable[[], float]) -> None:
        self.boot = boot
        self.role = Role.FOLLOWING
        self.term = 0
        self.leader = NOBODY
        """Who has the votes to lead, as far as we see."""
        self._random = random
        self._electors: dict[bytes, Elector] = {}
        self._departed: dict[bytes, Departed] = {}
        self._term_heard = 0
        self._outrun = False
        """Whether a worker may have voted for another broker in our term or a later one: it would refuse ours."""
        self._number = 0
        self._sent: dict[int, float] = {}
        """When each claim was sent whose votes can still live."""
        self._claim_at = now + random() * START_S
        """When to claim: the first time, or next while we do."""
        self._until = math.inf
        """When a candidate withdraws, or a lapsed leader gives up."""
        self._deadline = now

    # ---- What happens ----

    def joined(self, peer: bytes, name: str, now: float) -> list[ToWorker]:
        """A worker has registered; one that had gone under the same name is this one."""
        self._departed = {gone: one for gone, one in self._departed.items() if one.name != name}
        if peer not in self._electors:
            self._electors[peer] = Elector(name, now)
        claims = [self._claim(peer)] if self.role is not Role.FOLLOWING else []
        return [*claims, *self._advance(now)]

    def left(self, peer: bytes, now: float) -> list[ToWorker]:
        """A worker's connection has ended."""
        self._see(now)
        elector = self._electors.pop(peer, None)
        if elector is not None and self.leader == NOBODY:
            self._departed[peer] = Departed(elector.name, now)
        return self._advance(now)

    def voted(self, peer: bytes, vote: m.Vote, now: float) -> list[ToWorker]:
        """A worker says whom it votes for."""
        elector = self._electors[peer]
        elector.heard_at = now
        if vote.boot == self.boot:
            elector.until = self._sent.get(vote.number, -math.inf) + LEASE_S
        elif vote != elector.vote:  # told again, it lives no longer
            elector.until = now + LEASE_S if vote.boot else -math.inf
        elector.vote, elector.boot = vote, vote.boot
        self._term_heard = max(self._term_heard, vote.term)
        self._outrun |= vote.boot != self.boot and vote.term >= self.term
        return self._advance(now)

    def tick(self, now: float) -> list[ToWorker]:
        return self._advance(now) if now >= self._deadline else []

    def next_deadline(self) -> float:
        return self._deadline

    # ---- How things stand ----

    def knows(self, peer: bytes) -> bool:
        return peer in self._electors

    def has_vote_of(self, peer: bytes, now: float) -> bool:
        """Whether this worker serves us, until we have heard otherwise or its vote ends."""
        elector = self._electors.get(peer)
        return elector is not None and elector.boot == self.boot and elector.until > now

    def leads(self, now: float) -> bool:
        """Whether anything may be granted at this moment."""
        return self.role is Role.LEADING and self._seen(now) == self.boot

    def check(self) -> None:
        """The invariants."""
        assert self.role is not Role.LEADING or self.leader == self.boot
        assert self.term <= self._term_heard
        assert not (self._departed and self.leader)
        assert not self._departed.keys() & self._electors.keys()

    # ---- Counting ----

    def _seen(self, now: float) -> int:
        """The broker with the votes of more than half, or the one that had them and has those of half.

        Two that began with different workers, before they knew of each other's, may come to half each: one yields.
        """
        votes = Counter(elector.boot for elector in self._electors.values() if elector.until > now)
        # To unseat a leader, who has just come counts from its first vote on: else every newcomer would for a moment.
        settled = [one for one in self._electors.values() if one.heard_at is not None or now - one.joined_at >= LEASE_S]
        halves = [boot for boot, count in votes.items() if 2 * count >= len(settled) + len(self._departed)]
        if self.leader in halves:
            return min(halves)
        return next((boot for boot, count in votes.items() if 2 * count > self._total(now)), NOBODY)

    def _total(self, now: float) -> int:
        """Of whose votes more than half are needed. Up to half of them do not count when they hang."""
        total = len(self._electors) + len(self._departed)
        hung = [one for one in self._electors.values() if now - one.seen_at > FORGET_S]
        return total - len(hung) if 2 * (len(self._electors) - len(hung)) >= total else total

    def _see(self, now: float) -> None:
        self.leader = self._seen(now)
        if self.leader:
            self._departed.clear()
        elif 2 * len(self._electors) >= len(self._electors) + len(self._departed):
            self._departed = {peer: one for peer, one in self._departed.items() if now - one.at < FORGET_S}

    # ---- Deciding ----

    def _advance(self, now: float) -> list[ToWorker]:
        self._see(now)
        self._change_role(now)
        claims: list[ToWorker] = []
        if self.role is not Role.FOLLOWING and self._claim_at <= now:
            claims = self._claim_all(now)
        self._deadline = self._next(now)
        return claims

    def _change_role(self, now: float) -> None:
        if self.leader == self.boot:
            self.role, self._until = Role.LEADING, math.inf
        elif self.leader:
            # Should it fall silent, there is nobody to wait for.
            self.role, self._until, self._claim_at = Role.FOLLOWING, math.inf, now
        elif self.role is Role.LEADING:
            self.role, self._until = Role.LAPSED, now + LAPSE_S
        elif self._until <= now:
            # The votes that we did get must end, and another broker's must not end at the same time.
            self.role, self._until, self._claim_at = Role.FOLLOWING, math.inf, now + LEASE_S * (0.5 + self._random())
        elif self.role is Role.FOLLOWING and self._claim_at <= now and self._may_win(now):
            self.role, self._until, self.term = Role.CLAIMING, now + ROUND_S, self._term_heard + 1

    def _may_win(self, now: float) -> bool:
        return 2 * len(self._electors) > self._total(now)

    def _claim_all(self, now: float) -> list[ToWorker]:
        if self._outrun:
            self.term = self._term_heard + 1
        self._term_heard, self._outrun = max(self._term_heard, self.term), False
        self._number += 1
        self._claim_at = now + CLAIM_S
        self._sent = {number: at for number, at in self._sent.items() if now - at < LEASE_S}
        self._sent[self._number] = now
        return [self._claim(peer) for peer in self._electors]

    def _claim(self, peer: bytes) -> ToWorker:
        return ToWorker(peer, m.Claim(self.term, self.boot, self._number))

    def _next(self, now: float) -> float:
        """When something ends or is due. What is due already waits for an event."""
        times = [self._claim_at, self._until]
        times += [elector.until for elector in self._electors.values()]
        times += [elector.joined_at + LEASE_S for elector in self._electors.values() if elector.heard_at is None]
        times += [departed.at + FORGET_S for departed in self._departed.values()]
        return min((time for time in times if time > now), default=math.inf)
