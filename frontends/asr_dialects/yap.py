"""Yap FastConformer's messages, `/`: JSON with an `op`, binary audio."""

from __future__ import annotations

import json
from typing import TypedDict, cast

from asr_dialects.client import NOTHING, SID, Client, Fields, Meaning, Message, string
from asr_proto.audio import SAMPLE_RATE

PATH = "/"
INIT, CLOSE = "init", "close"
"""Values of `op` in the client's messages."""
INTERIM, FINAL = "interim", "final"
"""Values of `op` in the server's messages."""


class FromClient(TypedDict, total=False):
    """The fields of a client's messages; the codec checks their values."""

    op: object
    sid: object
    sr: object


def init(sid: str, sr: int) -> str:
    """The client's first message, with its sample rate."""
    return _from_client({"op": INIT, "sid": sid, "sr": sr})


def close(sid: str) -> str:
    """The client's last message."""
    return _from_client({"op": CLOSE, "sid": sid})


def parse(frame: str) -> FromClient | None:
    """The JSON object in a client's text message, or None for any other text."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return cast(FromClient, message) if isinstance(message, dict) else None


def _from_client(message: FromClient) -> str:
    return json.dumps(message)


def hypothesis(op: str, sid: str | None, text: str, ts: int) -> str:
    """All text so far, with the Unix time of the audio in milliseconds. `op` is INTERIM or FINAL."""
    fields = {"op": op, "sid": sid, "text": text, "final": op == FINAL, "ts": ts}
    return json.dumps(fields, ensure_ascii=False)


def read(fields: Fields) -> Meaning:
    """The meaning of a message of the server. Moonshine's messages have the same meanings."""
    match fields.get("op"):
        case "interim":
            return Meaning(string(fields, "text"))
        case "final":
            return Meaning(string(fields, "text"), final=True, ended=True)
        case "ready":
            return Meaning(ready=True)
        case "error":
            return Meaning(error=str(fields.get("reason", "error")), detail="the server reports an error")
    return NOTHING


def _opening(_model: str | None) -> list[Message]:
    return [init(SID, SAMPLE_RATE)]


CLIENT = Client(name="yap", path=PATH, opening=_opening, ending=(close(SID),), read=read)
