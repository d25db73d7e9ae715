"""The audio of a session and its expected finals, those of an undisturbed run. Pure."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import numpy as np

from asr_proto.audio import SAMPLE_RATE, Pcm16, seconds
from asr_workers.engines.fake import UTTERANCE_WORDS, WORD_SAMPLES, transcript

PEAK = 9000
SEGMENTS_MAX = 4
POISONOUS_SAMPLES, POISON_RUN = 4 * SAMPLE_RATE, 2000
"""How much audio a poisonous session has, and how many samples of it are poisonous."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One expected final. Times as on the wire: seconds, rounded to the millisecond."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Truth:
    """All expected finals of a session that sends all its audio."""

    samples: int
    utterances: tuple[Utterance, ...]
    markers: tuple[str, ...] = ()
    """Markers of the flushes, each of which must be answered once."""
    grows: bool = True
    """Whether each partial is a prefix of its final, as with the fake engine."""


@dataclass(frozen=True, slots=True)
class Script:
    """Audio, and the samples after which the client sends a flush."""

    pcm: Pcm16
    flushes: tuple[int, ...] = ()

    def marker_at(self, sample: int) -> str | None:
        """The marker of the flush after that sample; None without one."""
        return str(self.flushes.index(sample)) if sample in self.flushes else None


def noise(seed: int, session: int, samples: int) -> Pcm16:
    """Noise that differs from that of every other seed and session."""
    return np.random.default_rng([seed, session]).integers(-PEAK, PEAK, samples, dtype=np.int16)


def poisonous(value: int, seed: int) -> Script:
    """Noise with some samples of this value in it, at which the fake engine fails (`--poison`)."""
    pcm = noise(seed, -1 % 2**32, POISONOUS_SAMPLES)
    pcm[len(pcm) // 2 :][:POISON_RUN] = value
    return Script(pcm)


def script(seed: int, session: int, shortest_s: float, longest_s: float) -> Script:
    """Unique noise, with some flushes in the middle of words."""
    drawn = random.Random(f"{seed} {session}")
    samples = int(drawn.uniform(shortest_s, longest_s) * SAMPLE_RATE)
    pcm = noise(seed, session, samples)
    edges = sorted(drawn.sample(range(1, samples), drawn.randrange(SEGMENTS_MAX)))
    return Script(pcm, tuple(edges))


def truth_of(said: Script) -> Truth:
    """The finals by the fake engine's rule: a flush ends an utterance, and so do four words."""
    edges = [0, *said.flushes, len(said.pcm)]
    utterances: list[Utterance] = []
    for begin, end in itertools.pairwise(edges):
        utterances += _utterances(said.pcm, begin, end)
    return Truth(len(said.pcm), tuple(utterances), tuple(str(number) for number in range(len(said.flushes))))


def _utterances(pcm: Pcm16, begin: int, end: int) -> list[Utterance]:
    size = WORD_SAMPLES * UTTERANCE_WORDS
    parts = [(start, min(start + size, end)) for start in range(begin, end, size)]
    return [Utterance(seconds(start), seconds(stop), transcript(pcm[start:stop])) for start, stop in parts]
