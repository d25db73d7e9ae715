"""A dialect as a load generator needs it. Pure.

The records of the test clients (`asr_dialects`) give the client's messages and read the server's. This module encodes
the client's messages in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asr_dialects.client import Fields, Meaning, Message
from asr_dialects.clients import CLIENTS
from asr_ops.bench import websocket


@dataclass(frozen=True, slots=True)
class WireDialect:
    """One dialect over a WebSocket. Every dialect accepts PCM16 in binary messages."""

    opening: bytes
    """The messages before the audio, as the bytes to send."""
    ending: bytes
    """The messages after the audio, as the bytes to send."""
    waits_for_ready: bool
    """Whether the server reports when it accepts audio. If not, it accepts audio from the beginning."""
    ends_with_close: bool
    """Whether the server's normal close, and not a message, marks the end of the text."""
    read: Callable[[Fields], Meaning]


def prepared(name: str) -> WireDialect:
    """The dialect of that name with encoded messages. They are the same in every session."""
    client = CLIENTS[name]
    return WireDialect(
        opening=_on_the_wire(client.opening(None)),
        ending=_on_the_wire(client.ending),
        waits_for_ready=client.waits_for_ready,
        ends_with_close=client.ends_with_close,
        read=client.read,
    )


def _on_the_wire(messages: Iterable[Message]) -> bytes:
    return b"".join(
        websocket.encode(websocket.TEXT, message.encode())
        if isinstance(message, str)
        else websocket.encode(websocket.BINARY, message)
        for message in messages
    )
