"""The part of WebSocket (RFC 6455) that a load generator needs. Pure: bytes in, bytes out.

A client must mask its frames (section 5.3). Masking a frame costs more than sending it, so frames are masked once in
advance and sent many times, all with the same key. The server's unmasking costs as much as with different keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from asr_proto.errors import DecodeError

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x5a\xc3\x96\x0f"
FINAL_BIT = 0x80
MASKED_BIT = 0x80
HANDSHAKE_END = b"\r\n\r\n"
MESSAGE_BYTES_MAX = 1 << 20


class Frame(NamedTuple):
    """One frame from the server."""

    opcode: int
    payload: bytes


def encode(opcode: int, payload: bytes) -> bytes:
    """A whole message as one masked frame."""
    length = len(payload)
    if length < 126:
        header = struct.pack("!BB", FINAL_BIT | opcode, MASKED_BIT | length)
    elif length < 1 << 16:
        header = struct.pack("!BBH", FINAL_BIT | opcode, MASKED_BIT | 126, length)
    else:
        header = struct.pack("!BBQ", FINAL_BIT | opcode, MASKED_BIT | 127, length)
    return header + MASK + masked(payload)


def masked(payload: bytes) -> bytes:
    """The payload masked with MASK. Masking again restores it."""
    key = np.resize(np.frombuffer(MASK, np.uint8), len(payload))
    return (np.frombuffer(payload, np.uint8) ^ key).tobytes()


def request(host: str, target: str) -> bytes:
    """The HTTP request for the upgrade.

    The server's Sec-WebSocket-Accept is not checked: it detects caches between client and server, and there are none.
    """
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: YXNyIGJlbmNoIGNsaWVudA==",
        "Sec-WebSocket-Version: 13",
    ]
    return ("\r\n".join(lines)).encode() + HANDSHAKE_END


class Reader:
    """Decodes the server's bytes, in pieces of any size: first the handshake's status, then frames."""

    def __init__(self) -> None:
        self._held = b""
        self.status: int | None = None
        """The HTTP status; None until the handshake is complete. Frames follow only after status 101."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises DecodeError for bytes that this project's server never sends."""
        self._held += data
        if self.status is None:
            self._take_handshake()
        while self.status == 101:
            taken = _take(self._held)
            if taken is None:
                return
            frame, length = taken
            self._held = self._held[length:]
            yield frame

    def _take_handshake(self) -> None:
        head, end, rest = self._held.partition(HANDSHAKE_END)
        if end:
            words = head.split(None, 2)
            if len(words) < 2 or not words[1].isdigit():
                raise DecodeError("the answer is not HTTP")
            self.status, self._held = int(words[1]), rest


def _take(held: bytes) -> tuple[Frame, int] | None:
    """The first frame and its length in bytes; None if it is not complete."""
    if len(held) < 2:
        return None
    if not held[0] & FINAL_BIT or held[1] & MASKED_BIT:
        raise DecodeError("a fragmented or masked frame from the server")
    size = held[1]
    begin = {126: 4, 127: 10}.get(size, 2)
    if len(held) < begin:
        return None
    if begin > 2:
        size = int.from_bytes(held[2:begin], "big")
    if size > MESSAGE_BYTES_MAX:
        raise DecodeError("a message from the server is too large")
    end = begin + size
    return (Frame(held[0] & 0xF, held[begin:end]), end) if len(held) >= end else None
