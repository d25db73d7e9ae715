"""`make stops TIMES=50`: stops a speaking pool again and again, and compares each client's text with what it had sent.

Each round starts `asr serve`, lets sessions of one dialect speak, and sends the stop signal in the middle of their
words. The dialects take turns. A round is clean if every word that was sent before the signal is delivered, no text is
wrong, the exit code is 0, and the pool has ended within 5 s of the slowest final.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil
import uvloop

from asr_client.dialects import DIALECTS, DialectClient
from asr_client.dialects.conversation import Channel, Closed
from asr_client.dialects.dialect_session import SEPARATORS
from asr_dialects.client import Client, parse
from asr_proto.audio import SAMPLE_RATE, Pcm16
from asr_workers.engines.fake import WORD_SAMPLES, transcript
from tests.nemesis.pool import Pool, Shape

FRAME_SAMPLES = SAMPLE_RATE // 10
SPEAK_S = 2.0
"""Least time for which every session has sent audio before the signal."""
AFTER_FINAL_S_MAX = 5.0
"""Longest time from the slowest final to the end of the pool."""
END_S_MAX = 60.0
SIGNALS = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "KILL": signal.SIGKILL}


# ---- One client ----


@dataclass(slots=True)
class Spoken:
    """What one client has sent and received. Times are seconds of the monotonic clock."""

    pcm: Pcm16
    sent: int = 0
    """Samples that the connection has accepted."""
    speaks: bool = False
    """Whether some text has come."""
    texts: list[str] = field(default_factory=list)
    """The finals. In a dialect whose messages have all text so far (`Client.texts`): all messages with text."""
    text_at: float = 0.0
    end: str = ""
    """How the server ended the session; empty if it did not."""


async def speak(dialect: DialectClient, address: str, spoken: Spoken) -> None:
    """Send the audio in real time until the server ends the session, which must be before the audio's end."""
    async with dialect.open_channel(dialect.url(address), None) as channel:
        ready = asyncio.Event()
        sending = asyncio.create_task(_send(channel, dialect.client, spoken, ready))
        try:
            await _receive(channel, dialect.client, spoken, ready)
        finally:
            sending.cancel()


async def _send(channel: Channel, client: Client, spoken: Spoken, ready: asyncio.Event) -> None:
    with suppress(Closed):
        for message in client.opening(None):
            await channel.send(message)
        if client.waits_for_ready:
            await ready.wait()
        began = time.monotonic()
        while spoken.sent < len(spoken.pcm):
            end = spoken.sent + FRAME_SAMPLES
            await asyncio.sleep(max(0.0, began + end / SAMPLE_RATE - time.monotonic()))
            await channel.send(spoken.pcm[spoken.sent : end].astype("<i2").tobytes())
            spoken.sent = end


async def _receive(channel: Channel, client: Client, spoken: Spoken, ready: asyncio.Event) -> None:
    try:
        while True:
            meaning = client.read(parse(await channel.receive()))
            if meaning.ready:
                ready.set()
            if meaning.text is not None:
                spoken.speaks = True
            if meaning.text is not None and (meaning.final or client.texts == "whole"):
                spoken.texts.append(meaning.text)
                spoken.text_at = time.monotonic()
            if meaning.error is not None:
                spoken.end = meaning.error
    except Closed as closed:
        spoken.end = ", ".join(filter(None, (spoken.end, f"closed {closed.code} {closed}".strip())))


# ---- The verdict: pure ----


