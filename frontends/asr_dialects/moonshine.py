"""Moonshine's messages on a WebRTC data channel: JSON with an `op`, binary audio. Offers are posted to `/webrtc`.

The client's messages have the fields of Yap's.
"""

from __future__ import annotations

import json

from asr_dialects import yap
from asr_dialects.client import SID, Client, Message
from asr_proto.audio import SAMPLE_RATE

PATH = "/webrtc"
INIT, CLOSE, FLUSH, PING = "init", "close", "flush", "ping"
"""Values of `op` in the client's messages."""
READY, INTERIM, FINAL, PONG, ERROR = "ready", "interim", "final", "pong", "error"
"""Values of `op` in the server's messages."""
MAX_BATCH = 32
"""A constant of the dialect; the engine decides the size of its batches."""


def close() -> str:
    """The client's last message."""
    return json.dumps({"op": CLOSE})


def ready(sid: str, model: str) -> str:
    """The server accepts audio."""
    return _text(READY, sid=sid, max_batch=MAX_BATCH, model=model)


def hypothesis(op: str, sid: str | None, text: str, inference_ms: int) -> str:
    """All text so far. `op` is INTERIM or FINAL."""
    return _text(op, sid=sid, text=text, final=op == FINAL, inference_ms=inference_ms)


def pong() -> str:
    """The answer to a ping."""
    return _text(PONG)


def error(reason: str) -> str:
    """The answer to an invalid message, or the last message of a session that failed."""
    return _text(ERROR, reason=reason)


def _text(op: str, **fields: object) -> str:
    return json.dumps({"op": op, **fields}, ensure_ascii=False)


def _opening(_model: str | None) -> list[Message]:
    return [yap.init(SID, SAMPLE_RATE)]


CLIENT = Client(
    name="moonshine",
    path=PATH,
    channel="webrtc",
    opening=_opening,
    ending=(close(),),
    waits_for_ready=True,
    read=yap.read,
)
