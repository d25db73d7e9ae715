"""Moonshine's messages on a WebRTC data channel: JSON with an `op`, binary audio. The offer is posted to `/webrtc`."""

from __future__ import annotations

import json
from typing import TypedDict

from asr_dialects import yap
from asr_dialects.client import SID, Client, Message
from asr_proto.audio import SAMPLE_RATE

PATH = "/webrtc"
INIT, CLOSE, FLUSH, PING = "init", "close", "flush", "ping"
"""Of the client."""
READY, INTERIM, FINAL, PONG, ERROR = "ready", "interim", "final", "pong", "error"
"""Of the server."""
MAX_BATCH = 32
"""A constant of the dialect: batches are sized by the engine."""


class FromClient(TypedDict, total=False):
    """A client's message. Its reader checks the values."""

    op: object
    sid: object
    sr: object


def init(sid: str, sr: int) -> str:
    """The client's first message, with its sample rate."""
    return _from_client({"op": INIT, "sid": sid, "sr": sr})


def close() -> str:
    """The client's last message."""
    return _from_client({"op": CLOSE})


def _from_client(message: FromClient) -> str:
    return json.dumps(message)


def ready(sid: str, model: str) -> str:
    """Audio is being taken."""
    return _text(READY, sid=sid, max_batch=MAX_BATCH, model=model)


def hypothesis(op: str, sid: str | None, text: str, inference_ms: int) -> str:
    """All text so far. `op` is INTERIM or FINAL."""
    return _text(op, sid=sid, text=text, final=op == FINAL, inference_ms=inference_ms)


def pong() -> str:
    """The answer to a ping."""
    return _text(PONG)


def error(reason: str) -> str:
    """A message that cannot be used, or the end of the session."""
    return _text(ERROR, reason=reason)


def _text(op: str, **fields: object) -> str:
    return json.dumps({"op": op, **fields}, ensure_ascii=False)


def _opening(_model: str | None) -> list[Message]:
    return [init(SID, SAMPLE_RATE)]


CLIENT = Client(
    name="moonshine",
    path=PATH,
    channel="webrtc",
    opening=_opening,
    ending=(close(),),
    waits_for_ready=True,
    read=yap.read,
)
