"""The ZeroMQ connection between a frontend and one broker, on an asyncio loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import zmq

from asr_process import curve

TURN_MESSAGES_MAX = 256
"""Messages that are read in one turn of the loop."""
WATCH_S = 1.0
"""Interval at which the state of the connection is checked, in seconds."""


class Link:
    """A DEALER socket. It calls `on_message` with the parts of each message that it receives.

    It calls `on_change` with True when the connection is up, and with False when it has broken.
    """

    def __init__(
        self, broker: curve.BrokerAt, on_message: Callable[[list[bytes]], None], on_change: Callable[[bool], None]
    ) -> None:
        self._on_message, self._on_change = on_message, on_change
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"F" + secrets.token_bytes(8))
        self._socket.setsockopt(zmq.LINGER, 200)
        self._dialer = curve.Dialer(self._socket, broker.endpoint, broker.keys)
        self._scheduled = False
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._loop.add_reader(self._dialer.monitor.fileno(), self._look)
        self._watching = self._loop.call_later(WATCH_S, self._watch)

    def send(self, parts: list[bytes]) -> bool:
        """Queue a message; False when the broker has not read for longer than the queue holds."""
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        self._schedule()
        return True

    def _schedule(self) -> None:
        """Read in the next turn of the loop. ZeroMQ's descriptor is edge-triggered: after each use it must be read."""
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

    def _look(self) -> None:
        for is_up in self._dialer.poll(self._loop.time()):
            self._on_change(is_up)

    def _watch(self) -> None:
        self._look()
        self._watching = self._loop.call_later(WATCH_S, self._watch)
        self._schedule()

    def close(self) -> None:
        """Stop reading. Queued messages may still be sent for a moment."""
        self._watching.cancel()
        self._loop.remove_reader(self._dialer.monitor.fileno())
        self._dialer.close()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._context.term()
