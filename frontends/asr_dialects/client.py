"""A dialect from the client's side: its path, the messages to send, the meaning of the server's messages. Pure.

`asr client` and `asr bench` both use the one `Client` of each dialect. A `Client` has no sockets and no state; its
`texts` describes how the texts of several messages make the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from asr_proto.errors import DecodeError

Message = str | bytes
Fields = Mapping[str, Any]
"""A JSON object of the server, whose values are not checked."""
DEFAULT_MODEL = "default"
"""The model's name in a path that needs one. Servers with such paths accept any name."""
SID = "asr-client"
"""The client's name of its session, in dialects that need one. It must be unique only within its connection."""


class Meaning(NamedTuple):
    """The meaning of one message of the server."""

    text: str | None = None
    """Text of the kind in `Client.texts`; None if the message has no text."""
    final: bool = False
    """Whether the text will not change any more."""
    end_s: float | None = None
    """End of the transcribed audio in seconds, for a text that may change; None if the dialect does not send it."""
    ready: bool = False
    """Whether the server accepts audio now."""
    engine: str | None = None
    """The engine's name; None if the message does not contain it."""
    ended: bool = False
    """Whether the text is complete."""
    error: str | None = None
    """The dialect's name of an error that has ended the session; None without an error."""
    detail: str = ""
    """The reason of the error, for people."""


NOTHING = Meaning()


def no_opening(_model: str | None) -> list[Message]:
    """The opening of a dialect without a first message."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One dialect's test client. Audio is PCM16LE, 16 kHz, mono, in binary messages."""

    name: str
    path: str
    """The path; `{model}` is replaced by the model's name."""
    query: str = ""
    """The query; `{model}` is replaced by the model's name. Without a model, its parameter is left out."""
    channel: Literal["websocket", "webrtc"] = "websocket"
    messages_per_s_max: int | None = None
    """The dialect's limit on a client's messages per second; None for no limit."""
    opening: Callable[[str | None], list[Message]] = no_opening
    """Returns the messages before the audio, for a model's name or None."""
    ending: tuple[Message, ...]
    """The messages after the audio."""
    waits_for_ready: bool = False
    """Whether audio is sent only after the server is ready for it."""
    ends_with_close: bool = False
    """Whether the server's orderly close, and no message, means that the text is complete."""
    texts: Literal["whole", "utterances", "increments"] = "whole"
    """A message's text: all text so far, that of the current utterance, or the new text since the last final one."""
    read: Callable[[Fields], Meaning]
    """Returns the meaning of a message of the server. Raises DecodeError for a message that lacks a required field."""

    def path_for(self, model: str | None) -> str:
        """The path for a model; without a model, DEFAULT_MODEL if the path contains one."""
        return self.path.format(model=quote(model or DEFAULT_MODEL, safe=""))

    def query_for(self, model: str | None) -> str:
        """The query for a model, or without one."""
        kept = [part for part in self.query.split("&") if model or "{model}" not in part]
        return "&".join(kept).format(model=quote(model or "", safe=""))


def parse(message: Message) -> Fields:
    """The JSON object in a message of the server. Raises DecodeError."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
        raise DecodeError(f"the server sent a message that is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DecodeError("the server sent JSON that is not an object")
    return fields


def string(fields: Any, name: str) -> str:
    """The value of a field that must be a string. Raises DecodeError."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise DecodeError(f"the server's message has no text {name!r}")
    return value


def number(fields: Fields, name: str, default: float | None = None) -> float:
    """The value of a field that must be a number. It may be missing if there is a default. Raises DecodeError."""
    value = fields.get(name, default)
    if not isinstance(value, int | float):
        raise DecodeError(f"the server's message has no number {name!r}")
    return value


def first(fields: Any, name: str) -> Any:
    """The first element of a field that must be a list; None for an empty list. Raises DecodeError."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, list):
        raise DecodeError(f"the server's message has no list {name!r}")
    return value[0] if value else None