def samples_of(text: str, pcm: Pcm16) -> int | None:
    """The number of leading samples whose text this is, with a flush after whole frames; None for a wrong text."""
    words = text.split()
    if not words:
        return 0
    begin = (len(words) - 1) * WORD_SAMPLES
    ends = itertools.chain(range(-(-(begin + 1) // FRAME_SAMPLES) * FRAME_SAMPLES, begin + WORD_SAMPLES, FRAME_SAMPLES))
    for end in (*ends, begin + WORD_SAMPLES):
        if end <= len(pcm) and transcript(pcm[begin:end]) == words[-1]:
            return end if transcript(pcm[:begin]).split() == words[:-1] else None
    return None


def text_of(client: Client, texts: Sequence[str]) -> str:
    """The whole text of a session."""
    separator = SEPARATORS.get(client.texts)
    return "".join(texts[-1:]) if separator is None else separator.join(texts)


def faults_of(client: Client, spoken: Spoken, sent_before: int) -> Iterator[str]:
    """What is wrong with a session that had sent `sent_before` samples when the pool was stopped."""
    text = text_of(client, spoken.texts)
    delivered = samples_of(text, spoken.pcm[: spoken.sent])
    if delivered is None:
        yield f"a wrong text: {text!r}"
    elif delivered < sent_before:
        lost = -(-(sent_before - delivered) // WORD_SAMPLES)
        yield f"{lost} of {-(-sent_before // WORD_SAMPLES)} words lost (end: {spoken.end or 'none'})"
    if not spoken.end:
        yield "no end"


@dataclass(slots=True)
class Round:
    """One stop."""

    dialect: str
    sent_before: list[int]
    spoken: list[Spoken]
    stopped_at: float
    exit_code: int | None
    exit_at: float
    left: list[str] = field(default_factory=list)
    """Names of processes that were still there after the supervisor's end."""

    @property
    def final_s(self) -> float:
        """From the stop to the slowest final, in seconds."""
        return max(one.text_at for one in self.spoken) - self.stopped_at

    @property
    def exit_s(self) -> float:
        """From the stop to the end of the pool, in seconds."""
        return self.exit_at - self.stopped_at

    def faults(self) -> list[str]:
        """What is wrong with this stop; nothing if it is clean."""
        found = [
            f"session {number}: {fault}"
            for number, (one, before) in enumerate(zip(self.spoken, self.sent_before, strict=True))
            for fault in faults_of(DIALECTS[self.dialect].client, one, before)
        ]
        if self.exit_code not in (0, -signal.SIGKILL):
            found.append(f"exit code {self.exit_code}")
        if self.exit_s > max(0.0, self.final_s) + AFTER_FINAL_S_MAX:
            found.append(
                f"ended {self.exit_s:.1f} s after the signal, the slowest final came after {self.final_s:.1f} s"
            )
        return found + [f"{name} was left over" for name in self.left]


# ---- One round ----


async def stop_once(dialect: str, sessions: int, number: signal.Signals, drawn: random.Random, shape: Shape) -> Round:
    """Start a pool, let its sessions speak, and stop it with this signal."""
    with Pool(shape) as pool:
        await asyncio.to_thread(pool.wait_whole)
        seconds = SPEAK_S + END_S_MAX
        noise = np.random.default_rng(drawn.getrandbits(32))
        spoken = [
            Spoken(noise.integers(-9000, 9000, int(seconds * SAMPLE_RATE), dtype=np.int16)) for _ in range(sessions)
        ]
        address = f"127.0.0.1:{pool.port}"
        speaking = [asyncio.create_task(speak(DIALECTS[dialect], address, one)) for one in spoken]
        try:
            await _until_all_speak(spoken, speaking)
            await asyncio.sleep(drawn.random())
            return await _stop(dialect, pool, number, spoken, speaking)
        finally:
            for task in speaking:
                task.cancel()


async def _until_all_speak(spoken: Sequence[Spoken], speaking: Sequence[asyncio.Task[None]]) -> None:
    while any(one.sent < SPEAK_S * SAMPLE_RATE or not one.speaks for one in spoken):
        for task in speaking:
            assert not task.done(), task.exception()
        await asyncio.sleep(0.05)


async def _stop(
    dialect: str,
    pool: Pool,
    number: signal.Signals,
    spoken: list[Spoken],
    speaking: Sequence[asyncio.Task[None]],
) -> Round:
    supervisor, children = pool.supervisor(), pool.children()
    before = [one.sent for one in spoken]
    stopped_at = time.monotonic()
    supervisor.send_signal(number)
    _, pending = await asyncio.wait(speaking, timeout=END_S_MAX)
    exit_code = await asyncio.to_thread(supervisor.wait, END_S_MAX)
    _, alive = await asyncio.to_thread(psutil.wait_procs, list(children.values()), 10.0)
    exit_at = time.monotonic()
    left = [name for name, process in children.items() if process in alive]
    assert not pending, pool.log_lines()[-30:]
    return Round(dialect, before, spoken, stopped_at, exit_code, exit_at, left)


# ---- The command ----


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser("python -m tests.nemesis.stops", description=__doc__)
    made.add_argument("--times", type=int, default=50, help="how many stops")
    made.add_argument("--sessions", type=int, default=8, help="how many sessions speak at each stop")
    made.add_argument(
        "--dialect", action="append", choices=sorted(DIALECTS), help="the dialects that take turns; repeatable"
    )
    made.add_argument("--signal", choices=sorted(SIGNALS), default="TERM", help="the signal that stops `asr serve`")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--frontends", type=int, default=2)
    made.add_argument("--serve-arg", action="append", default=[], help="extra argument for `asr serve`; repeatable")
    options = made.parse_args(argv)
    shape = Shape(options.workers, options.frontends, args=tuple(options.serve_arg))
    drawn, unclean = random.Random(options.seed), 0
    dialects = itertools.islice(itertools.cycle(options.dialect or sorted(DIALECTS)), options.times)
    for time_number, dialect in enumerate(dialects, 1):
        one = uvloop.run(stop_once(dialect, options.sessions, SIGNALS[options.signal], drawn, shape))
        faults = one.faults()
        unclean += bool(faults)
        how = f"exit code {one.exit_code} after {one.exit_s:.1f} s, slowest final after {one.final_s:.1f} s"
        print(f"{time_number:>3} {dialect:<10} {how}; ends: {one.spoken[0].end}", *faults, sep="\n    ", flush=True)
    print(f"{options.times - unclean} of {options.times} stops were clean")
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
