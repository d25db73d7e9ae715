"""What a server of `/v1/stream` sends, as values: one frozen dataclass a message, and their parser. Pure.

It can be used on a recorded conversation. All times are seconds of audio since the session's start. Message types and
fields that it does not have are skipped, so that an older client works with a newer server; a known message that lacks
a field is a DecodeError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asr_dialects import native
from asr_dialects.client import Fields
from asr_dialects.client import parse as parse_object
from asr_proto.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a hypothesis; `confidence` is 0..1, None where the engine does not measure it."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Audio is being taken. `sample_rate` is the client's, in Hz."""

    session: str
    model: str
    language: str
    sample_rate: int
    engine: str
    from_sample: int | None = None
    """Set in the answer to `resume`: from where the server wants the audio again."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The utterance so far: cumulative, may change.

    `stable` characters of the text will come in a final as they are; None where the engine does not know.
    """

    seq: int
    utterance: int
    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    stable: int | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """A whole utterance; never changes. `endpoint` says what ended it: `silence`, `length` or `flush`.

    `committed` is the sample from which audio must be kept behind it, None from a server that does not say.
    """

    seq: int
    utterance: int
    text: str
    start_s: float
    end_s: float
    endpoint: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    committed: int | None = None


@dataclass(frozen=True, slots=True)
class Flushed:
    """All text before the flush with this marker has been sent."""

    marker: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Samples taken over so far, and the sample from which audio must be kept; both at the client's sample rate."""

    samples: int
    committed: int


@dataclass(frozen=True, slots=True)
class Migrating:
    """The worker was lost; the session goes on with another one. Nothing to do."""


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server will close within `time_left_s`; the session goes on with another one. Nothing to do."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class End:
    """Everything was sent. `reason` is `stopped`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The session is over. `code` is the error's slug."""

    code: str
    message: str
    retry_after_s: float | None


ServerEvent = Ready | Partial | Final | Flushed | Ack | Migrating | GoAway | End | Failure


def parse(message: str | bytes) -> ServerEvent | None:
    """The event in one JSON text frame; None for a type that this module does not have.

    Raises DecodeError for what is not JSON, not an object, or lacks a field of its type.
    """
    fields = parse_object(message)
    build = _BUILDERS.get(str(fields.get("type")))
    return None if build is None else build(fields)


_REQUIRED: Any = object()


def _take(fields: Fields, name: str, kind: type | tuple[type, ...], default: Any = _REQUIRED) -> Any:
    """The field, checked for its type; null counts as absent."""
    value = fields.get(name)
    if value is None:
        if default is _REQUIRED:
            raise DecodeError(f"the server's {fields.get('type', 'word')!r} has no {name!r}")
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DecodeError(f"the server's {fields.get('type', 'word')!r} has a {name!r} of the wrong type")
    return value


def _text(fields: Fields, name: str) -> str:
    return str(_take(fields, name, str))


def _whole(fields: Fields, name: str) -> int:
    return int(_take(fields, name, int))


def _optional_whole(fields: Fields, name: str) -> int | None:
    value = _take(fields, name, int, None)
    return None if value is None else int(value)


def _number(fields: Fields, name: str) -> float:
    return float(_take(fields, name, (int, float)))


def _optional_number(fields: Fields, name: str) -> float | None:
    value = _take(fields, name, (int, float), None)
    return None if value is None else float(value)


def _words(fields: Fields) -> tuple[Word, ...]:
    return tuple(_word(word) for word in _take(fields, "words", list, ()))


def _word(fields: object) -> Word:
    if not isinstance(fields, dict):
        raise DecodeError("the server sent a word that is no object")
    confidence = _optional_number(fields, "confidence")
    return Word(_text(fields, "word"), _number(fields, "start_s"), _number(fields, "end_s"), confidence)


def _ready(fields: Fields) -> Ready:
    return Ready(
        session=_text(fields, "session"),
        model=_text(fields, "model"),
        language=_text(fields, "language"),
        sample_rate=_whole(fields, "sample_rate"),
        engine=_text(fields, "engine"),
        from_sample=_optional_whole(fields, "from_sample"),
    )


def _hypothesis(fields: Fields) -> dict[str, Any]:
    return {
        "seq": _whole(fields, "seq"),
        "utterance": _whole(fields, "utterance"),
        "text": _text(fields, "text"),
        "start_s": _number(fields, "start_s"),
        "end_s": _number(fields, "end_s"),
        "words": _words(fields),
    }


def _partial(fields: Fields) -> Partial:
    return Partial(**_hypothesis(fields), stable=_optional_whole(fields, "stable"))


def _final(fields: Fields) -> Final:
    confidence = _optional_number(fields, "confidence")
    committed = _optional_whole(fields, "committed")
    return Final(**_hypothesis(fields), endpoint=_text(fields, "endpoint"), confidence=confidence, committed=committed)


def _error(fields: Fields) -> Failure:
    message = str(_take(fields, "message", str, ""))
    return Failure(_text(fields, "code"), message, _optional_number(fields, "retry_after_s"))


_BUILDERS: dict[str, Callable[[Fields], ServerEvent]] = {
    native.READY: _ready,
    native.PARTIAL: _partial,
    native.FINAL: _final,
    native.FLUSHED: lambda fields: Flushed(_text(fields, "marker")),
    native.ACK: lambda fields: Ack(_whole(fields, "samples"), _whole(fields, "committed")),
    native.MIGRATING: lambda _fields: Migrating(),
    native.GOAWAY: lambda fields: GoAway(_number(fields, "time_left_s")),
    native.END: lambda fields: End(_text(fields, "reason")),
    native.ERROR: _error,
}
