"""One run: a pool, sessions that replace each other, faults, and then a quiet time in which all must be in order."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import soundfile

from asr_workers.engines.fake import FakeConfig
from tests.nemesis.clients import Clock, Manner, StreamClient
from tests.nemesis.faults import Nemesis
from tests.nemesis.history import NATIVE, Conversation, History
from tests.nemesis.links import Links
from tests.nemesis.pool import FAKETIME, Pool, Shape, descriptors
from tests.nemesis.schedule import Delay, JumpClock, Partition, Poison, Profile, Timed
from tests.nemesis.speakers import client
from tests.nemesis.truth import Script, Truth, Utterance, script, truth_of
from tests.nemesis.watch import Watch, is_ready

CAN_FAIL = "poison" in {field.name for field in fields(FakeConfig)}
"""Whether the fake engine can fail at poisonous audio."""
CLIPS = Path(__file__).parents[1] / "data"
LEAD_S = 2.0
"""Time from the first session to the first fault, in seconds."""
CALM_S = 4.0
"""Time of new sessions after the pool is whole again, in seconds: then no fault excuses a violation."""
REST_S = 1.5
"""Pause before the first and the last count of the idle pool's descriptors, in seconds."""
AGAIN_S = 0.2
"""Pause before a seat whose session was refused tries again, in seconds."""
TICK_S = 0.05
PATIENCE_S, FREED_S = 10.0, 45.0
"""Longest wait until descriptors and slots are free, in seconds."""
SHORT_S = 1.0
"""Length of a short session, in seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a run."""

    seed: int
    profile: Profile
    timed: Sequence[Timed] = ()
    shape: Shape = field(default_factory=Shape)
    sessions: int = 50
    shortest_s: float = 5.0
    longest_s: float = 40.0
    manner: Manner = field(default_factory=Manner)
    dialects: Sequence[str] = (NATIVE,)
    """The dialects of the seats, in turn."""
    until_s: float = 0.0
    """How long new sessions begin at least, in seconds since the first one."""


@dataclass(slots=True)
class Outcome:
    """The result of a run."""

    history: History
    log: list[str]
    lateness_s: list[float]
    """How late the test's own event loop woke up, in seconds."""


async def run(plan: Plan) -> Outcome:
    """Perform the whole run. The pool has ended when it returns."""
    began = time.monotonic()
    history = History(workers=plan.shape.workers)
    one = _Run(plan, history, lambda: time.monotonic() - began)
    await one.run()
    return Outcome(history, one.log, one.lateness_s)


def shaped(plan: Plan) -> Plan:
    """The plan with a pool that supports its faults, as far as this machine does."""
    faults = [one.fault for one in plan.timed]
    links = any(isinstance(fault, Partition | Delay) for fault in faults)
    clock = bool(FAKETIME) and any(isinstance(fault, JumpClock) for fault in faults)
    poison = CAN_FAIL and any(isinstance(fault, Poison) for fault in faults)
    return replace(plan, shape=replace(plan.shape, links=links, clock=clock, poison=poison))


def without_jumps(plan: Plan) -> Plan:
    """The control run of a plan: in the same pool, the same faults except jumps of the clock."""
    until_s = max(one.at_s + getattr(one.fault, "for_s", 0.0) for one in plan.timed)
    kept = [one for one in plan.timed if not isinstance(one.fault, JumpClock)]
    return replace(plan, timed=kept, until_s=until_s)


class _Run:
    def __init__(self, plan: Plan, history: History, clock: Clock) -> None:
        self._plan, self._history, self._clock = plan, history, clock
        self._numbers = itertools.count()
        self._replacing = True
        self._recorded: list[tuple[Script, Truth]] = []
        self.log: list[str] = []
        self.lateness_s: list[float] = []

    async def run(self) -> None:
        pool = Pool(self._plan.shape)
        links = Links(pool.run_dir, pool.shape.brokers, pool.name_of) if self._plan.shape.links else None
        if links:
            await links.open()
        try:
            with pool:
                try:
                    await self._serve(pool, links)
                finally:
                    self.log = pool.log_lines()
        finally:
            if links:
                await links.close()

    async def _serve(self, pool: Pool, links: Links | None) -> None:
        await asyncio.to_thread(pool.wait_whole)
        await _ready_everywhere(pool)
        if pool.shape.engine != "fake":
            self._recorded = [await self._undisturbed(pool, clip) for clip in sorted(CLIPS.glob("librivox*.wav"))]
        await asyncio.sleep(REST_S)
        self._history.resting = _descriptors(pool)
        short = bool(self._plan.profile.short_sessions)
        watch = Watch(pool, self._history, self._plan.seed, self._clock, probes=not short and not self._recorded)
        self._history.sessions_from_s = self._clock()
        ticking = asyncio.create_task(self._tick())
        watch.start()
        seats = [asyncio.create_task(self._run_seat(pool, number)) for number in range(self._plan.sessions)]
        if not short:
            await self._strike(pool, links)
            self._replacing = False
        await asyncio.gather(*seats)
        ticking.cancel()
        await watch.end_probes()
        self._history.freed_s = await self._freed(watch)
        await watch.stop()
        await self._rest(pool)
        self._history.end_s = self._clock()

    async def _freed(self, watch: Watch) -> float | None:
        """Wait until no slot is in use. Returns the time, or None if it never happened."""
        deadline = self._clock() + FREED_S
        while self._clock() < deadline:
            await watch.slots()
            if self._history.slots and not self._history.slots[-1].in_use:
                return self._clock()
            await asyncio.sleep(TICK_S)
        return None

    async def _rest(self, pool: Pool) -> None:
        """Wait until each process has no more descriptors than before the first session, at most PATIENCE_S."""
        deadline = self._clock() + PATIENCE_S
        await asyncio.sleep(REST_S)
        while True:
            self._history.rested = now = _descriptors(pool)
            if self._clock() > deadline or all(now[name] <= self._history.resting.get(name, 0) for name in now):
                return
            await asyncio.sleep(4 * TICK_S)

    async def _strike(self, pool: Pool, links: Links | None) -> None:
        begin_s = self._clock() + LEAD_S
        nemesis = Nemesis(pool, links, self._history, self._clock)
        await nemesis.run(self._plan.timed, begin_s, spares=self._plan.profile.spares)
        await asyncio.sleep(max(0.0, begin_s + self._plan.until_s - self._clock()))
        await asyncio.sleep(CALM_S)

    # ---- Clients ----

    async def _run_seat(self, pool: Pool, seat: int) -> None:
        """Run the sessions of a seat, one after the other."""
        drawn = random.Random(f"{self._plan.seed} seat {seat}")
        if self._plan.manner.paced:
            await asyncio.sleep(drawn.random() * LEAD_S)
        while self._replacing:
            number = next(self._numbers)
            if 0 < self._plan.profile.short_sessions <= number:
                return
            dialect = self._plan.dialects[seat % len(self._plan.dialects)]
            said, truth = self._script(number, drawn, dialect)
            conversation = Conversation(number, truth, seat, dialect=dialect)
            self._history.conversations.append(conversation)
            await client(dialect, pool.address, said, conversation, self._plan.manner, self._clock).run()
            if conversation.refused:
                await asyncio.sleep(AGAIN_S)

    def _script(self, number: int, drawn: random.Random, dialect: str) -> tuple[Script, Truth]:
        """The audio of a session and its expected texts. Only the native dialect flushes in the middle."""
        if self._recorded:
            return drawn.choice(self._recorded)
        said = script(self._plan.seed, number, self._plan.shortest_s, self._plan.longest_s)
        if dialect != NATIVE:
            said = Script(said.pcm)
        return said, truth_of(said)

    async def _undisturbed(self, pool: Pool, clip: Path) -> tuple[Script, Truth]:
        """A recording and its transcript without faults."""
        pcm: np.ndarray[tuple[int], np.dtype[np.int16]] = soundfile.read(clip, dtype="int16")[0]
        conversation = Conversation(-1, Truth(len(pcm), ()))
        await StreamClient(pool.url, Script(pcm), conversation, Manner(paced=False), self._clock).run()
        assert conversation.whole, conversation.story()
        finals = tuple(Utterance(final.start_s, final.end_s, final.text) for final in conversation.finals())
        return Script(pcm), Truth(len(pcm), finals, grows=False)

    async def _tick(self) -> None:
        """Measure how late this process's event loop is: its own delays are no gaps of the service."""
        while True:
            due = self._clock() + TICK_S
            await asyncio.sleep(TICK_S)
            self.lateness_s.append(self._clock() - due)


async def _ready_everywhere(pool: Pool) -> None:
    for port in pool.frontends().values():
        while not await is_ready(port):
            await asyncio.sleep(TICK_S)


def _descriptors(pool: Pool) -> dict[str, int]:
    return {name: descriptors(process) for name, process in pool.children().items()}
