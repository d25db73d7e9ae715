"""Deepgram's live messages, `/v1/listen`: options in the query, binary audio, JSON with a `type`."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from asr_dialects.client import NOTHING, Client, Fields, Meaning, first, number, string

PATH = "/v1/listen"
SUBPROTOCOL = "token"
KEEPALIVE, FINALIZE, CLOSE_STREAM, CONFIGURE = "KeepAlive", "Finalize", "CloseStream", "Configure"
"""Of the client."""
CHANNEL = [0, 1]
"""Channel 0 of 1: channels are mixed into one."""
QUERY = "encoding=linear16&sample_rate=16000&channels=1&interim_results=true"


class Word(TypedDict):
    """One word of a result; times in seconds."""

    word: str
    start: float
    end: float
    confidence: float
    punctuated_word: str


class Alternative(TypedDict):
    """The words of a result."""

    transcript: str
    confidence: float
    words: list[Word]


class ModelInfo(TypedDict):
    """The model that a session uses."""

    name: str
    version: str
    arch: str


class ResultMetadata(TypedDict):
    """Where a result comes from."""

    request_id: str
    model_info: ModelInfo
    model_uuid: str


def from_client(kind: str) -> str:
    """A message of the client."""
    return json.dumps({"type": kind})


def results(
    start_s: float,
    end_s: float,
    alternative: Alternative,
    metadata: ResultMetadata,
    *,
    is_final: bool,
    speech_final: bool,
    from_finalize: bool,
) -> str:
    """The text of one stretch of audio."""
    return _message(
        "Results",
        channel_index=CHANNEL,
        duration=round(end_s - start_s, 3),
        start=start_s,
        is_final=is_final,
        speech_final=speech_final,
        channel={"alternatives": [alternative]},
        metadata=metadata,
        from_finalize=from_finalize,
    )


def speech_started(timestamp: float) -> str:
    """Speech was found."""
    return _message("SpeechStarted", channel=CHANNEL, timestamp=timestamp)


def utterance_end(last_word_end: float) -> str:
    """A gap after the last word was long enough."""
    return _message("UtteranceEnd", channel=CHANNEL, last_word_end=last_word_end)


def configure_failure(request_id: str) -> str:
    """The answer to a Configure."""
    return _message(
        "ConfigureFailure",
        request_id=request_id,
        code="CONFIGURE_KEYTERMS_NOT_SUPPORTED",
        description="nothing can be configured while audio is being taken",
    )


def metadata(
    request_id: str, sha256: str, created: str, duration: float, channels: int, model_uuid: str, model_info: ModelInfo
) -> str:
    """The last message of a session."""
    return _message(
        "Metadata",
        transaction_key="deprecated",
        request_id=request_id,
        sha256=sha256,
        created=created,
        duration=duration,
        channels=channels,
        models=[model_uuid],
        model_info={model_uuid: model_info},
    )


def error(variant: str, detail: str) -> str:
    """The session is over."""
    return _message("Error", variant=variant, description=detail, message=detail)


def refusal(detail: str, request_id: str) -> str:
    """The body of an HTTP answer that refuses a request."""
    return _to_json({"err_code": "Bad Request", "err_msg": detail, "request_id": request_id})


def _message(kind: str, **fields: Any) -> str:
    return _to_json({"type": kind, **fields})


def _to_json(fields: Fields) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _read(fields: Fields) -> Meaning:
    match fields.get("type"):
        case "Results":
            return _read_results(fields)
        case "Error":
            return Meaning(error=str(fields.get("variant", "error")), detail=str(fields.get("description", "")))
    return NOTHING


def _read_results(fields: Fields) -> Meaning:
    best = first(fields.get("channel", {"alternatives": []}), "alternatives")
    text = string(best, "transcript") if best is not None else ""
    if fields.get("is_final") is True:
        return Meaning(text, final=True)
    return Meaning(text, end_s=number(fields, "start", 0.0) + number(fields, "duration", 0.0))


CLIENT = Client(
    name="deepgram",
    path=PATH,
    query=f"{QUERY}&model={{model}}",
    ending=(from_client(CLOSE_STREAM),),
    ends_with_close=True,
    texts="utterances",
    read=_read,
)
