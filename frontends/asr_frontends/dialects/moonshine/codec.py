"""Moonshine's dialect for WebRTC data channels (MOO-02..07, 22..24).

Text messages are JSON with an `op`; binary messages are PCM16. An error ends the conversation, except `bad_json` and
`unknown_op`, which are only answered. `close` and `flush` both request the final, which is the last message. The text
is everything since the start: the dialect has no utterances, and a pause never ends a turn.

`inference_ms` is the audio received and not yet transcribed, in milliseconds of audio. `max_batch` is a constant of the
dialect; the engine decides the size of its batches.
"""

from __future__ import annotations

from asr_dialects import moonshine, yap
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
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
from asr_frontends.transcript import Transcript
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, OddByte
from asr_proto.errors import BadRequest, OutOfOrder
from asr_proto.messages import Final, Partial

SID_MAX = 128
FAILURES = frozenset({"service-error", "internal-error", "session-lost", "worker-lost", "broker-lost", "lease-expired"})
"""Slugs that the dialect calls `inference_failed`; every other slug is its own reason."""


class MoonshineCodec:
    """One conversation."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        self._sid: str | None = None
        """The client's name of the session; empty to use the session's id, None before `init`."""
        self._stopped = False
        self._odd = OddByte()
        self._samples = self._done = 0
        self._transcript = Transcript()
        self._replies: list[Frame] = []

    @property
    def takes_audio(self) -> bool:
        """Whether the client has sent `init`, and neither `close` nor `flush`."""
        return self._sid is not None and not self._stopped

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return []

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, bytes):
            return self._audio(frame)
        message = yap.parse(frame)
        if message is None:
            return self._answer(moonshine.error("bad_json"))
        match message.get("op"):
            case moonshine.PING:
                return self._answer(moonshine.pong())
            case moonshine.INIT:
                return self._init(message)
            case moonshine.CLOSE | moonshine.FLUSH:
                return self._stop()
        return self._answer(moonshine.error("unknown_op"))

    def _answer(self, message: str) -> list[ClientEvent]:
        self._replies.append(message)
        return [KeepAlive()]

    def _init(self, message: yap.FromClient) -> list[ClientEvent]:
        if self._sid is not None:
            raise OutOfOrder("a second init", slug="already-initialized")
        sid = message.get("sid") or ""
        if not isinstance(sid, str) or len(sid) > SID_MAX or not sid.isprintable():
            return self._answer(moonshine.error("bad_json"))
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

    def tail(self) -> list[ClientEvent]:
        return []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Ready():
                self._sid = self._sid or event.session
                return [moonshine.ready(self._sid, event.model)]
            case Progress():
                self._done = max(self._done, event.done)
            case Partial() | Final():
                self._done = max(self._done, event.end_sample)
                return [self._hypothesis(moonshine.INTERIM)] if self._transcript.update(event) else []
            case Bye(reason=events.GOING_AWAY):
                self._done = self._samples
                return [self._hypothesis(moonshine.INTERIM), *_error(Error(events.GOING_AWAY, ""))]
            case Bye():
                self._done = self._samples
                return [self._hypothesis(moonshine.FINAL), Close(closes.NORMAL)]
            case Error():
                return _error(event)
        return []

    def _hypothesis(self, op: str) -> str:
        behind_ms = max(0, self._samples - self._done) * 1000 // SAMPLE_RATE
        return moonshine.hypothesis(op, self._sid, self._transcript.text, behind_ms)


def _error(event: Error) -> list[Frame]:
    return [moonshine.error(_reason(event)), closes.close_of(event)]


def _reason(event: Error) -> str:
    return "inference_failed" if event.slug in FAILURES else event.slug.replace("-", "_")
