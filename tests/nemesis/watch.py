"""Measurements during a run: slots, memory, readiness, and probes that check whether readiness is correct."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import psutil

from tests.nemesis.clients import Clock, Manner, StreamClient
from tests.nemesis.history import Conversation, History, Look, Memory, Probe, Slots
from tests.nemesis.pool import BAD, Pool, descriptors
from tests.nemesis.truth import script, truth_of

STATUS_S = 0.5
MEMORY_S = 1.0
LOOK_S = 0.25
PROBE_S = 1.0
ANSWER_S = 1.0
"""Longest wait for an answer to GET /ready, in seconds: a frozen frontend counts as not ready."""
PROBE_SPEECH_S = 0.6
PROBES_FROM = 1_000_000
"""Number of the first probe's conversation."""


class Watch:
    """Measures until `stop`; probes that have begun are completed."""

    def __init__(self, pool: Pool, history: History, seed: int, clock: Clock, *, probes: bool = True) -> None:
        self._pool, self._history, self._seed, self._clock = pool, history, seed, clock
        self._probes = probes
        self._numbers = itertools.count(PROBES_FROM)
        self._probing: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the measurements."""
        rounds: list[tuple[float, Callable[[], Awaitable[object]]]] = [
            (STATUS_S, self.slots),
            (MEMORY_S, self._memory),
        ]
        self._tasks = [asyncio.create_task(_every(pause_s, look)) for pause_s, look in rounds]
        if self._probes:
            self._tasks += [
                asyncio.create_task(self._look(name, port)) for name, port in self._pool.frontends().items()
            ]

    async def end_probes(self) -> None:
        """Stop the checks of readiness, and wait until every probe has ended."""
        looking, self._tasks = self._tasks[2:], self._tasks[:2]
        await _cancelled(looking)
        if self._probing:
            await asyncio.wait(self._probing)

    async def stop(self) -> None:
        await _cancelled(self._tasks)

    async def slots(self) -> None:
        """Request the broker's status once."""
        asked_s = self._clock()
        status = await asyncio.to_thread(self._pool.status)
        if status is not None:
            workers = [worker for worker in status.workers if not worker.name.startswith(BAD)]
            in_use = sum(worker.sessions for worker in workers)
            pending = sum(worker.load.pending_chunks for worker in workers)
            self._history.slots.append(Slots(asked_s, self._clock(), in_use, pending, len(workers)))

    async def _memory(self) -> None:
        now = self._clock()
        for name, process in self._pool.children().items():
            try:
                rss_mb = process.memory_info().rss / 1e6
            except psutil.Error:
                continue
            self._history.memory.append(Memory(now, name, process.pid, rss_mb, descriptors(process)))

    # ---- Readiness ----

    async def _look(self, frontend: str, port: int) -> None:
        probed_s = 0.0
        while True:
            ready = await is_ready(port)
            now = self._clock()
            self._history.looks.append(Look(now, frontend, ready))
            if ready and now - probed_s >= PROBE_S:
                probed_s = now
                task = asyncio.create_task(self._probe(frontend, port, now))
                self._probing.add(task)
                task.add_done_callback(self._probing.discard)
            await asyncio.sleep(LOOK_S)

    async def _probe(self, frontend: str, port: int, now: float) -> None:
        number = next(self._numbers)
        said = script(self._seed, number, PROBE_SPEECH_S, PROBE_SPEECH_S)
        conversation = Conversation(number, truth_of(said), probe=True)
        self._history.probes.append(Probe(now, frontend, conversation))
        manner = Manner(paced=False, resume=False)
        await StreamClient(f"ws://127.0.0.1:{port}/v1/stream", said, conversation, manner, self._clock).run()


async def is_ready(port: int) -> bool | None:
    """Whether GET /ready reports ready; None without an answer."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: nemesis\r\nConnection: close\r\n\r\n")
                words = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return words[1] == b"200" if len(words) > 1 else None


async def _every(pause_s: float, look: Callable[[], Awaitable[object]]) -> None:
    while True:
        await look()
        await asyncio.sleep(pause_s)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
