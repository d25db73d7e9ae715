"""Clients for the end-to-end tests: a raw one for `/v1/stream`, one for CAIMAN-ASR, one below WebSocket, and audio."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from asr_proto.audio import to_int16
from asr_workers.engines.fake import transcript

WAIT_S = 30.0
CAIMAN = "/asr/v0.1/stream?content_type=audio/x-raw;format=S16LE;channels=1;rate=16000"
Message = dict[str, Any]


# ---- Audio ----


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> bytes:
    """PCM16LE that never repeats, so that each changed sample changes the fake engine's words."""
    samples = np.random.default_rng(seed).integers(-9000, 9000, int(seconds * rate), dtype=np.int16)
    return samples.astype("<i2").tobytes()


def expected(pcm: bytes) -> str:
    """The fake engine's text of 16 kHz samples without a flush before their end."""
    return transcript(to_int16(pcm))


def cut(pcm: bytes, size: int) -> list[bytes]:
    """Frames of `size` bytes; 0 for random sizes, odd ones too."""
    if size:
        return [pcm[start : start + size] for start in range(0, len(pcm), size)]
    randomly = random.Random(len(pcm))
    sizes = itertools.accumulate(randomly.choice((1, 3, 321, 640, 1999, 4801, 16_001)) for _ in itertools.count())
    edges = [0, *itertools.takewhile(lambda edge: edge < len(pcm), sizes), len(pcm)]
    return [pcm[start:end] for start, end in itertools.pairwise(edges)]


# ---- WebSocket ----


def websocket(url: str, **options: Any) -> AbstractContextManager[ClientConnection]:
    """A connection with the settings of a plain client."""
    timeouts = {"open_timeout": WAIT_S, "close_timeout": 2}
    connection: AbstractContextManager[ClientConnection]
    connection = connect(url, compression=None, ping_interval=None, **timeouts, **options)
    return connection


class Native:
    """One conversation on `/v1/stream`, message by message. With `start=None` no start is sent."""

    def __init__(self, url: str, start: Message | None = {}, path: str = "/v1/stream") -> None:  # noqa: B006
        self.received: list[Message] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._exits = ExitStack()
        self.socket = self._exits.enter_context(websocket(url + path))
        if start is not None:
            self.send_message("start", **start)

    def ready(self) -> Message:
        """Wait until the server accepts audio."""
        return self.until("ready")

    def send_message(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.socket.send(frame)

    def receive(self, timeout_s: float = WAIT_S) -> Message | None:
        """The next message, None when the server has closed. Raises TimeoutError."""
        try:
            message: Message = json.loads(self.socket.recv(timeout_s))
        except ConnectionClosed as error:
            if error.rcvd is not None:
                self.close_code, self.close_reason = error.rcvd.code, error.rcvd.reason
            return None
        self.received.append(message)
        return message

    def until(self, kind: str) -> Message:
        """The next message of this type; earlier messages are in `received`."""
        while (message := self.receive()) is not None:
            if message["type"] == kind:
                return message
        raise AssertionError(f"closed ({self.close_code} {self.close_reason}) before {kind!r}: {self.received[-5:]}")

    def rest(self) -> list[Message]:
        """All messages up to the server's close."""
        while self.receive() is not None:
            pass
        return self.received

    def stop(self) -> list[Message]:
        """End the audio; returns all messages up to the server's close."""
        self.send_message("stop")
        return self.rest()

    @property
    def text(self) -> str:
        return " ".join(final["text"] for final in self.of("final"))

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.received if message["type"] == kind]

    def error(self) -> Message:
        """The error that ended the session. Waits for the server's close."""
        self.rest()
        assert self.received, (self.close_code, self.close_reason)
        assert self.received[-1]["type"] == "error", self.received[-3:]
        assert not self.of("end")
        return self.received[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()


def converse(url: str, frames: Sequence[bytes], **start: Any) -> Native:
    """A whole conversation: start, audio, stop, up to the close."""
    with Native(url, start) as client:
        client.send(*frames)
        client.stop()
        return client


class Caiman:
    """One conversation on `/asr/v0.1/stream` with the package `websockets`."""

    def __init__(self, url: str, path: str = CAIMAN, **options: Any) -> None:
        self.received: list[Message] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._exits = ExitStack()
        self.socket = self._exits.enter_context(websocket(url + path, **options))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.socket.send(frame)

    def receive(self, timeout_s: float = WAIT_S) -> Message | None:
        """The next response, None when the server has closed."""
        try:
            self.received.append(json.loads(self.socket.recv(timeout_s)))
        except ConnectionClosed as error:
            if error.rcvd is not None:
                self.close_code, self.close_reason = error.rcvd.code, error.rcvd.reason
            return None
        return self.received[-1]

    def end(self) -> list[Message]:
        """End the audio; returns all responses up to the server's close."""
        self.send(b"")
        return self.rest()

    def rest(self) -> list[Message]:
        while self.receive() is not None:
            pass
        return self.received

    @property
    def text(self) -> str:
        return transcript_of(self.received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()


def transcript_of(responses: Sequence[Message]) -> str:
    """CAIMAN-ASR's whole text: the concatenation of all transcripts."""
    return "".join(alternative["transcript"] for response in responses for alternative in response["alternatives"])


# ---- Below WebSocket ----


class RawClient:
    """A WebSocket client that reads only on request, and can vanish."""

    def __init__(self, port: int, path: str = "/v1/stream", *, timeout_s: float = WAIT_S) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._unread = b""
        while b"\r\n\r\n" not in self._unread:
            self._unread += self._receive()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        assert b" 101 " in head, head

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def send_message(self, kind: str, **fields: Any) -> None:
        self._frame(1, json.dumps({"type": kind, **fields}).encode())

    def send(self, data: bytes) -> None:
        self._frame(2, data)

    def vanish(self) -> None:
        """Reset the connection: no close frame, no FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of all further frames, up to a close frame or the end of the connection."""
        while True:
            head = self._take(2)
            if len(head) < 2:
                return
            length = head[1] & 127
            if length > 125:
                length = int.from_bytes(self._take(2 if length == 126 else 8))
            payload = self._take(length)
            if len(payload) < length:
                return
            yield head[0] & 15, payload
            if head[0] & 15 == 8:
                return

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65_536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        self.socket.sendall(head + bytes(4) + payload)  # a mask of zeros leaves the payload as it is

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            data = self._receive()
            if not data:
                break
            self._unread += data
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except ConnectionError:
            return b""


def paced(frames: Sequence[bytes], frame_s: float) -> Iterator[bytes]:
    """The frames at the speed of speech."""
    start = time.monotonic()
    for number, frame in enumerate(frames, 1):
        time.sleep(max(0.0, start + number * frame_s - time.monotonic()))
        yield frame
