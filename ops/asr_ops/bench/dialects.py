"""A dialect as a load generator needs it. Pure.

What is sent and what messages mean comes from the records of the test clients (`asr_dialects`); here it is put on the
wire beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asr_dialects.client import Fields, Meaning, Message
from asr_dialects.clients import CLIENTS
from asr_ops.bench import websocket


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect over a WebSocket; every one of them takes PCM16 in binary messages."""

    opening: bytes
    """What is sent first, as it goes over the wire."""
    ending: bytes
    """What is sent after the audio."""
    waits_for_ready: bool
    """Whether the server sends a message when it takes audio; otherwise it takes audio from the beginning."""
    ends_with_close: bool
    """The server's orderly close, not a message, says that the text is complete."""
    read: Callable[[Fields], Meaning]


def prepared(name: str) -> Dialect:
    """The dialect of that name, ready to be spoken many times: no message of it differs from session to session."""
    client = CLIENTS[name]
    return Dialect(
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
