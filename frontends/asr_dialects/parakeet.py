"""Parakeet-TDT's messages, `/ws`: binary audio, control frames among it, JSON with a `type`."""

from __future__ import annotations

import json

from asr_dialects.client import NOTHING, Client, Fields, Meaning, string

PATH = "/ws"
STATUS_PATH = "/status"
CONTROL = b"__CTRL__:"
"""How a control frame begins; its name follows."""
EOS, RESET = "EOS", "RESET"
CUMULATIVE, DELTA = "cumulative", "delta"
"""Values of the query's `partials`."""


def control(name: str) -> bytes:
    """A control frame of the client."""
    return CONTROL + name.encode()


def partial(text: str) -> str:
    """All text since the start or the last control frame, or what is new of it."""
    return _message({"type": "partial", "text": text})


def final(text: str) -> str:
    """The answer to EOS."""
    return _message({"type": "final", "text": text})


def reset() -> str:
    """The answer to RESET."""
    return _message({"type": "reset"})


def _message(fields: Fields) -> str:
    return json.dumps(fields, ensure_ascii=False)


def _read(fields: Fields) -> Meaning:
    match fields.get("type"):
        case "partial":
            return Meaning(string(fields, "text"))
        case "final":
            return Meaning(string(fields, "text"), final=True, ended=True)
    return NOTHING


CLIENT = Client(name="parakeet", path=PATH, ending=(control(EOS),), read=_read)
