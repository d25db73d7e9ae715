"""Reads and writes WebSocket messages that are one frame each (RFC 6455, section 5.2): nearly all traffic. Pure.

The websockets library reads all other frames. For a frame of 20 ms of audio it takes four times as long as this module,
and reading frames is most of a frontend's work.
"""

from __future__ import annotations

from typing import Literal

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C, or in Python where there is no extension

Kind = Literal["text", "binary", "control", "fragment", "broken"]

TEXT, BINARY = 0x81, 0x82
"""The first byte of a whole message in one frame (RFC 6455, section 5.2)."""
KINDS: dict[int, Kind] = {
    TEXT: "text",
    BINARY: "binary",
    0x88: "control",
    0x89: "control",
    0x8A: "control",
    0x01: "fragment",
    0x02: "fragment",
    0x00: "fragment",
    0x80: "fragment",
}
"""Every first byte that a client may send: control frames are close, ping and pong."""
MASKED = 0x80
SHORT_BYTES_MAX = 125
"""Largest payload of a control frame, and of any frame whose length fits in its second byte."""

Found = tuple[Kind, bytes, int]
"""One frame: its kind, its payload, and the position after it.

Only `text` and `binary` are whole messages, and only they have a payload here. A `control` or `fragment` frame is
complete, and the library reads it. `broken` bytes violate the protocol or the size limit. The library rejects them, so
all received bytes belong to them.
"""


def find(held: bytes | bytearray, begin: int, payload_bytes_max: int) -> Found | None:
    """The frame that begins at `begin`; None while it is incomplete."""
    if len(held) - begin < 2:
        return None
    kind, size = KINDS.get(held[begin], "broken"), held[begin + 1] - MASKED
    if kind == "broken" or size < 0:
        return "broken", b"", len(held)
    at = begin + 2
    if size > SHORT_BYTES_MAX:
        length_bytes = 2 if size == 126 else 8
        if len(held) < at + length_bytes:
            return None
        size = int.from_bytes(held[at : at + length_bytes])
        at += length_bytes
    if size > (SHORT_BYTES_MAX if kind == "control" else payload_bytes_max):
        return "broken", b"", len(held)
    end = at + 4 + size
    if len(held) < end:
        return None
    payload = apply_mask(held[at + 4 : end], held[at : at + 4]) if kind in ("text", "binary") else b""
    return kind, payload, end


def message(first: int, payload: bytes) -> bytes:
    """A whole message to a client in one frame; `first` is TEXT or BINARY."""
    size = len(payload)
    if size <= SHORT_BYTES_MAX:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload
