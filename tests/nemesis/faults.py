"""The nemesis injects the faults of the schedule into the pool.

For each fault it records when it began, when it ended, and when the pool was whole again. It checks nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import psutil

from tests.nemesis import attackers, cgroup
from tests.nemesis.clients import Clock, Manner, StreamClient
from tests.nemesis.history import Absence, Conversation, Failed, History, Poisoned, Strike
from tests.nemesis.impossible import FaultImpossible
from tests.nemesis.links import Links
from tests.nemesis.pool import Pool, open_files_max
from tests.nemesis.schedule import (
    BadPeer,
    Delay,
    ExhaustDescriptors,
    Fault,
    FillDisk,
    Flood,
    JumpClock,
    Kill,
    KillSupervisor,
    LimitMemory,
    Partition,
    Pause,
    Poison,
    Restart,
    Timed,
    role_of,
)
from tests.nemesis.truth import Truth, poisonous

POLL_S = 0.05
VICTIM_S = 12.0
"""Longest wait for a victim that its supervisor has not started again yet, in seconds."""
WHOLE_S = 60.0
"""Longest wait for the pool to be whole again, in seconds; then the run continues."""
LOG_S = 0.3
"""Time from the full disk to the event that causes a log line, in seconds."""
ORPHANS_S = 30.0
"""Longest wait for the end of the children of a killed supervisor, in seconds; then they are killed."""
FOREVER = float("inf")


class Nemesis:
    """Injects the faults of one run."""

    def __init__(self, pool: Pool, links: Links | None, history: History, clock: Clock) -> None:
        self._pool, self._links, self._history, self._clock = pool, links, history, clock
        self._striking: set[asyncio.Task[None]] = set()

    async def run(self, timed: Sequence[Timed], begin_s: float, *, spares: bool) -> None:
        """Inject every fault at its time; with `spares`, only when another process can take over.

        Returns when the pool is whole again.
        """
        for one in timed:
            await asyncio.sleep(max(0.0, begin_s + one.at_s - self._clock()))
            fault = await self._spared(one.fault) if spares else one.fault
            task = asyncio.create_task(self._strike(fault))
            self._striking.add(task)
            if spares:
                await self._struck(fault, task)
        if self._striking:
            await asyncio.gather(*self._striking)

    async def _struck(self, fault: Fault, task: asyncio.Task[None]) -> None:
        """Wait for the end of the fault. After a worker's kill, the next fault need not wait for the restart."""
        if isinstance(fault, Kill) and role_of(fault.name) == "worker":
            await asyncio.sleep(POLL_S)
        else:
            await asyncio.wait([task])

    async def _spared(self, fault: Fault) -> Fault:
        """Wait until sessions can survive the fault: for a worker's kill, another is registered; else all are.

        Returns the fault, for a registered worker.
        """
        if not (isinstance(fault, Kill) and role_of(fault.name) == "worker"):
            await self._until_whole()
            return fault
        deadline = self._clock() + WHOLE_S
        while self._clock() < deadline:
            names = await self._serving_workers()
            if len(names) >= 2:
                return fault if fault.name in names else Kill(names[0])
            await asyncio.sleep(POLL_S)
        return fault

    async def _serving_workers(self) -> list[str]:
        """Names of the registered workers whose process runs."""
        status = await asyncio.to_thread(self._pool.status)
        children = self._pool.children()
        known = [worker.name for worker in status.workers if not worker.draining] if status else []
        return sorted(name for name in known if name in children)

    async def _strike(self, fault: Fault) -> None:
        strike = Strike(fault, self._clock(), FOREVER, FOREVER)
        try:
            await self._perform(strike)
        except FaultImpossible as reason:
            with suppress(ValueError):
                self._history.strikes.remove(strike)
            self._history.skipped.append((fault, str(reason)))
            return
        strike.released_s = min(strike.released_s, self._clock())
        await self._until_whole()
        strike.whole_s = self._clock()

    async def _perform(self, strike: Strike) -> None:
        match strike.fault:
            case Kill(name):
                await self._kill(strike, name)
            case Restart(name):
                await self._restart(strike, name)
            case Pause(name, for_s):
                await self._pause(strike, name, for_s)
            case Partition(name, for_s):
                await self._partition(strike, name, for_s)
            case Delay(name, delay_ms, for_s):
                await self._delay(strike, name, delay_ms, for_s)
            case JumpClock(by_s, for_s):
                await self._jump_clock(strike, by_s, for_s)
            case FillDisk(name, for_s):
                await self._fill_disk(strike, name, for_s)
            case ExhaustDescriptors(name, for_s):
                await self._exhaust(strike, name, for_s)
            case KillSupervisor():
                await self._kill_supervisor(strike)
            case LimitMemory(name, more_mb, for_s):
                await self._limit_memory(strike, name, more_mb, for_s)
            case Flood(kind, for_s):
                await self._attack(strike, attackers.flooder(self._pool, kind), for_s)
            case BadPeer(side, for_s):
                await self._attack(strike, attackers.bad_peer(self._pool, side, round(strike.at_s)), for_s)
            case Poison(value):
                await self._poison(strike, value)

    # ---- Each fault ----

    async def _kill(self, strike: Strike, name: str) -> None:
        victim = await self._victim(name)
        self._begin(strike)
        _signal(victim, signal.SIGKILL)
        strike.released_s = self._clock()
        await self._replaced(name, victim, self._clock())

    async def _restart(self, strike: Strike, name: str) -> None:
        victim = await self._victim(name)
        self._begin(strike)
        _signal(victim, signal.SIGTERM)
        while _lives(victim):
            await asyncio.sleep(POLL_S)
        strike.released_s = self._clock()
        await self._replaced(name, victim, self._clock())

    async def _pause(self, strike: Strike, name: str, for_s: float) -> None:
        victim = await self._victim(name)
        self._begin(strike)
        _signal(victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            _signal(victim, signal.SIGCONT)

    async def _partition(self, strike: Strike, name: str, for_s: float) -> None:
        condition = self._link().of(name)
        self._begin(strike)
        condition.passes.clear()
        try:
            await asyncio.sleep(for_s)
        finally:
            condition.passes.set()

    async def _delay(self, strike: Strike, name: str, delay_ms: float, for_s: float) -> None:
        condition = self._link().of(name)
        self._begin(strike)
        condition.delay_s = delay_ms / 1000
        try:
            await asyncio.sleep(for_s)
        finally:
            condition.delay_s = 0.0

    async def _jump_clock(self, strike: Strike, by_s: float, for_s: float) -> None:
        if not self._pool.shape.clock:
            raise FaultImpossible("the package libfaketime is not installed")
        self._begin(strike)
        self._pool.set_clock(by_s)
        try:
            await asyncio.sleep(for_s)
        finally:
            self._pool.set_clock(0)

    async def _fill_disk(self, strike: Strike, name: str, for_s: float) -> None:
        victim = await self._victim(name)
        self._begin(strike)
        async with self._full_disk():
            await asyncio.sleep(LOG_S)
            _signal(victim, signal.SIGKILL)
            killed_s = self._clock()
            await asyncio.sleep(for_s)
        strike.released_s = self._clock()
        await self._replaced(name, victim, killed_s)

    @asynccontextmanager
    async def _full_disk(self) -> AsyncIterator[None]:
        """Set the file size limit to 0: writes fail as on a full disk, also in new children."""
        supervisor = self._pool.supervisor()
        soft, hard = supervisor.rlimit(psutil.RLIMIT_FSIZE)

        def allow(size: int) -> None:
            for process in (supervisor, *self._pool.children().values()):
                with suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (size, hard))

        allow(0)
        try:
            yield
        finally:
            allow(soft)

    async def _exhaust(self, strike: Strike, name: str, for_s: float) -> None:
        victim = await self._victim(name)
        self._begin(strike)
        try:
            soft, hard = open_files_max(victim)
            held = {int(number) for number in os.listdir(f"/proc/{victim.pid}/fd")}
            lowest_free = next(number for number in range(len(held) + 1) if number not in held)
            victim.rlimit(psutil.RLIMIT_NOFILE, (lowest_free, hard))
        except (psutil.Error, OSError) as error:
            raise FaultImpossible(f"{name} died meanwhile") from error
        try:
            await asyncio.sleep(for_s)
        finally:
            with suppress(psutil.Error):
                victim.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))

    async def _kill_supervisor(self, strike: Strike) -> None:
        self._pool.children()  # so that all of them are known by name
        supervisor = await self._supervisor()
        self._begin(strike)
        names = list(self._pool.children())
        _signal(supervisor, signal.SIGKILL)
        deadline = self._clock() + ORPHANS_S
        while (left := self._pool.left_over()) and self._clock() < deadline:
            await asyncio.sleep(POLL_S)
        strike.released_s = self._clock()
        strike.said = f"children ended after {strike.released_s - strike.at_s:.1f} s"
        for child in left:
            _signal(child, signal.SIGKILL)
        psutil.wait_procs(left, timeout=VICTIM_S)
        self._pool.start_again()
        await asyncio.gather(*(self._replaced(name, None, strike.at_s) for name in names))

    async def _supervisor(self) -> psutil.Process:
        """Wait until a supervisor runs. Raises FaultImpossible."""
        supervisor = self._pool.supervisor()
        if not _lives(supervisor):
            raise FaultImpossible("the supervisor is not running")
        return supervisor

    async def _limit_memory(self, strike: Strike, name: str, more_mb: float, for_s: float) -> None:
        victim = await self._victim(name)
        with cgroup.limited(victim.pid, more_mb):
            self._begin(strike)
            await asyncio.sleep(for_s)
        strike.released_s = self._clock()
        if not _lives(victim):
            strike.said = "it died"
            await self._replaced(name, victim, strike.at_s)

    async def _attack(self, strike: Strike, attacker: attackers.Attacker, for_s: float) -> None:
        self._begin(strike)
        async with attacker:
            await asyncio.sleep(for_s)
        strike.said = attacker.said

    async def _poison(self, strike: Strike, value: int) -> None:
        if not self._pool.shape.poison:
            raise FaultImpossible("the fake engine of this installation cannot fail at a sample")
        self._begin(strike)
        said = poisonous(value, round(1000 * strike.at_s))
        conversation = Conversation(-1, Truth(len(said.pcm), ()))
        speaking = asyncio.create_task(StreamClient(self._pool.url, said, conversation, Manner(), self._clock).run())
        deaths = await self._deaths_until(speaking)
        strike.said = f"{_end_of(conversation)} after {deaths} deaths"
        self._history.poisoned.append(Poisoned(strike, _end_of(conversation), deaths))

    async def _deaths_until(self, done: asyncio.Task[None]) -> int:
        """How many worker processes end until the task has ended."""
        seen: set[int] = set()
        while not done.done():
            running = {child.pid for name, child in self._pool.children().items() if role_of(name) == "worker"}
            seen |= running
            await asyncio.sleep(POLL_S)
        return sum(not _lives_pid(pid) for pid in seen)

    # ---- Processes ----

    def _begin(self, strike: Strike) -> None:
        strike.at_s = self._clock()
        self._history.strikes.append(strike)

    def _link(self) -> Links:
        if self._links is None:
            raise FaultImpossible("the pool runs without links that could be cut")
        return self._links

    async def _victim(self, name: str) -> psutil.Process:
        """Wait until the victim runs. Raises FaultImpossible."""
        deadline = self._clock() + VICTIM_S
        while self._clock() < deadline:
            if victim := self._pool.children().get(name):
                return victim
            await asyncio.sleep(POLL_S)
        raise FaultImpossible(f"{name} is not running")

    async def _replaced(self, name: str, victim: psutil.Process | None, gone_s: float) -> None:
        """Wait until the supervisor has started it again, and record the time without a process of that name."""
        deadline = self._clock() + WHOLE_S
        while self._clock() < deadline:
            new = self._pool.children().get(name)
            if new is not None and (victim is None or new.pid != victim.pid):
                with suppress(psutil.Error):
                    began_s = self._clock() - (time.time() - new.create_time())
                    self._history.absences.append(Absence(name, gone_s, max(gone_s, began_s - POLL_S)))
                return
            await asyncio.sleep(POLL_S)

    async def _until_whole(self) -> None:
        deadline = self._clock() + WHOLE_S
        while self._clock() < deadline and not await asyncio.to_thread(self._pool.whole):
            await asyncio.sleep(2 * POLL_S)


def _signal(victim: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        victim.send_signal(number)


def _end_of(conversation: Conversation) -> str:
    """The code of its error, or how else it ended."""
    last = conversation.events[-1]
    return last.code if isinstance(last, Failed) else type(last).__name__.lower()


def _lives_pid(pid: int) -> bool:
    try:
        return _lives(psutil.Process(pid))
    except psutil.Error:
        return False


def _lives(victim: psutil.Process) -> bool:
    try:
        return bool(victim.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
