"""Clients of every WebSocket dialect that speak while the frontends on their port are restarted one after the other.

    python -m tests.e2e.restarts --restarts 100

prints how many conversations were complete, and what each client noticed that it should not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.e2e.clients import WAIT_S, cut, expected, noise, paced
from tests.e2e.service import Pool, Program
from tests.e2e.speakers import FRAME_BYTES, FRAME_S, SPEAKERS, Speaker

SLOTS = [["--engine=fake", "--slots=64"]]
SHARED = ["--reuse-port", "--drain-s=20"]
DIALECTS = ("native", *SPEAKERS)
KINDS = {"native": {"ready", "partial", "final", "ack", "end"}}
"""The messages that a client may receive, where others would show a restart."""


class Frontends:
    """Several frontends on one port."""

    def __init__(self, pool: Pool, count: int) -> None:
        self._pool = pool
        self._running: list[Program] = [pool.frontend]
        for _ in range(count - 1):
            self.start()

    def start(self) -> None:
        frontend, _ = self._pool.add_frontend(*SHARED, listen=f"127.0.0.1:{self._pool.port}")
        self._running.append(frontend)

    def stop(self) -> tuple[int, int]:
        """Terminate the oldest frontend. Returns the numbers of connections handed over and of those that stayed."""
        oldest = self._running.pop(0)
        oldest.process.terminate()
        assert oldest.wait(WAIT_S) == 0, oldest.story()
        oldest.wait_for_silence()
        found = oldest.wait_for(r"handed over .*connections=(\d+) .*staying=(\d+)")  # before the drain
        self._pool.programs.remove(oldest)
        oldest.close()
        return int(found[1]), int(found[2])


def wrong(speaker: Speaker, pcm: bytes) -> str:
    """What a client noticed that it should not; empty if nothing."""
    normal = None if speaker.dialect == "parakeet" else (1000, "")
    if speaker.close != normal:
        return f"close {speaker.close}"
    if speaker.text != expected(pcm):
        return f"text of {len(speaker.text.split())} words instead of {len(expected(pcm).split())}"
    kinds = {json.loads(message).get("type") for message in speaker.messages}
    if speaker.dialect in KINDS and kinds - KINDS[speaker.dialect]:
        return f"messages {kinds - KINDS[speaker.dialect]}"
    return "responses" if speaker.dialect == "caiman" and not _is_complete(speaker.messages, pcm) else ""


def _is_complete(messages: list[str], pcm: bytes) -> bool:
    """Whether CAIMAN-ASR's client got each response once: one for each 60 ms, in order."""
    starts = [round(json.loads(message)["start"] * 1000) for message in messages]
    responses = -(-len(pcm) // 1920)
    return starts[:responses] == [60 * number for number in range(responses)]


@dataclass(slots=True)
class Talkers:
    """Clients that hold one conversation after the other in threads, until `stop`."""

    url: str
    seconds: float
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, of_each: int) -> None:
        seeds = itertools.count()
        for dialect in DIALECTS * of_each:
            thread = threading.Thread(target=self._talk, args=(dialect, next(seeds)))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let every client finish its conversation."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(3 * WAIT_S + self.seconds)
            assert not thread.is_alive()

    def _talk(self, dialect: str, seed: int) -> None:
        while not self._stopping.is_set():
            pcm = noise(self.seconds, seed := seed + 1000)
            try:
                fault = self._converse(dialect, pcm)
            except (AssertionError, OSError, TimeoutError) as error:
                fault = repr(error)
            self.done[dialect] += 1
            if fault:
                self.failures.append(f"{dialect}: {fault}")

    def _converse(self, dialect: str, pcm: bytes) -> str:
        with Speaker(self.url, dialect) as speaker:
            sender = threading.Thread(target=self._send, args=(speaker, pcm))
            sender.start()
            speaker.rest()
            sender.join(WAIT_S)
            return wrong(speaker, pcm)

    def _send(self, speaker: Speaker, pcm: bytes) -> None:
        for frame in paced(cut(pcm, FRAME_BYTES), FRAME_S):
            speaker.send(frame)
        speaker.end()


def run(restarts: int, frontends: int, of_each: int, seconds: float) -> Iterator[str]:
    """Restart frontends under speaking clients; yields lines of a report, the last of which is empty if all is well."""
    with Pool(workers=SLOTS * 2, frontend=SHARED) as pool:
        running = Frontends(pool, frontends)
        talkers = Talkers(pool.url, seconds)
        talkers.start(of_each)
        handed = stayed = 0
        begun = time.monotonic()
        for number in range(restarts):
            running.start()
            given, left = running.stop()
            handed, stayed = handed + given, stayed + left
            yield f"{number + 1} restarts: {given} connections handed over, {left} stayed"
        talkers.stop()
        spent_s = time.monotonic() - begun
        yield (
            f"{restarts} restarts in {spent_s:.0f} s: {handed} connections handed over, {stayed} stayed; "
            f"{sum(talkers.done.values())} conversations {dict(talkers.done)}, {len(talkers.failures)} not complete"
        )
        yield "\n".join(talkers.failures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="restarts frontends under speaking clients")
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--frontends", type=int, default=2)
    parser.add_argument("--of-each", type=int, default=1, help="Clients of each dialect.")
    parser.add_argument("--seconds", type=float, default=15.0, help="Audio of each conversation.")
    options = parser.parse_args()
    for line in run(options.restarts, options.frontends, options.of_each, options.seconds):
        print(line, flush=True)
