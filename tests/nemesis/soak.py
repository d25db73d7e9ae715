"""`make soak HOURS=1`: a pool under steady mixed load, for leaks and drift. A release is soaked for 8 hours.

Sessions of all dialects follow each other, some are aborted in the middle, and now and then a process is killed. With
`--connects N` there are only N connections, which are aborted at every stage of their handshake or session.
Memory, descriptors and slots are sampled into a file of JSON lines; a table and a verdict come at the end
(soak_report).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop

from asr_client.dialects import DIALECTS, DialectClient
from asr_client.errors import ClientError
from asr_proto.audio import SAMPLE_RATE, Pcm16
from asr_proto.errors import DecodeError
from asr_workers.engines.fake import transcript
from tests.nemesis.pool import Pool, Shape, descriptors
from tests.nemesis.soak_report import Finished, Sample, Soak, picture, table, verdict

FRAME_BYTES = SAMPLE_RATE // 10 * 2
SHORTEST_S, LONGEST_S = 2.0, 15.0
"""Lengths of the sessions, in seconds of audio."""
ABORT_SHARE = 0.3
"""Share of the sessions that are aborted."""
SAMPLES = 500
"""Number of samples of each process in a whole run, at most one in MIN_SAMPLE_S."""
MIN_SAMPLE_S = 1.0
GRACE_S = 3.0
"""How long the pool waits for clients that are gone, in seconds."""
REST_S = 15.0
"""Longest wait for slots and descriptors at the end."""
AGAIN_S = 0.2
CONNECTS_AT_ONCE = 20


class Load:
    """The sessions and connections against one pool, and the record."""

    def __init__(self, pool: Pool, soak: Soak, seed: int) -> None:
        self._pool, self._soak, self._seed = pool, soak, seed
        self._began = time.monotonic()
        self._numbers = itertools.count()
        self.left = 0
        """Number of connections that `connect` has still to make."""

    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    # ---- Sessions ----

    async def speak(self, until_s: float) -> None:
        """Run sessions of random dialects, one after the other."""
        while self.now() < until_s:
            drawn = random.Random(f"{self._seed} {next(self._numbers)}")
            dialect = DIALECTS[drawn.choice(sorted(DIALECTS))]
            noise = np.random.default_rng(drawn.getrandbits(32))
            pcm = noise.integers(-9000, 9000, int(drawn.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE), dtype=np.int16)
            try:
                if drawn.random() < ABORT_SHARE:
                    await self._abort(dialect, pcm, drawn.uniform(0.0, LONGEST_S))
                else:
                    await self._session(dialect, pcm)
            except (ClientError, DecodeError, OSError) as error:
                name = f"{dialect.name}: {error}"[:100]
                self._soak.failed[name] = self._soak.failed.get(name, 0) + 1
                await asyncio.sleep(AGAIN_S)

    async def _session(self, dialect: DialectClient, pcm: Pcm16) -> None:
        run = await dialect.run_session(dialect.url(f"127.0.0.1:{self._pool.port}"), _frames(pcm), 1.0)
        text = run.said[-1].text if run.said else ""
        latency_s = max(0.0, run.final_s - run.last_audio_s)
        self._soak.finished.append(Finished(self.now(), dialect.name, latency_s, text == transcript(pcm)))

    async def _abort(self, dialect: DialectClient, pcm: Pcm16, after_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await dialect.run_session(dialect.url(f"127.0.0.1:{self._pool.port}"), _frames(pcm), 1.0)
        self._soak.aborted += 1

    # ---- Connections ----

    async def connect(self) -> None:
        """Connect and abort, at a random stage, until no connection is left to make."""
        while self.left > 0:
            self.left -= 1
            drawn = random.Random(f"{self._seed} {next(self._numbers)}")
            try:
                async with asyncio.timeout(10):
                    await self._connect(drawn)
                self._soak.aborted += 1
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                name = type(error).__name__
                self._soak.failed[name] = self._soak.failed.get(name, 0) + 1

    async def _connect(self, drawn: random.Random) -> None:
        """One connection: it ends in its handshake, after it, after the opening, or after some audio."""
        dialect = drawn.choice([one for one in DIALECTS.values() if one.channel == "websocket"])
        reader, writer = await asyncio.open_connection("127.0.0.1", self._pool.port)
        try:
            stage = drawn.randrange(4)
            request = _handshake(dialect, self._pool.port)
            writer.write(request[: drawn.randrange(len(request))] if stage == 0 else request)
            if stage == 0:
                return
            await reader.readuntil(b"\r\n\r\n")
            for message in dialect.client.opening(None) if stage > 1 else ():
                writer.write(_frame(message))
            for _ in range(drawn.randrange(1, 8) if stage > 2 else 0):
                writer.write(_frame(drawn.randbytes(640)))
            await writer.drain()
        finally:
            writer.transport.abort()

    # ---- Kills ----

    async def kill(self, every_s: float, until_s: float) -> None:
        """SIGKILL a random process now and then; the supervisor starts it again."""
        drawn = random.Random(f"{self._seed} kills")
        while every_s and (due_s := self.now() + every_s) < until_s:
            await asyncio.sleep(due_s - self.now())
            name, process = drawn.choice(sorted(self._pool.children().items(), key=lambda one: one[0]))
            with suppress(psutil.NoSuchProcess):
                process.kill()
                self._soak.kills.append(name)

    # ---- Samples ----

    async def sample(self, every_s: float, file: IO[str]) -> None:
        """Sample every process, forever."""
        while True:
            status = await asyncio.to_thread(self._pool.status)
            slots = None if status is None else sum(worker.sessions for worker in status.workers)
            counts = {"slots": slots, "finished": len(self._soak.finished), "aborted": self._soak.aborted}
            for sample in self._samples():
                self._soak.samples.append(sample)
                file.write(json.dumps(asdict(sample) | counts) + "\n")
            file.flush()
            await asyncio.sleep(every_s)

    def _samples(self) -> Iterator[Sample]:
        for name, process in self._pool.children().items():
            with suppress(psutil.Error):
                rss_mb = process.memory_info().rss / 1e6
                yield Sample(round(self.now(), 1), name, process.pid, rss_mb, descriptors(process))

    async def rest(self) -> None:
        """Wait until no slot is in use and descriptors are free again, at most REST_S."""
        deadline_s = self.now() + REST_S
        while self.now() < deadline_s:
            status = await asyncio.to_thread(self._pool.status)
            self._soak.slots_left = None if status is None else sum(worker.sessions for worker in status.workers)
            self._soak.rested = resting(self._pool)
            over = all(self._soak.rested.get(name, 0) <= count for name, count in self._soak.resting.items())
            if self._soak.slots_left == 0 and over:
                return
            await asyncio.sleep(0.5)


def resting(pool: Pool) -> dict[str, int]:
    """The descriptors of every process."""
    return {name: descriptors(process) for name, process in pool.children().items()}


def _frames(pcm: Pcm16) -> Iterator[bytes]:
    data = pcm.astype("<i2").tobytes()
    return (data[start : start + FRAME_BYTES] for start in range(0, len(data), FRAME_BYTES))


def _handshake(dialect: DialectClient, port: int) -> bytes:
    parts = urlsplit(dialect.url(f"127.0.0.1:{port}"))
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def _frame(message: str | bytes) -> bytes:
    """A client's WebSocket frame of less than 64 KiB, under the mask 0."""
    payload = message.encode() if isinstance(message, str) else message
    head = 0x81 if isinstance(message, str) else 0x82
    size = (
        struct.pack("!BB", head, 0x80 | len(payload))
        if len(payload) < 126
        else struct.pack("!BBH", head, 0xFE, len(payload))
    )
    return size + bytes(4) + payload


