"""The part of each dialect that a load generator needs. Pure.

The client's messages come from `asr_client` and are encoded in advance. A server's message is read only for what the
figures need: which text is final, which audio it covers, and whether the session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from asr_client.dialects import DIALECTS, talks
from asr_ops.bench import websocket


class Content(NamedTuple):
    """What the figures need of one message."""

    partial: bool = False
    """Whether the message covers audio whose text may still change."""
    end_s: float | None = None
    """End of the audio that the message covers, in seconds. None if the dialect does not report it."""
    final: str | None = None
    """Text that will not change."""
    engine: str | None = None
    ready: bool = False
    ended: bool = False
    error: str | None = None


NOTHING = Content()
Read = Callable[[Mapping[str, Any]], Content]


@dataclass(frozen=True, slots=True)
class WireDialect:
    """One dialect over a WebSocket. Every dialect accepts PCM16 in binary messages."""

    opening: bytes
    """The messages before the audio, as the bytes to send."""
    ending: bytes
    """The messages after the audio, as the bytes to send."""
    reports_ready: bool
    """Whether the server reports when it accepts audio. If not, it accepts audio from the beginning."""
    ends_with_close: bool
    """Whether the server's normal close, and not a message, marks the end of the text."""
    read: Read


def _native(fields: Mapping[str, Any]) -> Content:
    match fields["type"]:
        case "partial":
            return Content(partial=True, end_s=fields["end_s"])
        case "final":
            return Content(final=fields["text"])
        case "ready":
            return Content(ready=True, engine=fields["engine"])
        case "error":
            return Content(error=fields["code"])
        case "end":
            return Content(ended=True)
    return NOTHING


def _caiman(fields: Mapping[str, Any]) -> Content:
    """A response to 60 ms of audio. Most have no text; a text is new and final."""
    text = fields["alternatives"][0]["transcript"].strip()
    return Content(partial=True, end_s=fields["end"], final=text or None)


def _yap(fields: Mapping[str, Any]) -> Content:
    """Each text is the whole text of the session so far."""
    match fields["op"]:
        case "interim":
            return Content(partial=bool(fields["text"]))
        case "final":
            return Content(final=fields["text"], ended=True)
        case "error":
            return Content(error=fields["reason"])
    return NOTHING


def _parakeet(fields: Mapping[str, Any]) -> Content:
    """Parakeet and AMIRA: each text is the whole text of the session so far. Only AMIRA sends errors."""
    match fields["type"]:
        case "partial":
            return Content(partial=True)
        case "final":
            return Content(final=fields["text"], ended=True)
        case "error":
            return Content(error=fields["code"])
    return NOTHING


def _deepgram(fields: Mapping[str, Any]) -> Content:
    match fields["type"]:
        case "Results" if fields["is_final"]:
            return Content(final=fields["channel"]["alternatives"][0]["transcript"])
        case "Results":
            return Content(partial=True, end_s=fields["start"] + fields["duration"])
        case "Error":
            return Content(error=fields["variant"])
    return NOTHING


READERS: Mapping[str, Read] = {
    "native": _native,
    "caiman": _caiman,
    "yap": _yap,
    "parakeet": _parakeet,
    "amira": _parakeet,
    "deepgram": _deepgram,
}


def prepared(name: str) -> WireDialect:
    """The dialect of that name with encoded messages. They are the same in every session."""
    talk = DIALECTS[name].talk(None)
    return WireDialect(
        opening=_on_the_wire(talk.opening()),
        ending=_on_the_wire(talk.ending()),
        reports_ready=talk.waits_for_ready,
        ends_with_close=talk.ends_with_close,
        read=READERS[name],
    )


def _on_the_wire(messages: list[talks.Message]) -> bytes:
    return b"".join(
        websocket.encode(websocket.TEXT, message.encode())
        if isinstance(message, str)
        else websocket.encode(websocket.BINARY, message)
        for message in messages
    )
