from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_proto import audio


@given(st.lists(st.binary(max_size=9), max_size=20))
def test_odd_bytes_are_carried(pieces: list[bytes]) -> None:
    """CAI-30: for any frame lengths, whole samples come out in order and at most one byte is kept."""
    odd = audio.OddByte()
    out = [odd.feed(piece) for piece in pieces]
    assert all(len(piece) % 2 == 0 for piece in out)
    whole = b"".join(pieces)
    assert b"".join(out) == whole[: len(whole) // 2 * 2]
    assert odd.carry == whole[len(whole) // 2 * 2 :]


@given(st.lists(st.integers(-32768, 32767)))
def test_int16_float32_round_trip(samples: list[int]) -> None:
    pcm = np.array(samples, dtype="<i2")
    assert (audio.from_float32(audio.to_float32(pcm)) == pcm).all()
    assert (audio.to_int16(pcm.tobytes()) == pcm).all()


def test_full_scale_is_clipped() -> None:
    assert audio.from_float32(np.array([1.0, -1.0, 2.0, -2.0], np.float32)).tolist() == [32767, -32768, 32767, -32768]


def test_seconds() -> None:
    assert audio.seconds(24000) == 1.5
    assert audio.seconds(1, 8000) == 0.0
