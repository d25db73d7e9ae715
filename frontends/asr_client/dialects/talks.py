"""What a client says and understands in each dialect. Pure: no sockets, no clock.

A talk is told what the server sent and answers with what it means: the whole text so far, that audio is being taken,
that nothing more will come. Raises ServerError where the server says that the session is over, and DecodeError for
what is no message of the dialect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from asr_client import events
from asr_client.errors import ServerError
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import DecodeError

Message = str | bytes
SID = "asr-client"
"""A client's own label of its session: unique per connection only, and each talk has one."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message means."""

    text: str | None = None
    """The whole text so far, where the message has some."""
    ready: bool = False
    ended: bool = False
    """The text is complete."""


NOTHING = Heard()


class Talk(Protocol):
    """One session's side of a dialect."""

    waits_for_ready: bool
    """Audio is only sent once the server is ready for it."""
    ends_with_close: bool
    """The server's orderly close, not a message, says that the text is complete."""

    def opening(self) -> list[Message]:
        """What is sent first."""

    def ending(self) -> list[Message]:
        """What is sent after the audio."""

    def hear(self, message: Message) -> Heard:
        """What the server's message means."""


class _Text:
    """What will not change any more, and what still may."""

    def __init__(self, separator: str = " ") -> None:
        self._separator = separator
        self._finals: list[str] = []
        self._partial = ""

    def hear(self, text: str, *, final: bool) -> Heard:
        if final:
            self._finals.append(text)
        self._partial = "" if final else text
        return Heard(self._separator.join(part for part in (*self._finals, self._partial) if part))


class Native:
    """`/v1/stream`, the project's own."""

    waits_for_ready = True
    ends_with_close = False

    def __init__(self, model: str | None) -> None:
        self._start = {"type": "start", "sample_rate": SAMPLE_RATE} | ({"model": model} if model else {})
        self._text = _Text()

    def opening(self) -> list[Message]:
        return [json.dumps(self._start)]

    def ending(self) -> list[Message]:
        return [json.dumps({"type": "stop"})]

    def hear(self, message: Message) -> Heard:
        match events.parse(message):
            case ServerError() as error:
                raise error
            case events.Ready():
                return Heard(ready=True)
            case events.Partial(text=text):
                return self._text.hear(text, final=False)
            case events.Final(text=text):
                return self._text.hear(text, final=True)
            case events.End():
                return Heard(ended=True)
        return NOTHING


class Caiman:
    """CAIMAN-ASR: increments, spaces included; the server closes when all is said."""

    waits_for_ready = False
    ends_with_close = True

    def __init__(self, model: str | None) -> None:
        self._text = _Text(separator="")

    def opening(self) -> list[Message]:
        return []

    def ending(self) -> list[Message]:
        return [b""]

    def hear(self, message: Message) -> Heard:
        fields = _object(message)
        alternatives = _list(fields, "alternatives")
        if not alternatives:
            return NOTHING
        return self._text.hear(_string(alternatives[0], "transcript"), final=not fields.get("is_provisional"))


class Yap:
    """Yap FastConformer: cumulative interims; `final` answers `close`."""

    waits_for_ready = False
    ends_with_close = False

    def __init__(self, model: str | None) -> None:
        pass

    def opening(self) -> list[Message]:
        return [json.dumps({"op": "init", "sid": SID, "sr": SAMPLE_RATE})]

    def ending(self) -> list[Message]:
        return [json.dumps({"op": "close", "sid": SID})]

    def hear(self, message: Message) -> Heard:
        fields = _object(message)
        match fields.get("op"):
            case "interim":
                return Heard(_string(fields, "text"))
            case "final":
                return Heard(_string(fields, "text"), ended=True)
            case "ready":
                return Heard(ready=True)
            case "error":
                raise ServerError(str(fields.get("reason", "error")), "the server reports an error")
        return NOTHING


class Moonshine(Yap):
    """Moonshine: as Yap, and audio is only taken after `ready`."""

    waits_for_ready = True

    def ending(self) -> list[Message]:
        return [json.dumps({"op": "close"})]


class Parakeet:
    """Parakeet-TDT: no handshake, control frames among the audio, cumulative partials."""

    waits_for_ready = False
    ends_with_close = False

    def __init__(self, model: str | None) -> None:
        pass

    def opening(self) -> list[Message]:
        return []

    def ending(self) -> list[Message]:
        return [b"__CTRL__:EOS"]

    def hear(self, message: Message) -> Heard:
        fields = _object(message)
        match fields.get("type"):
            case "partial":
                return Heard(_string(fields, "text"))
            case "final":
                return Heard(_string(fields, "text"), ended=True)
        return NOTHING


class Amira(Parakeet):
    """AMIRA: as Parakeet, but the end is a zero byte and errors are messages."""

    def ending(self) -> list[Message]:
        return [b"\x00"]

    def hear(self, message: Message) -> Heard:
        fields = _object(message)
        if fields.get("type") == "error":
            raise ServerError(str(fields.get("code", "error")), str(fields.get("message", "")))
        return super().hear(message)


class Deepgram:
    """Deepgram's `listen`: results by segment; after `CloseStream` the server closes."""

    waits_for_ready = False
    ends_with_close = True

    def __init__(self, model: str | None) -> None:
        self._text = _Text()

    def opening(self) -> list[Message]:
        return []

    def ending(self) -> list[Message]:
        return [json.dumps({"type": "CloseStream"})]

    def hear(self, message: Message) -> Heard:
        fields = _object(message)
        match fields.get("type"):
            case "Results":
                return self._results(fields)
            case "Error":
                raise ServerError(str(fields.get("variant", "error")), str(fields.get("description", "")))
        return NOTHING

    def _results(self, fields: dict[str, Any]) -> Heard:
        channel = fields.get("channel")
        alternatives = _list(channel, "alternatives") if isinstance(channel, dict) else []
        text = _string(alternatives[0], "transcript") if alternatives else ""
        return self._text.hear(text, final=fields.get("is_final") is True)


def _object(message: Message) -> dict[str, Any]:
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
        raise DecodeError(f"the server sent what is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DecodeError("the server sent JSON that is no object")
    return fields


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise DecodeError(f"the server's message has no list {name!r}")
    return value


def _string(fields: Any, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise DecodeError(f"the server's message has no text {name!r}")
    return value
