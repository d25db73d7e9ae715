"""The ZeroMQ leg between a worker and one broker: messages in, messages out, and whether the connection stands."""

from __future__ import annotations

import secrets
from typing import Any

import zmq

from asr_process import curve

LINGER_MS = 1000


class Link:
    """A DEALER socket that is polled together with its monitor."""

    def __init__(self, context: zmq.Context[Any], broker: curve.BrokerAt) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, b"W" + secrets.token_bytes(8))
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._dialer = curve.Dialer(self.socket, broker.endpoint, broker.keys)
        self.monitor = self._dialer.monitor

    def receive(self) -> list[bytes] | None:
        """One message's parts; None when nothing waits."""
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def send(self, parts: list[bytes]) -> bool:
        """Queue a message; False when nobody has read for longer than the queue holds."""
        try:
            self.socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def poll(self, now: float) -> list[bool]:
        """What became of the connection since the last call: True each time it came up, False each time it broke."""
        return self._dialer.poll(now)

    def close(self) -> None:
        """Let go of the socket; what was sent may still leave for a moment."""
        self._dialer.close()
        self.socket.close()
