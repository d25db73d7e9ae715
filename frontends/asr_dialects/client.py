"""A dialect as a client sees it: where it is served, what is sent, what the server's messages mean. Pure.

One `Client` a dialect serves `asr client` and `asr bench` alike. It must not know sockets, and keeps no state: how the
texts of several messages make the whole text is in `texts`.
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
"""A JSON object of the server. Its values are not checked yet."""
DEFAULT_MODEL = "default"
"""For a server that takes any name."""
SID = "asr-client"
"""A client's own label of its session, in dialects that want one. It must be unique only within its connection."""


class Meaning(NamedTuple):
    """What one message of the server means."""

    text: str | None = None
    """Text of the kind that `Client.texts` names, where the message has some."""
    final: bool = False
    """The text will not change any more."""
    end_s: float | None = None
    """Up to where in the audio a text that is a step on the way goes, where the dialect tells."""
    ready: bool = False
    """Audio is being taken."""
    engine: str | None = None
    ended: bool = False
    """The text is complete."""
    error: str | None = None
    """Set: the session is over, and this is the dialect's name of the reason."""
    detail: str = ""
    """The reason for people."""


NOTHING = Meaning()


def no_opening(_model: str | None) -> list[Message]:
    """The opening of a dialect without one."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One dialect's test client. Audio is PCM16LE, 16 kHz, mono, in binary messages."""

    name: str
    path: str
    """`{model}` stands for the model's name."""
    query: str = ""
    """`{model}` here is left out, with its parameter, when no model is asked for."""
    channel: Literal["websocket", "webrtc"] = "websocket"
    messages_per_s_max: int | None = None
    """The dialect's own limit on a client's messages."""
    opening: Callable[[str | None], list[Message]] = no_opening
    """What is sent before the audio, by the model that is asked for."""
    ending: tuple[Message, ...]
    """What is sent after the audio."""
    waits_for_ready: bool = False
    """Audio is sent only once the server is ready for it."""
    ends_with_close: bool = False
    """The server's orderly close means that the text is complete; no message does."""
    texts: Literal["whole", "utterances", "increments"] = "whole"
    """A message's text is all text so far, that of the current utterance, or what is new since the last final text."""
    read: Callable[[Fields], Meaning]
    """What a message of the server means. Raises DecodeError for a message that lacks what it must have."""

    def path_for(self, model: str | None) -> str:
        """The path that asks for a model; a path that must name one has DEFAULT_MODEL otherwise."""
        return self.path.format(model=quote(model or DEFAULT_MODEL, safe=""))

    def query_for(self, model: str | None) -> str:
        """The query that asks for a model, or for none."""
        kept = [part for part in self.query.split("&") if model or "{model}" not in part]
        return "&".join(kept).format(model=quote(model or "", safe=""))


def parse(message: Message) -> Fields:
    """The JSON object that a server sent. Raises DecodeError."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
        raise DecodeError(f"the server sent what is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DecodeError("the server sent JSON that is no object")
    return fields


def string(fields: Any, name: str) -> str:
    """A field that must be a text. Raises DecodeError."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise DecodeError(f"the server's message has no text {name!r}")
    return value


def number(fields: Fields, name: str, default: float | None = None) -> float:
    """A field that must be a number; it may be left out where there is a default. Raises DecodeError."""
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
