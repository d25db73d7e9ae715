"""The self-test that a card passes before it serves: the same audio twice, a state that travels, counters that agree.

It tests the card, not the model: what the tokens say does not matter, that they repeat does.
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
"""Slots in the largest round: a simulator that computes takes long for more."""
BATCH_ROUNDS = 3
SUBMITS = 2 * CHUNKS + 3 * (CHUNKS // 2) + BATCH_ROUNDS
"""Batches that the card is given, if it has several slots: twice all, a half, the other half twice, full rounds."""
TEMPERATURE_C_MAX = 95.0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was found."""

    tokens: int
    """Decoded from the test's audio."""
    temperature_c: float
    chunk_s: float
    """One chunk alone, median."""
    round_s: float
    """A round with every slot in it: measured, or where there are many, what follows from fewer."""
    state_bytes: int


def run(card: Card, traffic: Traffic[int], slots: int) -> SelfTest:
    """Test a card with a loaded model and `slots` reserved slots, none of them open. Raises CardFailed.

    All slots are closed again afterwards, if it passes.
    """
    try:
        return _run(card, traffic, slots)
    except CardError as error:
        raise CardFailed(f"the self-test failed: {error}") from error


def _run(card: Card, traffic: Traffic[int], slots: int) -> SelfTest:
    audio = sound(CHUNKS)
    card.open(0)
    first, times = _hear(traffic, 0, audio)
    card.reset(0)
    again, _ = _hear(traffic, 0, audio)
    if _said(again) != _said(first):
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
    tokens = sum(len(step) for step in _said(first))
    return SelfTest(tokens, health.temperature_c, chunk_s, round_s, state_bytes)


def larger_round_s(chunk_s: float, measured_s: float, batch: int, slots: int) -> float:
    """Seconds for `slots` chunks at once where `batch` took `measured_s`: each is work, the latency comes once."""
    if slots <= batch:
        return measured_s
    return chunk_s + max(0.0, measured_s - chunk_s) * (slots - 1) / (batch - 1)


def _hear(
    traffic: Traffic[int], slot: int, audio: NDArray[np.int16], first: int = 0
) -> tuple[list[Decoded], list[float]]:
    """Chunks [n, 960] one after the other, and how long each took."""
    decoded, times = [], []
    for step, chunk in enumerate(audio, first):
        started = time.perf_counter()
        traffic.submit([slot], [slot], [step], chunk[None])
        decoded += [result for _, result in traffic.all()]
        times.append(time.perf_counter() - started)
    return decoded, times


def _move_state(card: Card, traffic: Traffic[int], audio: NDArray[np.int16]) -> None:
    """Slot 1 continues from slot 0 in the middle of the audio, and must say the same."""
    half = len(audio) // 2
    card.reset(0)
    _hear(traffic, 0, audio[:half])
    card.open(1)
    card.import_state(1, card.export_state(0))
    stayed, _ = _hear(traffic, 0, audio[half:], half)
    moved, _ = _hear(traffic, 1, audio[half:], half)
    card.close(1)
    if _said(moved) != _said(stayed):
        raise CardFailed("the self-test failed: a slot's state did not survive a move to another slot")


def _said(decoded: list[Decoded]) -> list[list[int]]:
    return [tokens for tokens, _ in decoded]


def _full_round(card: Card, traffic: Traffic[int], slots: int, audio: NDArray[np.int16]) -> float:
    """Seconds of the slowest round with every slot in it."""
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
    """Audio [chunks, 960] that is always the same: tones that glide like vowels, in bursts, over a little noise."""
    samples = chunks * CHUNK_SAMPLES
    at = np.arange(samples) / 16000.0
    glide = 200 + 150 * np.sin(2 * np.pi * 1.3 * at)
    phase = 2 * np.pi * np.cumsum(glide) / 16000.0
    tones = sum(np.sin(phase * harmonic) / harmonic for harmonic in range(1, 9))
    bursts = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * at)
    noise = np.random.default_rng(1).standard_normal(samples)
    values: NDArray[np.float64] = 6000 * tones * bursts + 100 * noise
    return np.clip(values, -32768, 32767).astype(np.int16).reshape(chunks, CHUNK_SAMPLES)
