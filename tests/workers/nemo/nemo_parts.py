"""Shared by the tests of both engines of NeMo models: sessions of noise and silence, and an engine's outputs of them.

Needs neither torch nor NeMo.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from asr_proto.audio import Pcm16
from asr_workers.engines.base import Advanced, Chunk, Engine, Hypothesis, Output, Snapshot

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box near my jolly quiet fjord"


@cache
def vocabulary(size: int = 48, model_type: str = "unigram") -> bytes:
    """A serialized SentencePiece model of whole words and letters."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra nemo")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split()]),
        model_writer=model,
        vocab_size=size,
        model_type=model_type,
        minloglevel=2,
    )
    return model.getvalue()


# ---- Sound ----


def speech(seconds: float, seed: int = 0) -> Pcm16:
    """Noise whose loudness changes."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * 16000)
    loudness = np.repeat(rng.uniform(1500, 9000, samples // 800 + 1), 800)[:samples]
    return np.asarray(rng.normal(0, 0.4, samples) * loudness, np.int16)


def silence(seconds: float) -> Pcm16:
    return np.zeros(round(seconds * 16000), np.int16)


def talk(*parts: float, seed: int = 0) -> Pcm16:
    """Seconds of speech, and of silence where negative."""
    return np.concatenate([speech(part, seed + n) if part > 0 else silence(-part) for n, part in enumerate(parts)])


# ---- Sessions ----


def feed(it: Engine, slot: int, pcm: Pcm16, *, flush: bool = True, size: int | None = None) -> list[Output]:
    """Feed a session as the worker does, in the engine's chunks or in chunks of this size: none while it is blocked."""
    outputs: list[Output] = []
    size = size or it.spec.chunk_samples
    for start in range(0, max(len(pcm), 1), size):
        last = start + size >= len(pcm)
        outputs += it.step([Chunk(slot, pcm[start : start + size], flush=flush and last)], 0.0)
        outputs += settle(it)
    return outputs


def settle(it: Engine) -> list[Output]:
    outputs: list[Output] = []
    while it.pending():
        outputs += it.step([], 0.0)
    return outputs


def finals(outputs: Sequence[Output]) -> list[Hypothesis]:
    return [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint]


def commits(outputs: Sequence[Output]) -> list[Snapshot]:
    """The snapshots of one slot, in order. Checks that their samples never decrease."""
    given = [output.snapshot for output in outputs if isinstance(output, Hypothesis | Advanced) and output.snapshot]
    assert all(earlier.sample <= later.sample for earlier, later in pairwise(given))
    return given
