"""The ZeroMQ connection between a worker and one broker: sends and receives messages, reports connects and breaks."""

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
        """The parts of one message; None when no message waits."""
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def send(self, parts: list[bytes]) -> bool:
        """Queue a message. False when the queue is full, because the broker does not read."""
        try:
            self.socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def poll(self, now: float) -> list[bool]:
        """The changes of the connection since the last call: True each time it came up, False each time it broke."""
        return self._dialer.poll(now)

    def close(self) -> None:
        """Close the socket. ZeroMQ goes on sending queued messages for at most LINGER_MS."""
        self._dialer.close()
        self.socket.close()
