"""G.711, against its definition."""

from __future__ import annotations

from typing import Any

import pytest

from asr_frontends.audio.g711 import ALAW, MULAW, from_alaw, from_mulaw


def mulaw_reference(code: int) -> int:
    """G.711 table 2: 8 segments of 16 steps; the steps double, in the scale of 14 bits."""
    code ^= 0xFF
    segment, step = code >> 4 & 7, code & 15
    value = (33 + 2 * step) * 2**segment - 33
    return 4 * (-value if code & 0x80 else value)


def alaw_reference(code: int) -> int:
    """G.711 table 1: two linear segments, six whose steps double, in the scale of 13 bits."""
    code ^= 0x55
    segment, step = code >> 4 & 7, code & 15
    value = 2 * step + 1 if segment == 0 else (33 + 2 * step) * 2 ** (segment - 1)
    return 8 * (value if code & 0x80 else -value)


def test_g711_tables() -> None:
    assert MULAW.tolist() == [mulaw_reference(code) for code in range(256)]
    assert ALAW.tolist() == [alaw_reference(code) for code in range(256)]


@pytest.mark.parametrize(
    "decode, code, value",
    [
        (from_mulaw, 0xFF, 0),
        (from_mulaw, 0x7F, 0),
        (from_mulaw, 0x80, 32124),
        (from_mulaw, 0x00, -32124),
        (from_mulaw, 0xFE, 8),
        (from_alaw, 0xD5, 8),
        (from_alaw, 0x55, -8),
        (from_alaw, 0xAA, 32256),
        (from_alaw, 0x2A, -32256),
    ],
)
def test_g711_values(decode: Any, code: int, value: int) -> None:
    """Silence and full scale, as every telephone has them."""
    assert decode(bytes([code])).tolist() == [value]


def test_g711_symmetry() -> None:
    """The sign bit is the only difference between a value and its negative."""
    for table in (MULAW, ALAW):
        assert (table[:128] == -table[128:]).all()
