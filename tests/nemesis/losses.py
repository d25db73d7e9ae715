"""`make losses`: how many words of 1,000 each dialect loses by each fault. Prints a table, and writes JSON.

Each fault gets its own pool of real processes. Sessions of every dialect speak in real time; the fault strikes in the
middle of their speech, at each process of the role, one after the other. `--asr` tests the pool of another
installation, and `--before` prints the figures of an earlier run beside the new ones.

A word is lost if the client should have its text and has not: every word, if the client was told that the session is
complete; otherwise every word of the audio that it had sent, up to where an orderly goodbye says that the audio is
transcribed. The words after that, which the client has to send elsewhere, are counted as unsaid. Clients of the native
dialect resume; those of other dialects do not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop

from asr_client.dialects import DIALECTS
from asr_proto.audio import SAMPLE_RATE
from asr_workers.engines.fake import WORD_SAMPLES
from tests.nemesis.clients import Manner
from tests.nemesis.faults import Nemesis
from tests.nemesis.history import GOING_AWAY, Conversation, Cut, Ended, Failed, History
from tests.nemesis.pool import Pool, Shape
from tests.nemesis.schedule import Fault, Kill, Names, Restart, Timed
from tests.nemesis.speakers import client
from tests.nemesis.truth import Script, noise, truth_of
from tests.nemesis.words import Words, words_of

FAULT_AT_S = 8.0
"""When the first fault strikes, in seconds after the first session."""
APART_S = 4.0
"""Shortest time between two faults, in seconds."""
STOP_S = 60.0
"""Longest wait for a pool that was told to stop, in seconds."""
AGAIN_S = 0.5
STORIES_MAX = 10
FRAME_S = 0.1
POOL_STOP = "pool stop"


def _each(names: Sequence[str], fault: Callable[[str], Fault]) -> list[Fault]:
    return [fault(name) for name in names]


FAULTS: Mapping[str, Callable[[Names], list[Fault]]] = {
    "none": lambda _: [],
    "worker kill": lambda names: _each(names.all_workers, Kill),
    "broker kill": lambda names: _each(names.all_brokers, Kill),
    "frontend kill": lambda names: _each(names.all_frontends, Kill),
    "worker stop": lambda names: _each(names.all_workers, Restart),
    "frontend stop": lambda names: _each(names.all_frontends, Restart),
    POOL_STOP: lambda _: [],
    "rolling restart": lambda names: _each([*names.all_brokers, *names.all_workers, *names.all_frontends], Restart),
}


@dataclass(slots=True)
class Cell:
    """The figures of one dialect under one fault."""

    sessions: int = 0
    words: Words = field(default_factory=Words)
    unsaid: int = 0
    """Words that clients could not send because the server had ended the session."""
    ends: Counter[str] = field(default_factory=Counter)
    """How the sessions ended, see `end_of`."""

    def add(self, conversation: Conversation, words: Words) -> None:
        self.sessions += 1
        self.words += words
        self.ends[end_of(conversation)] += 1
        self.unsaid += -(-conversation.truth.samples // WORD_SAMPLES) - words.due

    def record(self) -> dict[str, Any]:
        """As JSON."""
        words = self.words
        return {
            "sessions": self.sessions,
            "due": words.due,
            "lost": words.lost,
            "doubled": words.doubled,
            "changed": words.changed,
            "unsaid": self.unsaid,
            "ends": dict(self.ends),
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one measurement."""

    shape: Shape
    dialects: Sequence[str]
    sessions: int
    """Sessions of each dialect that speak at the same time."""
    words: int
    """Words of each session."""
    seed: int
    fault_at_s: float = FAULT_AT_S


def end_of(conversation: Conversation) -> str:
    """How a session ended for its client; `early`: as if complete, though the client had not sent everything."""
    last = conversation.events[-1] if conversation.events else None
    match last:
        case Ended():
            return "complete" if conversation.all_sent else "early"
        case Failed(code=code):
            return f"refused {code}" if conversation.refused else code
        case Cut() if conversation.said_goodbye:
            return GOING_AWAY
        case Cut():
            return "refused" if conversation.refused else "broken"
    return "hung"


# ---- One fault ----


