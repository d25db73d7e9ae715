"""AMIRA's messages, `/v2/decode/stream/{model}`: binary audio and control bytes, JSON in two forms.

The document's form, and with `?schema=v1` the one of AMIRA's code.
"""

from __future__ import annotations

import json
from typing import Any

from asr_dialects.client import NOTHING, Client, Fields, Meaning, string

PATH = "/v2/decode/stream/{model}"
BATCH_PATH = "/v2/decode/batch/{model}"
END, KEEPALIVE = b"\x00", b"\x01"
"""Control frames of the client."""
MESSAGES_PER_S_MAX = 100
V1 = "v1"
"""The value of the query's `schema` that asks for the form of AMIRA's code."""
PARTIAL, FINAL, ERROR = "partial", "final", "error"
"""Types of the document's form."""
ACTIVE, PAUSED, COMPLETE, FAILED = "ACTIVE", "PAUSED", "COMPLETE", "ERROR"
"""Statuses of the other form."""


def text(kind: str, words: str, confidence: float | None = None, **more: Any) -> str:
    """The document's form. `kind` is PARTIAL, FINAL or ERROR."""
    return to_json({"type": kind, "text": words, "tokens": [], "confidence": confidence, **more})


def error(words: str, code: str, message: str, retry_after_s: float = 0.0) -> str:
    """The session is over. The document's form."""
    more = {"retry_after_s": retry_after_s} if retry_after_s else {}
    return text(ERROR, words, code=code, message=message, **more)


def status(name: str, words: str, audio_s: float, **more: str) -> str:
    """The form of AMIRA's code. `name` is ACTIVE, PAUSED, COMPLETE, or FAILED with a `message`."""
    metadata = {"audio_length_seconds": audio_s, "processing_time_ms": None}
    return to_json({"transcription": words, "status": name, **more, "metadata": metadata})


def to_json(fields: Fields) -> str:
    """As every answer is written: opaque text may hold what UTF-8 cannot, so everything else is escaped too."""
    return json.dumps(fields, separators=(",", ":"))


def _read(fields: Fields) -> Meaning:
    match fields.get("type"):
        case "partial":
            return Meaning(string(fields, "text"))
        case "final":
            return Meaning(string(fields, "text"), final=True, ended=True)
        case "error":
            return Meaning(error=str(fields.get("code", "error")), detail=str(fields.get("message", "")))
    return NOTHING


CLIENT = Client(name="amira", path=PATH, messages_per_s_max=MESSAGES_PER_S_MAX, ending=(END,), read=_read)
