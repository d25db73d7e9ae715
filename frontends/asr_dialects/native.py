"""The project's own messages, `/v1/stream`: JSON with a `type`, binary audio. Specified in frontends/README.md.

What the server sends is written here; `native_events` reads it.
"""

from __future__ import annotations

import json
from typing import Any, TypedDict

from asr_dialects.client import NOTHING, Client, Fields, Meaning, Message, number, string
from asr_proto.audio import SAMPLE_RATE

PATH = "/v1/stream"
START, FLUSH, KEEPALIVE, STOP = "start", "flush", "keepalive", "stop"
"""Of the client."""
READY, PARTIAL, FINAL, FLUSHED, ACK = "ready", "partial", "final", "flushed", "ack"
MIGRATING, GOAWAY, END, ERROR = "migrating", "goaway", "end", "error"
"""Of the server."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


# ---- Of the client ----


class Resume(TypedDict):
    """The session that a `start` continues, and how many finals of it have come."""

    session: str
    finals: int


class Start(TypedDict, total=False):
    """The fields of `start`. Who reads them from a client checks the values."""

    model: str
    language: str
    sample_rate: int
    partials: bool
    look_ahead_ms: int
    resume: Resume


def start(fields: Start) -> str:
    """The first message."""
    return _from_client(START, **fields)


def flush(marker: str) -> str:
    """End the utterance here."""
    return _from_client(FLUSH, marker=marker)


def keepalive() -> str:
    """The client is there, though it sends no audio."""
    return _from_client(KEEPALIVE)


def stop() -> str:
    """No more audio."""
    return _from_client(STOP)


def _from_client(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields}, ensure_ascii=False)


# ---- Of the server ----


class Word(TypedDict, total=False):
    """One word of a final; times in seconds."""

    word: str
    start_s: float
    end_s: float
    confidence: float


class Hypothesis(TypedDict):
    """What a partial and a final have in common."""

    seq: int
    utterance: int
    text: str
    start_s: float
    end_s: float


def ready(session: str, model: str, language: str, sample_rate: int, engine: str, from_sample: int | None) -> str:
    """Audio is being taken; of a resumed session from that sample on."""
    resumed = {} if from_sample is None else {"resumed": True, "from_sample": from_sample}
    return _text(
        READY, session=session, model=model, language=language, sample_rate=sample_rate, engine=engine, **resumed
    )


def partial(hypothesis: Hypothesis, stable: int | None) -> str:
    """The utterance so far."""
    if stable is None:
        return _text(PARTIAL, **hypothesis)
    return _text(PARTIAL, **hypothesis, stable=stable)


def final(
    hypothesis: Hypothesis, endpoint: str, committed: int, confidence: float | None, words: list[Word] | None
) -> str:
    """A whole utterance."""
    more: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    if words is not None:
        more["words"] = words
    return _text(FINAL, **hypothesis, endpoint=endpoint, committed=committed, **more)


def word(text: str, start_s: float, end_s: float, confidence: float | None) -> Word:
    """One word of a final."""
    fields: Word = {"word": text, "start_s": start_s, "end_s": end_s}
    if confidence is not None:
        fields["confidence"] = confidence
    return fields


def flushed(marker: str) -> str:
    """All text before the flush with this marker has been sent."""
    return _text(FLUSHED, marker=marker)


def ack(samples: int, committed: int) -> str:
    """Samples taken over so far, and the sample from which a client must keep its audio."""
    return _text(ACK, samples=samples, committed=committed)


def notice(kind: str) -> str:
    """Something a client may like to know, as MIGRATING."""
    return _text(kind)


def goaway(time_left_s: float) -> str:
    """The server will close within that time."""
    return _text(GOAWAY, time_left_s=time_left_s)


def end(reason: str) -> str:
    """Everything was sent."""
    return _text(END, reason=reason)


def error(code: str, message: str, retry_after_s: float = 0.0) -> str:
    """The session is over."""
    more = {"retry_after_s": retry_after_s} if retry_after_s else {}
    return _text(ERROR, code=code, message=message, **more)


def _text(kind: str, **fields: Any) -> str:
    return _ENCODER.encode({"type": kind, **fields})


# ---- The test client ----


def _opening(model: str | None) -> list[Message]:
    return [start({"sample_rate": SAMPLE_RATE, "model": model} if model else {"sample_rate": SAMPLE_RATE})]


def _read(fields: Fields) -> Meaning:
    match fields.get("type"):
        case "partial":
            return Meaning(string(fields, "text"), end_s=number(fields, "end_s"))
        case "final":
            return Meaning(string(fields, "text"), final=True)
        case "ready":
            return Meaning(ready=True, engine=string(fields, "engine"))
        case "error":
            return Meaning(error=string(fields, "code"), detail=str(fields.get("message", "")))
        case "end":
            return Meaning(ended=True)
    return NOTHING


CLIENT = Client(
    name="native",
    path=PATH,
    opening=_opening,
    ending=(stop(),),
    waits_for_ready=True,
    texts="utterances",
    read=_read,
)