class Measurement:
    """One pool, sessions of all dialects, one kind of fault."""

    def __init__(self, settings: Settings, fault: str) -> None:
        self._settings, self._fault = settings, fault
        began = time.monotonic()
        self._clock = lambda: time.monotonic() - began
        self._numbers = itertools.count()
        self._over = False
        self.cells = {dialect: Cell() for dialect in settings.dialects}
        self.notes: dict[str, Any] = {}
        self.stories: list[str] = []
        """The last events of each session that lost words."""

    async def run(self) -> None:
        pool = Pool(self._settings.shape)
        with pool:
            await asyncio.to_thread(pool.wait_whole)
            seats = [
                asyncio.create_task(self._seat(pool, dialect, number))
                for dialect in self._settings.dialects
                for number in range(self._settings.sessions)
            ]
            await self._strike(pool)
            self._over = True
            await asyncio.gather(*seats)

    async def _strike(self, pool: Pool) -> None:
        await asyncio.sleep(self._settings.fault_at_s)
        if self._fault == POOL_STOP:
            await asyncio.to_thread(self._stop, pool)
            return
        shape = pool.shape
        faults = FAULTS[self._fault](Names(shape.workers, shape.frontends, shape.brokers))
        timed = [Timed(APART_S * number, fault) for number, fault in enumerate(faults)]
        history = History()
        await Nemesis(pool, None, history, self._clock).run(timed, self._clock(), spares=True)
        self.notes["struck"] = len(history.strikes)
        self.notes["whole_after_s"] = [round(one.whole_s - one.at_s, 2) for one in history.strikes]

    def _stop(self, pool: Pool) -> None:
        began_s = self._clock()
        supervisor = pool.supervisor()
        supervisor.terminate()
        self._over = True
        try:
            self.notes["exit_code"] = supervisor.wait(STOP_S)
        except psutil.TimeoutExpired:
            self.notes["exit_code"] = None
        self.notes["stop_s"] = round(self._clock() - began_s, 2)

    async def _seat(self, pool: Pool, dialect: str, number: int) -> None:
        """Run sessions one after the other until the last fault is over."""
        manner = Manner(FRAME_S)
        await asyncio.sleep(number / max(1, self._settings.sessions))
        while not self._over:
            session = next(self._numbers)
            said = Script(noise(self._settings.seed, session, self._settings.words * WORD_SAMPLES))
            conversation = Conversation(session, truth_of(said), dialect=dialect)
            await client(dialect, pool.address, said, conversation, manner, self._clock).run()
            found = words_of(conversation, said.pcm, round(FRAME_S * SAMPLE_RATE))
            self.cells[dialect].add(conversation, found)
            if found.lost or found.doubled or found.changed:
                self.stories.append(f"{conversation.name}: {found}\n{conversation.story(length=4)}")
            if conversation.refused:
                await asyncio.sleep(AGAIN_S)


# ---- The tables ----


def table(title: str, record: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> str:
    """One table: a row for each dialect, a column for each fault."""
    faults = list(record["faults"])
    dialects = list(dict.fromkeys(dialect for fault in faults for dialect in record["faults"][fault]["dialects"]))
    rows = [["", *faults]]
    for dialect in dialects:
        rows.append([dialect, *(cell(record["faults"][fault]["dialects"].get(dialect, {})) for fault in faults)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def lost(cell: Mapping[str, Any]) -> str:
    """Words lost of 1,000; with doubled (d) and changed (c) ones if there are any."""
    if not cell.get("due"):
        return "-"
    parts = [f"{1000 * cell['lost'] / cell['due']:.0f}"]
    parts += [f"+{1000 * cell[kind] / cell['due']:.0f}{kind[0]}" for kind in ("doubled", "changed") if cell[kind]]
    return " ".join(parts)


def unsaid(cell: Mapping[str, Any]) -> str:
    """Words that could not be sent, of 1,000."""
    total = cell.get("due", 0) + cell.get("unsaid", 0)
    return f"{1000 * cell['unsaid'] / total:.0f}" if total else "-"


def ends(cell: Mapping[str, Any]) -> str:
    """How the sessions ended."""
    return ", ".join(f"{count} {end}" for end, count in cell.get("ends", {}).items()) or "-"


def report(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """All tables. With `before`, the lost words of both runs."""
    parts = []
    if before:
        parts.append(table("words lost of 1,000, before", before, lost))
    parts.append(table("words lost of 1,000" + (", after" if before else ""), record, lost))
    parts.append(table("words that could not be sent, of 1,000", record, unsaid))
    parts.append(table("how sessions ended (early: as if complete)", record, ends))
    for fault, found in record["faults"].items():
        parts.append(f"{fault}: " + ", ".join(f"{name} {value}" for name, value in found["notes"].items()))
    return "\n\n".join(parts)


# ---- The command ----


def parser() -> argparse.ArgumentParser:
    """The options, all with defaults."""
    made = argparse.ArgumentParser("python -m tests.nemesis.losses", description=__doc__)
    made.add_argument("--asr", type=Path, help="the `asr` of the installation to test, by default that of this tree")
    made.add_argument("--fault", action="append", choices=sorted(FAULTS), help="only this fault; repeatable")
    made.add_argument("--dialect", action="append", choices=sorted(DIALECTS), help="only this dialect; repeatable")
    made.add_argument("--sessions", type=int, default=10, help="sessions of each dialect at the same time")
    made.add_argument("--words", type=int, default=100, help="words of each session; four take one second")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--serve-arg", action="append", default=[], help="extra argument for `asr serve`; repeatable")
    made.add_argument("--json", type=Path, help="write the figures to this file, beside those in it")
    made.add_argument("--before", type=Path, help="figures of an earlier run, which are printed too")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    shape = Shape(asr=options.asr, args=tuple(options.serve_arg))
    dialects = options.dialect or list(DIALECTS)
    settings = Settings(shape, dialects, options.sessions, options.words, options.seed)
    record = _record(options)
    for fault in options.fault or FAULTS:
        one = Measurement(settings, fault)
        uvloop.run(one.run())
        cells = {dialect: cell.record() for dialect, cell in one.cells.items()}
        found = record["faults"] | {fault: {"dialects": cells, "notes": one.notes}}
        record["faults"] = {name: found[name] for name in FAULTS if name in found}
        print("\n".join([f"{fault}: measured", *one.stories[:STORIES_MAX]]), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    before = json.loads(options.before.read_text(encoding="utf-8")) if options.before else None
    print(report(record, before))
    return 0


def _record(options: argparse.Namespace) -> dict[str, Any]:
    """The figures so far: a fault that is measured again replaces its figures in the file."""
    if options.json and options.json.exists():
        found: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
        return found
    return {"sessions": options.sessions, "words": options.words, "faults": {}}


if __name__ == "__main__":
    sys.exit(main())
