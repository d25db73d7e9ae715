"""The project's own dialect, `/v1/stream`: JSON control, binary PCM16. Specified in frontends/README.md."""

from __future__ import annotations

import json
from typing import Any

from asr_dialects import native
from asr_frontends import events
from asr_frontends.audio.resample import Resampler
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    Flush,
    GoAway,
    KeepAlive,
    Notice,
    Progress,
    Ready,
    Resume,
    ServiceEvent,
    Start,
    Stop,
)
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, OddByte, seconds
from asr_proto.errors import BadRequest, DecodeError, OutOfOrder
from asr_proto.messages import INT_MAX, Final, Flushed, Partial, Word

RATE_MIN, RATE_MAX = 8_000, 192_000
NAME_MAX, MARKER_MAX, SESSION_MAX = 128, 256, 64
LOOK_AHEAD_MS_MAX = 60_000
CLIENT_FAULT, SERVICE_FAULT, GOING_AWAY = 4400, 4503, 1001


class NativeCodec:
    """One `/v1/stream` conversation."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial, Progress})

    def __init__(self, request: Request) -> None:
        self._start: Start | None = None
        self._rate = SAMPLE_RATE
        self._resampler: Resampler | None = None
        self._odd = OddByte()
        self._samples = 0
        self._seq = 0
        self._stopped = False

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return []

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, bytes):
            return self._audio(frame)
        message = _parse(frame)
        match message["type"]:
            case native.START:
                return self._on_start(message)
            case native.KEEPALIVE:
                return [KeepAlive()]
            case native.FLUSH:
                self._require_running(native.FLUSH)
                return [*self._rest(), Flush(_string(message, "marker", MARKER_MAX))]
            case native.STOP:
                self._require_running(native.STOP)
                self._stopped = True
                return [*self._rest(), Stop()]
        raise DecodeError(f"unknown message type {message['type'][:40]!r}")

    def _on_start(self, message: dict[str, Any]) -> list[ClientEvent]:
        if self._start is not None:
            raise OutOfOrder("a second start")
        self._rate = _rate(message.get("sample_rate", SAMPLE_RATE))
        if self._rate != SAMPLE_RATE:
            self._resampler = Resampler(self._rate)
        partials = message.get("partials", True)
        if not isinstance(partials, bool):
            raise DecodeError("partials is a boolean")
        model, language = (_string(message, field, NAME_MAX, "") for field in ("model", "language"))
        resume = _resume(message.get("resume"))
        self._start = Start(model, language, partials, _look_ahead_ms(message), resumable=True, resume=resume)
        return [self._start]

    def _audio(self, data: bytes) -> list[ClientEvent]:
        self._require_running("audio")
        pcm = self._odd.feed(data)
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        if self._resampler:
            pcm = self._resampler.feed(pcm)
        return [Audio(pcm)] if pcm else []

    def _rest(self) -> list[ClientEvent]:
        pcm = self._resampler.end() if self._resampler else b""
        return [Audio(pcm)] if pcm else []

    def _require_running(self, what: str) -> None:
        if self._start is None:
            raise OutOfOrder(f"{what} before start")
        if self._stopped:
            raise OutOfOrder(f"{what} after stop")

    def replies(self) -> list[Frame]:
        return []

    def tail(self) -> list[ClientEvent]:
        return []  # the client sends its audio again when it resumes

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Partial() | Final():
                return [self._hypothesis(event)]
            case Bye(reason=events.GOING_AWAY):
                return self._error(Error(events.GOING_AWAY, "this server is going away: resume the session elsewhere"))
            case Bye():
                return [native.end(event.reason), Close(1000)]
            case Error():
                return self._error(event)
        return self._notice(event)

    def _notice(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Ready():
                return [self._ready(event)]
            case Flushed():
                return [native.flushed(event.marker)]
            case Progress():
                return [native.ack(self._samples, self._at_client(event.committed))]
            case Notice():
                return [native.notice(event.kind)]
            case GoAway():
                return [native.goaway(event.time_left_s)]
        return []

    def _ready(self, event: Ready) -> str:
        assert self._start is not None
        language = self._start.language or "en"
        if event.from_sample is not None:
            self._samples = event.from_sample * self._rate // SAMPLE_RATE
        from_sample = None if event.from_sample is None else self._samples
        return native.ready(event.session, event.model, language, self._rate, event.engine, from_sample)

    def _hypothesis(self, event: Partial | Final) -> str:
        hypothesis: native.Hypothesis = {
            "seq": self._seq,
            "utterance": event.utterance,
            "text": event.text,
            "start_s": seconds(event.start_sample),
            "end_s": seconds(event.end_sample),
        }
        self._seq += 1
        if isinstance(event, Partial):
            return native.partial(hypothesis, event.stable)
        committed = self._at_client(event.commit.confirmed_samples)
        words = None if event.words is None else [_word(word) for word in event.words]
        return native.final(hypothesis, event.endpoint, committed, _rounded(event.confidence), words)

    def _at_client(self, sample: int) -> int:
        """A 16 kHz sample's number at the client's rate, at most the number of samples that the client has sent."""
        return min(sample * self._rate // SAMPLE_RATE, self._samples)

    def _error(self, event: Error) -> list[Frame]:
        code = SERVICE_FAULT if event.is_service else CLIENT_FAULT
        if event.slug == events.GOING_AWAY:
            code = GOING_AWAY
        message = native.error(event.slug, event.detail or event.slug, event.retry_after_s)
        return [message, Close.because(code, f"{event.slug}: {event.detail}")]


def _word(word: Word) -> native.Word:
    start_s, end_s = seconds(word.start_sample), seconds(word.end_sample)
    return native.word(word.text, start_s, end_s, _rounded(word.confidence))


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 4)


def _parse(frame: str) -> dict[str, Any]:
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise DecodeError("a text frame is a JSON object") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise DecodeError("a text frame is a JSON object with a type")
    return message


def _string(message: dict[str, Any], field: str, length_max: int, default: str | None = None) -> str:
    value = message.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or len(value) > length_max or not value.isprintable():
        raise DecodeError(f"{field} is a printable string of at most {length_max} characters")
    return value


def _look_ahead_ms(message: dict[str, Any]) -> int | None:
    value = message.get("look_ahead_ms")
    if value is not None and (type(value) is not int or not 0 <= value <= LOOK_AHEAD_MS_MAX):
        raise DecodeError(f"look_ahead_ms is a whole number up to {LOOK_AHEAD_MS_MAX}")
    return value


def _resume(value: Any) -> Resume | None:
    if value is None:
        return None
    if not isinstance(value, dict) or type(value.get("finals")) is not int or value["finals"] < 0:
        raise DecodeError("resume is an object with the session and how many finals of it have come")
    session = _string(value, "session", SESSION_MAX)
    if not session.isalnum() or value["finals"] > INT_MAX:
        raise BadRequest("no such session", slug="resume-unavailable")
    return Resume(session, value["finals"])


def _rate(value: Any) -> int:
    if type(value) is not int or not RATE_MIN <= value <= RATE_MAX:
        raise BadRequest(f"sample_rate is an integer from {RATE_MIN} to {RATE_MAX}", slug="unsupported-sample-rate")
    return value
