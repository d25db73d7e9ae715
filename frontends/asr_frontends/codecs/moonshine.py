"""Moonshine's dialect for WebRTC data channels (MOO-02..07, 22..24).

JSON messages with an `op`, PCM16 in binary ones. An error ends the conversation, except `bad_json` and `unknown_op`,
which are only answered. `close` and `flush` both ask for the final, which is the last message. The text is everything
since the start: the dialect knows no utterances, and a pause never ends a turn.

`inference_ms` is how far the text is behind the audio that has come, in milliseconds of audio: what a client sees of
the model's work. `max_batch` is the dialect's constant; batches are sized by the engine.
"""

from __future__ import annotations

import json
from typing import Any

from asr_frontends.codec import Close, Frame, Request
from asr_frontends.codecs import closes
from asr_frontends.codecs.transcript import Transcript
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    KeepAlive,
    Progress,
    Ready,
    ServiceEvent,
    Start,
    Stop,
)
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, OddByte
from asr_proto.errors import BadRequest, OutOfOrder
from asr_proto.messages import Final, Partial

MAX_BATCH = 32
SID_MAX = 128
FAILURES = frozenset({"service-error", "internal-error", "session-lost", "worker-lost", "broker-lost", "lease-expired"})
"""What the dialect calls `inference_failed`; every other error has a reason of its own."""


class MoonshineCodec:
    """One conversation."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        self._sid: str | None = None
        """As the client said it; empty to use the session's id."""
        self._stopped = False
        self._odd = OddByte()
        self._samples = self._done = 0
        self._transcript = Transcript()
        self._replies: list[Frame] = []

    @property
    def takes_audio(self) -> bool:
        """Whether the client has said `init`, and neither `close` nor `flush`."""
        return self._sid is not None and not self._stopped

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return []

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, bytes):
            return self._audio(frame)
        message = _parse(frame)
        if message is None:
            return self._answer("error", reason="bad_json")
        match message.get("op"):
            case "ping":
                return self._answer("pong")
            case "init":
                return self._init(message)
            case "close" | "flush":
                return self._stop()
        return self._answer("error", reason="unknown_op")

    def _answer(self, op: str, **fields: Any) -> list[ClientEvent]:
        self._replies.append(_text(op, **fields))
        return [KeepAlive()]

    def _init(self, message: dict[str, Any]) -> list[ClientEvent]:
        if self._sid is not None:
            raise OutOfOrder("a second init", slug="already-initialized")
        sid = message.get("sid") or ""
        if not isinstance(sid, str) or len(sid) > SID_MAX or not sid.isprintable():
            return self._answer("error", reason="bad_json")
        if message.get("sr", SAMPLE_RATE) != SAMPLE_RATE:
            raise BadRequest(f"sr must be {SAMPLE_RATE}", slug="unsupported-sample-rate")
        self._sid = sid
        return [Start()]

    def _audio(self, data: bytes) -> list[ClientEvent]:
        self._require_init()
        if self._stopped:
            return []
        pcm = self._odd.feed(data)
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        return [Audio(pcm)] if pcm else []

    def _stop(self) -> list[ClientEvent]:
        self._require_init()
        first, self._stopped = not self._stopped, True
        return [Stop()] if first else []

    def _require_init(self) -> None:
        if self._sid is None:
            raise OutOfOrder("init comes first", slug="not-initialized")

    def replies(self) -> list[Frame]:
        replies, self._replies = self._replies, []
        return replies

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Ready():
                self._sid = self._sid or event.session
                return [_text("ready", sid=self._sid, max_batch=MAX_BATCH, model=event.model)]
            case Progress():
                self._done = max(self._done, event.done)
            case Partial() | Final():
                self._done = max(self._done, event.end_sample)
                return [self._hypothesis("interim", final=False)] if self._transcript.hear(event) else []
            case Bye():
                self._done = self._samples
                return [self._hypothesis("final", final=True), Close(closes.NORMAL)]
            case Error():
                return [_text("error", reason=_reason(event)), closes.close_of(event)]
        return []

    def _hypothesis(self, op: str, *, final: bool) -> str:
        behind_ms = max(0, self._samples - self._done) * 1000 // SAMPLE_RATE
        return _text(op, sid=self._sid, text=self._transcript.text, final=final, inference_ms=behind_ms)


def _text(op: str, **fields: Any) -> str:
    return json.dumps({"op": op, **fields}, ensure_ascii=False)


def _reason(event: Error) -> str:
    return "inference_failed" if event.slug in FAILURES else event.slug.replace("-", "_")


def _parse(frame: str) -> dict[str, Any] | None:
    """The JSON object, or None for any other text."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
