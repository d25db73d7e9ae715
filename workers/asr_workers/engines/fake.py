"""An engine whose text is a pure function of the samples, so that lost, doubled or reordered audio changes the words.

Each 250 ms of audio give one word, made from the checksum of exactly those samples. Four words make an utterance. A
step takes a configured time. Used by tests, the simulation and benches of overhead.
"""

from __future__ import annotations

import signal
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import click
import msgpack
import numpy as np

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest
from asr_proto.messages import EndpointKind, Spec
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Hypothesis, Output, SlotOptions, Snapshot
from asr_workers.engines.entry import Entry
from asr_workers.engines.options import EngineConfig, option, slots_option

CHUNK_SAMPLES = 960
WORD_SAMPLES = 4000
UTTERANCE_WORDS = 4
STEP_S_MIN = 0.05
COST = click.FloatRange(min=0)
POISON_SAMPLES = 16
"""A chunk with so many samples of a value in POISONS is poisonous."""
HANG_S = 3600.0
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeConfig(EngineConfig):
    """The size and the simulated cost of the fake engine."""

    slots: int = slots_option(1000)
    step_ms: float = option(0.0, "Simulated cost of each step, in milliseconds.", COST)
    chunk_ms: float = option(0.0, "Simulated cost of each chunk in a step, in milliseconds.", COST)
    utterance_words: int = UTTERANCE_WORDS
    poison: bool = option(False, "Fail at the sample values that tests send as poisonous audio.", hidden=True)


def word(samples: Pcm16) -> str:
    """The word of these int16 samples [n]: three syllables, chosen by their CRC-32."""
    return _spell(zlib.crc32(samples.astype("<i2").tobytes()))


def _spell(checksum: int) -> str:
    digits = (checksum, checksum // 70, checksum // 4900)
    return "".join(_SYLLABLES[digit % len(_SYLLABLES)] for digit in digits)


def transcript(samples: Pcm16) -> str:
    """The whole text of a session with these int16 samples [n], flushed at its end only."""
    return " ".join(word(samples[start : start + WORD_SAMPLES]) for start in range(0, len(samples), WORD_SAMPLES))


class Poisoned(Exception):
    """The exception that poisonous audio causes."""


def _raise() -> None:
    raise Poisoned("this audio is poisonous")


POISONS: dict[int, Callable[[], None]] = {
    -32001: _raise,
    -32002: lambda: signal.raise_signal(signal.SIGSEGV),
    -32003: lambda: signal.raise_signal(signal.SIGKILL),
    -32004: lambda: time.sleep(HANG_S),
}
"""By the value of a poisonous sample: how the engine fails, with the option `poison`."""
EXCEPTION, SIGSEGV, SIGKILL, HANG = POISONS


def poison(samples: Pcm16) -> int | None:
    """The value in POISONS for which these samples are poisonous; None for other audio."""
    found = (value for value in POISONS if np.count_nonzero(samples == value) >= POISON_SAMPLES)
    return next(found, None)


@dataclass(slots=True)
class _FakeSlot:
    partials: bool
    start: int
    """First sample of the utterance."""
    end: int
    """The sample after the last complete word."""
    checksum: int = 0
    """CRC-32 of the current word's samples so far."""
    samples: int = 0
    """Number of the current word's samples so far."""
    words: list[str] = field(default_factory=list)
    """The complete words of the utterance."""


class FakeEngine(Engine):
    """The engine `fake`."""

    def __init__(self, config: FakeConfig) -> None:
        self._config = config
        self._slots: dict[int, _FakeSlot] = {}
        self._spec = Spec(
            engine="fake",
            model="fake",
            languages=("en",),
            slots=config.slots,
            chunk_samples=CHUNK_SAMPLES,
            uncommitted_s_max=WORD_SAMPLES * config.utterance_words / 16000,
            device="none",
            step_s_p99=max(STEP_S_MIN, (config.step_ms + config.chunk_ms * config.slots) / 1000),
        )

    @property
    def spec(self) -> Spec:
        return self._spec

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        if options.language.partition("-")[0].lower() not in ("", "en"):
            raise BadRequest(f"fake recognizes en, not {options.language[:20]}", slug="unsupported-language")
        start = snapshot.sample if snapshot else 0
        self._slots[slot] = _FakeSlot(options.partials, start, start)
        if snapshot and snapshot.state:
            self._slots[slot] = _FakeSlot(options.partials, *msgpack.unpackb(snapshot.state))

    def snapshot(self, slot: int) -> Advanced:
        state = self._slots[slot]
        fields = (state.start, state.end, state.checksum, state.samples, state.words)
        return Advanced(slot, Snapshot(state.end + state.samples, msgpack.packb(fields)))

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        cost_s = (self._config.step_ms + self._config.chunk_ms * len(chunks)) / 1000
        if cost_s:
            time.sleep(cost_s)
        if self._config.poison:
            _fail_at_poison(chunks)
        return [output for chunk in chunks for output in self._take(chunk)]

    def pending(self) -> bool:
        return False

    def blocked(self, slot: int) -> bool:
        return False

    def close(self, slot: int) -> None:
        del self._slots[slot]

    def _take(self, chunk: Chunk) -> list[Output]:
        state, pcm = self._slots[chunk.slot], chunk.pcm
        outputs: list[Output] = []
        while len(pcm):
            due = WORD_SAMPLES - state.samples
            piece, pcm = pcm[:due], pcm[due:]
            state.checksum = zlib.crc32(piece.data, state.checksum)
            state.samples += len(piece)
            if state.samples == WORD_SAMPLES:
                outputs.append(_end_word(chunk.slot, state, self._config.utterance_words))
        if chunk.flush:
            outputs += _flush(chunk.slot, state, self._config.utterance_words)
        return [output for output in outputs if _wanted(output, state)]


def _fail_at_poison(chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        if (value := poison(chunk.pcm)) is not None:
            POISONS[value]()


def _flush(slot: int, state: _FakeSlot, utterance_words: int) -> list[Output]:
    outputs: list[Output] = [_end_word(slot, state, utterance_words)] if state.samples else []
    outputs.append(_final(slot, state, "flush") if state.words else Advanced(slot, Snapshot(state.end, b"")))
    return [*outputs, Drained(slot)]


def _end_word(slot: int, state: _FakeSlot, utterance_words: int) -> Hypothesis:
    """Complete the current word: a partial, or a final where it is the last word of the utterance."""
    state.words.append(_spell(state.checksum))
    state.end += state.samples
    state.checksum = state.samples = 0
    if len(state.words) == utterance_words:
        return _final(slot, state, "length")
    return Hypothesis(slot, " ".join(state.words), state.start, state.end)


def _final(slot: int, state: _FakeSlot, endpoint: EndpointKind) -> Hypothesis:
    final = Hypothesis(slot, " ".join(state.words), state.start, state.end, endpoint, snapshot=Snapshot(state.end, b""))
    state.words, state.start = [], state.end
    return final


def _wanted(output: Output, state: _FakeSlot) -> bool:
    return state.partials or not isinstance(output, Hypothesis) or output.endpoint is not None


ENTRY = Entry(summary="text derived from the samples, for tests and benches", config=FakeConfig, make=FakeEngine)
