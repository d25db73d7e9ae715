"""Clients that send as fast as they can, and read all answers. `python -m tests.floods.flooder PORT KIND COUNT`.

A flooder whose connection ends comes back after `BACK_S`. The process ends at the end of its stdin, and prints what it
has sent.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

BACK_S = 0.2
"""Time between the end of a connection and the next one."""
BLOCK_BYTES = 65_536
SLOW_BYTES = 10_000_000
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: YXNyIGJlbmNoIGNsaWVudA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, BINARY, PING, TEXT_BEGINS, CONTINUES = 0x81, 0x82, 0x89, 0x01, 0x00


def frame(first: int, payload: bytes = b"") -> bytes:
    """A frame of a client. Its mask of zeros leaves the payload as it is."""
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0x80 | 126)) + size.to_bytes(2)
    return head + bytes(4) + payload


def message(kind: str, **fields: object) -> bytes:
    """A message of the native dialect."""
    return frame(TEXT, json.dumps({"type": kind, **fields}).encode())


@dataclass(frozen=True, slots=True)
class Kind:
    """What a flooder sends: first this, then the same again and again."""

    path: str
    """Where it asks for a WebSocket; empty for plain HTTP."""
    first: bytes
    again: bytes
    every_s: float = 0.0
    """Time between two pieces; 0 for as fast as the server reads."""


NATIVE, START = "/v1/stream", message("start")
UPLOAD = (
    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    f"Content-Length: {SLOW_BYTES}\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
).encode()
KINDS: Mapping[str, Kind] = {
    "keepalive": Kind(NATIVE, START, message("keepalive")),
    "empty": Kind(NATIVE, START, frame(BINARY)),
    "fragments": Kind(NATIVE, START + frame(TEXT_BEGINS, b"x"), frame(CONTINUES)),
    "pings": Kind(NATIVE, START, frame(PING, b"x" * 125)),
    "1-byte": Kind(NATIVE, START, frame(BINARY, b"\x07")),
    "audio": Kind(NATIVE, START, frame(BINARY, bytes(range(256)) * 2 + bytes(128))),
    "flush": Kind(NATIVE, START, message("flush", marker="x")),
    "amira": Kind("/v2/decode/stream/x", b"", frame(BINARY, b"\x01")),
    "no-start": Kind(NATIVE, b"", message("keepalive")),
    "slow-body": Kind("", UPLOAD, bytes(1000), every_s=0.1),
    "body": Kind("", UPLOAD, bytes(BLOCK_BYTES)),
    "requests": Kind("", b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
}


class Flooder:
    """One connection after the other."""

    def __init__(self, port: int, kind: Kind) -> None:
        self._port, self._kind = port, kind
        count = 1 if kind.every_s else max(1, BLOCK_BYTES // len(kind.again))
        self._block = memoryview(kind.again * count)
        self.connections = self.bytes_sent = 0
        self.socket: socket.socket | None = None
        self.at = 0.0
        """When it may send, or come back."""
        self._left = memoryview(b"")
        self._is_upgrading = False
        """Whether the server's answer to the request is awaited."""

    def connect(self) -> socket.socket:
        self.connections += 1
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", self._port))
        path = self._kind.path
        self._left = memoryview(HANDSHAKE.format(path=path).encode() if path else self._kind.first)
        self._is_upgrading = bool(path)
        return self.socket

    def send(self, now: float) -> None:
        """Send what the socket accepts. Raises OSError at the end of the connection."""
        assert self.socket is not None
        if not self._left:
            if self._is_upgrading:
                return
            self._left = self._block
            self.at = now + self._kind.every_s
        sent = self.socket.send(self._left)
        self.bytes_sent += sent
        self._left = self._left[sent:]

    def receive(self) -> None:
        """Read and drop answers. Raises OSError at the end of the connection."""
        assert self.socket is not None
        if not self.socket.recv(262_144):
            raise ConnectionResetError
        if self._is_upgrading:
            self._is_upgrading, self._left = False, memoryview(self._kind.first)

    def lose(self, selector: selectors.BaseSelector, now: float) -> None:
        assert self.socket is not None
        selector.unregister(self.socket)
        self.socket.close()
        self.socket, self.at = None, now + BACK_S


def flood(port: int, kind: Kind, count: int) -> str:
    """Run flooders until the end of stdin; returns what they did."""
    flooders = [Flooder(port, kind) for _ in range(count)]
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            for one in flooders:
                if one.socket is None and one.at <= now:
                    selector.register(one.connect(), selectors.EVENT_READ | selectors.EVENT_WRITE, one)
            for key, events in selector.select(0.05):
                if key.data is None:
                    megabytes = sum(one.bytes_sent for one in flooders) / 1e6
                    return f"{sum(one.connections for one in flooders)} connections, {megabytes:.1f} MB"
                _serve(key.data, events, selector, now)
            if kind.every_s:
                time.sleep(0.01)


def _serve(flooder: Flooder, events: int, selector: selectors.BaseSelector, now: float) -> None:
    try:
        if events & selectors.EVENT_READ:
            flooder.receive()
        if events & selectors.EVENT_WRITE and flooder.at <= now:
            flooder.send(now)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
            flooder.lose(selector, now)


def main() -> None:
    port, name, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(flood(port, KINDS[name], count))


if __name__ == "__main__":
    main()
