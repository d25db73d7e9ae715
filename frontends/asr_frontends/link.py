"""The ZeroMQ leg between a frontend and the broker, on an asyncio loop: send a message, be told of messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import zmq

from asr_proto import wire
from asr_proto.errors import SetupError

QUEUE_MESSAGES_MAX = 20_000
TURN_MESSAGES_MAX = 256


class Link:
    """A DEALER socket whose messages are handed to `on_message` as their parts."""

    def __init__(self, endpoint: str, on_message: Callable[[list[bytes]], None]) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"F" + secrets.token_bytes(8))
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES_MAX)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.BODY_BYTES_MAX)
        self._socket.setsockopt(zmq.LINGER, 200)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise SetupError(f"cannot connect to {endpoint}: {error}") from error
        self._scheduled = False
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self, parts: list[bytes]) -> bool:
        """Queue a message; False when the broker has not read for longer than the queue holds."""
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        self._schedule()
        return True

    def _schedule(self) -> None:
        """The socket's descriptor is edge-triggered: after any use, look again."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._scheduled = False
        for _ in range(TURN_MESSAGES_MAX):
            if self._socket.closed:
                return
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._on_message(parts)
        self._schedule()

    def close(self) -> None:
        """Stop reading; what was sent may still leave for a moment."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._context.term()
