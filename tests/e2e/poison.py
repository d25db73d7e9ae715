"""Neighbors that speak in real time beside clients that send poisonous audio, in a pool of the fake engine.

`run` returns what every client received. `python -m tests.e2e.poison` prints the figures of several mixtures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from asr_workers.engines.fake import EXCEPTION, HANG, SIGKILL, SIGSEGV
from tests.e2e.clients import expected, noise
from tests.e2e.service import Serve

SPOKEN_S = 12.0
POISON_AT_S = 3.0
"""Poisonous audio begins so many seconds after the start of a session."""
FRAME_S = 0.1
BASELINE_S = 0.25
"""The fake engine has a text for every 250 ms of audio."""
ARGS = ("--worker-arg=--poison",)
DEATH = r"\bworker-\d.*(exit code|signal|ended)"


@dataclass
class Talk:
    """One client: its audio, its messages, and when they arrived."""

    pcm: bytes
    received: list[dict[str, Any]] = field(default_factory=list)
    texts_at: list[float] = field(default_factory=list)
    moved_at: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(one["text"] for one in self.received if one["type"] == "final")

    @property
    def code(self) -> str:
        """The code of the error with which the session ended; empty without an error."""
        return next((one["code"] for one in self.received if one["type"] == "error"), "")

    def is_whole(self) -> bool:
        return self.text == expected(self.pcm) and not self.code

    def gaps_s(self) -> list[float]:
        """The time without text around each move, beyond the time between two texts without a fault."""
        pairs = list(itertools.pairwise(self.texts_at))
        moved = [pair for pair in pairs if any(pair[0] <= at <= pair[1] for at in self.moved_at)]
        return [max(0.0, later - earlier - BASELINE_S) for earlier, later in moved]


def poisonous(kind: int, seed: int) -> bytes:
    """Audio with a second of poison in it."""
    before, after = noise(POISON_AT_S, seed), noise(2.0, seed + 1)
    return before + np.full(16_000, kind, dtype="<i2").tobytes() + after


async def converse(url: str, talk: Talk) -> None:
    """Send the audio in real time; receive until the server closes."""
    async with connect(f"{url}/v1/stream", compression=None, ping_interval=None, open_timeout=30) as socket:
        await socket.send(json.dumps({"type": "start"}))
        sender = asyncio.create_task(_send(socket, talk.pcm))
        try:
            async for message in socket:
                _received(talk, json.loads(message))
        finally:
            sender.cancel()


def _received(talk: Talk, message: dict[str, Any]) -> None:
    talk.received.append(message)
    if message["type"] in ("partial", "final"):
        talk.texts_at.append(time.monotonic())
    elif message["type"] == "migrating":
        talk.moved_at.append(time.monotonic())


async def _send(socket: Any, pcm: bytes) -> None:
    began, size = time.monotonic(), int(FRAME_S * 32_000)
    try:
        for number, start in enumerate(range(0, len(pcm), size)):
            await asyncio.sleep(max(0.0, began + number * FRAME_S - time.monotonic()))
            await socket.send(pcm[start : start + size])
        await socket.send(json.dumps({"type": "stop"}))
    except ConnectionClosed:
        return


@dataclass
class Outcome:
    """What the clients of one run received, and how often a worker was started again."""

    neighbors: list[Talk]
    poisonous: list[Talk]
    deaths: int

    def gap_p95_s(self) -> float:
        """The 95th percentile of the neighbors' gaps; 0 without a move."""
        gaps = [gap for talk in self.neighbors for gap in talk.gaps_s()]
        return float(np.percentile(gaps, 95)) if gaps else 0.0

    def summary(self) -> str:
        whole = sum(talk.is_whole() for talk in self.neighbors)
        moves = sum(len(talk.moved_at) for talk in self.neighbors)
        codes = ", ".join(talk.code or "no error" for talk in self.poisonous)
        return (
            f"deaths {self.deaths}, neighbors whole {whole}/{len(self.neighbors)}, moves {moves}, "
            f"gap p95 {self.gap_p95_s():.2f} s, poisonous: {codes}"
        )


def run(serve: Serve, kinds: Sequence[int], neighbors: int = 20, seed: int = 1) -> Outcome:
    """Let the neighbors and one poisonous client of each kind speak, to the end of all."""
    spoken = [Talk(noise(SPOKEN_S, 100 * seed + number)) for number in range(neighbors)]
    bad = [Talk(poisonous(kind, 100 * seed + 50 + 2 * number)) for number, kind in enumerate(kinds)]
    before = deaths(serve)

    async def everybody() -> None:
        talks = (asyncio.wait_for(converse(serve.url, talk), 120.0) for talk in [*spoken, *bad])
        await asyncio.gather(*talks, return_exceptions=True)

    asyncio.run(everybody())
    return Outcome(spoken, bad, deaths(serve) - before)


def deaths(serve: Serve) -> int:
    """How many worker processes have been registered, beyond the first ones: so many have died."""
    return sum("worker ready" in line for line in serve.supervisor.lines) - 3


def main() -> None:
    mixtures = {
        "1 exception": [EXCEPTION],
        "1 SIGSEGV": [SIGSEGV],
        "1 SIGKILL": [SIGKILL],
        "1 hang": [HANG],
        "3 exceptions": [EXCEPTION] * 3,
        "3 SIGSEGV": [SIGSEGV] * 3,
        "exception, SIGSEGV, hang": [EXCEPTION, SIGSEGV, HANG],
    }
    for name, kinds in mixtures.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        with Serve(*ARGS, workers=3) as serve:
            print(f"{name}: {run(serve, kinds).summary()}", flush=True)


if __name__ == "__main__":
    main()
