"""What each dialect means to a load generator. Pure.

The words are those of `asr_client`; here they are put on the wire beforehand, and a message is read for what the
figures need only: which text is certain, up to where the audio has been heard, whether the session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from asr_client.dialects import DIALECTS, talks
from asr_ops.bench import websocket


class Content(NamedTuple):
    """What one message means."""

    partial: bool = False
    """It speaks of audio, and is not the last word about it."""
    end_s: float | None = None
    """Up to where in the audio it speaks, where the dialect says so."""
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
    """One dialect over a WebSocket; every one of them takes PCM16 in binary messages."""

    opening: bytes
    """What is sent first, as it goes over the wire."""
    ending: bytes
    """What is sent after the audio."""
    reports_ready: bool
    """Whether the server says when it takes audio; otherwise it does from the beginning."""
    ends_with_close: bool
    """The server's orderly close, not a message, says that the text is complete."""
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
    """An answer to 60 ms of audio, mostly without text; what it has of it is new."""
    text = fields["alternatives"][0]["transcript"].strip()
    return Content(partial=True, end_s=fields["end"], final=text or None)


def _yap(fields: Mapping[str, Any]) -> Content:
    """Texts are whole."""
    match fields["op"]:
        case "interim":
            return Content(partial=bool(fields["text"]))
        case "final":
            return Content(final=fields["text"], ended=True)
        case "error":
            return Content(error=fields["reason"])
    return NOTHING


def _parakeet(fields: Mapping[str, Any]) -> Content:
    """Texts are whole. AMIRA's are too, and only it has errors."""
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
    """The dialect of that name, ready to be spoken many times: no message of it differs from session to session."""
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
