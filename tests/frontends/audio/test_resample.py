"""Resampling: a stream that another process continues returns the samples that are missing, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_frontends.audio.resample import Resampler
from asr_proto.audio import to_int16

SECONDS = 1.5


def audio(rate: int) -> bytes:
    samples = np.random.default_rng(rate).integers(-9000, 9000, int(SECONDS * rate), dtype=np.int16)
    return samples.astype("<i2").tobytes()


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from((8_000, 11_025, 12_345, 22_050, 24_000, 44_100, 48_000, 96_000)),
    frame_ms=st.integers(1, 300),
    moves=st.sets(st.integers(0, 60), max_size=4),
)
def test_a_stream_continues_in_another_process(rate: int, frame_ms: int, moves: set[int]) -> None:
    pcm, size = audio(rate), 2 * max(1, rate * frame_ms // 1000)
    frames = [pcm[start : start + size] for start in range(0, len(pcm), size)]
    whole = Resampler(rate).feed(pcm)
    resampler, parts = Resampler(rate), []
    for number, frame in enumerate(frames):
        if number in moves:
            resampler = Resampler.continued(resampler.state())
        parts.append(resampler.feed(frame))
    parts.append(resampler.end())
    moved = to_int16(b"".join(parts)).astype(int)
    there = to_int16(whole).astype(int)
    assert 0 <= len(moved) - len(there) <= 4000  # the end returns what the filter still held
    assert abs(moved[: len(there)] - there).max(initial=0) <= 1
    assert len(moved) == pytest.approx(SECONDS * 16_000, abs=1)


def test_the_next_stream_begins_with_nothing_of_the_last() -> None:
    resampler, pcm = Resampler(8_000), audio(8_000)
    first = resampler.feed(pcm) + resampler.end()
    moved = Resampler.continued(resampler.state())
    assert moved.feed(pcm) + moved.end() == first
