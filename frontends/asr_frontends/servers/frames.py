"""What nearly every frame is, read and written without ado: a whole message in one frame. Pure: RFC 6455.

The websockets library reads everything else. It takes four times as long for a frame of 20 ms, and reading frames is
most of what a frontend does.
"""

from __future__ import annotations

from typing import Literal

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C, or in Python where there is no extension

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First bytes, with the bit that says that the message ends in this frame."""
FIRST = frozenset({TEXT, BINARY, CLOSE, PING, PONG})
MASKED = 0x80
CONTROL_BYTES_MAX = 125


Found = tuple[Literal["text", "binary", "control", "other"], bytes, int]
"""One frame: what it is, its payload, and where the next one begins.

`other` is left to the library, with everything behind it. So is `control`, whole as it came, but it comes alone.
"""


def find(held: bytes, begin: int, payload_bytes_max: int) -> Found | None:
    """The frame that begins there; None when more bytes are needed to say."""
    if len(held) - begin < 2:
        return None
    first, size = held[begin], held[begin + 1] - MASKED
    if first not in FIRST or size < 0:
        return "other", b"", begin
    at = begin + 2
    if size > CONTROL_BYTES_MAX:
        length_bytes = 2 if size == 126 else 8
        if len(held) < at + length_bytes:
            return None
        size = int.from_bytes(held[at : at + length_bytes])
        at += length_bytes
    if size > (CONTROL_BYTES_MAX if first >= CLOSE else payload_bytes_max):
        return "other", b"", begin
    end = at + 4 + size
    if len(held) < end:
        return None
    if first >= CLOSE:
        return "control", held[begin:end], end
    payload = apply_mask(held[at + 4 : end], held[at : at + 4])
    return "binary" if first == BINARY else "text", payload, end


def message(first: int, payload: bytes) -> bytes:
    """A whole message to a client; `first` is TEXT or BINARY."""
    size = len(payload)
    if size <= CONTROL_BYTES_MAX:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload
