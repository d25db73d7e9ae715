"""The self-test of a card before it serves: decode the same audio twice, move a slot's state, check the counters.

It tests the card, not the model: the tokens need not be right, but they must be the same each time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards.errors import CardError
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import CHUNK_SAMPLES, Card
from asr_workers.cards.traffic import Decoded, Traffic

CHUNKS = 24
BATCH_MAX = 64
"""Slots in the largest round: with more, a simulator that computes takes too long."""
BATCH_ROUNDS = 3
SUBMITS = 2 * CHUNKS + 3 * (CHUNKS // 2) + BATCH_ROUNDS
"""Batches submitted to a card with several slots: all audio twice, one half once, the other half twice, full rounds."""
TEMPERATURE_C_MAX = 95.0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Results of a self-test."""

    tokens: int
    """Number of tokens decoded from the test's audio."""
    temperature_c: float
    chunk_s: float
    """Median time of a single chunk, in seconds."""
    round_s: float
    """Time of a round with one chunk in every slot, in seconds; extrapolated above BATCH_MAX slots."""
    state_bytes: int
    """Size of a slot's state, in bytes."""


def run(card: Card, traffic: Traffic[int], slots: int) -> SelfTest:
    """Test a card with a loaded model and `slots` reserved slots, none of them open. Raises CardFailed.

    If the test passes, all slots are closed again.
    """
    try:
        return _run(card, traffic, slots)
    except CardError as error:
        raise CardFailed(f"the self-test failed: {error}") from error


def _run(card: Card, traffic: Traffic[int], slots: int) -> SelfTest:
    audio = sound(CHUNKS)
    card.open(0)
    first, times = _decode(traffic, 0, audio)
    card.reset(0)
    again, _ = _decode(traffic, 0, audio)
    if _tokens(again) != _tokens(first):
        raise CardFailed("the self-test failed: the same audio gave other tokens the second time")
    if slots > 1:
        _move_state(card, traffic, audio)
    state_bytes = len(card.export_state(0))
    card.close(0)
    batch = min(slots, BATCH_MAX)
    chunk_s = float(np.median(times))
    round_s = larger_round_s(chunk_s, _full_round(card, traffic, batch, audio), batch, slots)
    health = card.health()
    if not health.is_ok or health.errors or health.resets:
        raise CardFailed(f"the self-test failed: the card's health is bad ({health})")
    if health.temperature_c > TEMPERATURE_C_MAX:
        raise CardFailed(f"the self-test failed: the card has {health.temperature_c:.0f} degrees Celsius")
    tokens = sum(len(step) for step in _tokens(first))
    return SelfTest(tokens, health.temperature_c, chunk_s, round_s, state_bytes)


def larger_round_s(chunk_s: float, measured_s: float, batch: int, slots: int) -> float:
    """Seconds for a round of `slots` chunks, extrapolated from `measured_s` for `batch` chunks.

    `chunk_s`, the time of one chunk, holds the fixed latency; every further chunk adds the same time.
    """
    if slots <= batch:
        return measured_s
    return chunk_s + max(0.0, measured_s - chunk_s) * (slots - 1) / (batch - 1)


def _decode(
    traffic: Traffic[int], slot: int, audio: NDArray[np.int16], first: int = 0
) -> tuple[list[Decoded], list[float]]:
    """Decode chunks [n, 960] one by one; `first` is the step of the first. Returns results and times in seconds."""
    decoded, times = [], []
    for step, chunk in enumerate(audio, first):
        started = time.perf_counter()
        traffic.submit([slot], [slot], [step], chunk[None])
        decoded += [result for _, result in traffic.all()]
        times.append(time.perf_counter() - started)
    return decoded, times


def _move_state(card: Card, traffic: Traffic[int], audio: NDArray[np.int16]) -> None:
    """Copy the state of slot 0 to slot 1 in the middle of the audio: both must decode the same tokens."""
    half = len(audio) // 2
    card.reset(0)
    _decode(traffic, 0, audio[:half])
    card.open(1)
    card.import_state(1, card.export_state(0))
    stayed, _ = _decode(traffic, 0, audio[half:], half)
    moved, _ = _decode(traffic, 1, audio[half:], half)
    card.close(1)
    if _tokens(moved) != _tokens(stayed):
        raise CardFailed("the self-test failed: a slot's state did not survive a move to another slot")


def _tokens(decoded: list[Decoded]) -> list[list[int]]:
    return [tokens for tokens, _ in decoded]


def _full_round(card: Card, traffic: Traffic[int], slots: int, audio: NDArray[np.int16]) -> float:
    """Time of the slowest round with a chunk in every slot, in seconds."""
    numbers = list(range(slots))
    for slot in numbers:
        card.open(slot)
    slowest = 0.0
    for step in range(BATCH_ROUNDS):
        chunks = np.repeat(audio[step][None], slots, axis=0)
        started = time.perf_counter()
        traffic.submit(numbers, numbers, [step] * slots, chunks)
        traffic.all()
        slowest = max(slowest, time.perf_counter() - started)
    for slot in numbers:
        card.close(slot)
    return slowest


def sound(chunks: int) -> NDArray[np.int16]:
    """Deterministic audio, int16 [chunks, 960] at 16 kHz: gliding harmonic tones in bursts, with a little noise."""
    samples = chunks * CHUNK_SAMPLES
    at = np.arange(samples) / 16000.0
    glide = 200 + 150 * np.sin(2 * np.pi * 1.3 * at)
    phase = 2 * np.pi * np.cumsum(glide) / 16000.0
    tones = sum(np.sin(phase * harmonic) / harmonic for harmonic in range(1, 9))
    bursts = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * at)
    noise = np.random.default_rng(1).standard_normal(samples)
    values: NDArray[np.float64] = 6000 * tones * bursts + 100 * noise
    return np.clip(values, -32768, 32767).astype(np.int16).reshape(chunks, CHUNK_SAMPLES)