# ---- The command ----


async def run(options: argparse.Namespace, file: IO[str]) -> Soak:
    """The whole run."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    soak = Soak()
    args = (f"--broker-arg=--grace-s={GRACE_S:g}", *options.serve_arg)
    with Pool(Shape(options.workers, options.frontends, args=args)) as pool:
        await asyncio.to_thread(pool.wait_whole)
        soak.resting = resting(pool)
        load, until_s = Load(pool, soak, options.seed), options.hours * 3600
        load.left = options.connects
        every_s = 2.0 if options.connects else max(MIN_SAMPLE_S, until_s / SAMPLES)
        sampling = asyncio.create_task(load.sample(every_s, file))
        if options.connects:
            await asyncio.gather(*(load.connect() for _ in range(CONNECTS_AT_ONCE)))
        else:
            every_kill_s = 3600 / options.kills_per_hour if options.kills_per_hour else 0.0
            await asyncio.gather(
                load.kill(every_kill_s, until_s), *(load.speak(until_s) for _ in range(options.sessions))
            )
        soak.ended_s = load.now()
        await load.rest()
        sampling.cancel()
    return soak


def parser() -> argparse.ArgumentParser:
    """The options, all with defaults."""
    made = argparse.ArgumentParser("python -m tests.nemesis.soak", description=__doc__)
    made.add_argument("--hours", type=float, default=1.0, help="how long the load lasts")
    made.add_argument("--connects", type=int, default=0, help="make so many connections, instead of sessions")
    made.add_argument("--sessions", type=int, default=20, help="how many sessions run at the same time")
    made.add_argument("--kills-per-hour", type=float, default=6.0, help="how many processes are killed; 0 for none")
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--frontends", type=int, default=2)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--serve-arg", action="append", default=[], help="extra argument for `asr serve`; repeatable")
    made.add_argument("--samples", type=Path, default=Path("soak.jsonl"), help="write the samples to this file")
    made.add_argument("--picture", type=Path, default=Path("soak.svg"), help="write the memory over time to this file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    with options.samples.open("w", encoding="utf-8") as file:
        soak = uvloop.run(run(options, file))
    options.picture.write_text(picture(soak), encoding="utf-8")
    found = list(verdict(soak, 0.0) if options.connects else verdict(soak))
    print(table(soak))
    print(f"samples: {options.samples}, picture: {options.picture}")
    print("\n".join(found) if found else "clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
