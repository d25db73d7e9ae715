"""The server's messages as values: one frozen dataclass for each type, and the parser of the `/v1/stream` JSON.

The parser needs no socket and no session, so it also reads a recorded conversation. All times are seconds of audio
since the session's start. Unknown message types and fields are skipped, so that an older client works with a newer
server; a known message without a required field is a DecodeError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asr_client.errors import ServerError
from asr_proto.errors import DecodeError

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a hypothesis; `confidence` is 0..1, None if the engine does not measure it."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The session accepts audio. `sample_rate` is that of the client's audio, in Hz."""

    session: str
    model: str
    language: str
    sample_rate: int
    engine: str
    from_sample: int | None = None
    """First sample that the client must send again; set only in the answer to `resume`."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The text of the utterance so far: cumulative, may change.

    The first `stable` characters of the text will not change; None if the engine does not report this.
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
    """A whole utterance; never changes. `endpoint` is what ended it: `silence`, `length` or `flush`.

    `committed`: the client may drop audio before this sample. None from a server that does not report it.
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
    """Samples accepted so far, and the sample before which audio may be dropped; at the client's sample rate."""

    samples: int
    committed: int


@dataclass(frozen=True, slots=True)
class Migrating:
    """The worker was lost; the session continues on another worker. The program need not react."""


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server closes within `time_left_s`; the session continues on another server. The program need not react."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection broke `gap_s` seconds ago; the session continues over a new one, and nothing is lost.

    Not a message of the server; the program need not react. `resumed`: the server had kept the session. Otherwise the
    client began a new one with the unconfirmed audio, and its results continue the numbers of the old one.
    """

    resumed: bool
    gap_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The server has sent all results. `reason` is `stopped`."""

    reason: str


Event = Ready | Partial | Final | Flushed | Ack | Migrating | GoAway | Reconnected | End


def parse(message: str | bytes) -> Event | ServerError | None:
    """The event in one JSON text frame; a ServerError (returned, not raised) for `error`; None for an unknown type.

    Raises DecodeError for a frame that is not JSON, is no object, or lacks a required field.
    """
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:  # ValueError includes text that is not UTF-8
        raise DecodeError(f"the server sent a message that is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DecodeError("the server sent JSON that is no object")
    build = _BUILDERS.get(str(fields.get("type")))
    return None if build is None else build(fields)


_REQUIRED: Any = object()


def _take(fields: Fields, name: str, kind: type | tuple[type, ...], default: Any = _REQUIRED) -> Any:
    """The field if it has the right type; null counts as absent. Raises DecodeError."""
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


def _error(fields: Fields) -> ServerError:
    message = str(_take(fields, "message", str, ""))
    return ServerError(_text(fields, "code"), message, _optional_number(fields, "retry_after_s"))


_BUILDERS: dict[str, Callable[[Fields], Event | ServerError]] = {
    "ready": _ready,
    "partial": _partial,
    "final": _final,
    "flushed": lambda fields: Flushed(_text(fields, "marker")),
    "ack": lambda fields: Ack(_whole(fields, "samples"), _whole(fields, "committed")),
    "migrating": lambda _fields: Migrating(),
    "goaway": lambda fields: GoAway(_number(fields, "time_left_s")),
    "end": lambda fields: End(_text(fields, "reason")),
    "error": _error,
}
