"""AMIRA's streams, `/v2/decode/stream/{model}` (AMI-05..07, AMI-28, AMI-29).

A stream's text is cumulative: all finals so far and the current partial. One `final` ends it (decisions 9, 17). Every
answer has two forms: that of AMIRA's document, and with `?schema=v1` that of AMIRA's code (decision 7). A field that
the engine does not measure is null, or an empty list.
"""

from __future__ import annotations

from asr_dialects import amira
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.amira.forms import check_pcm, message_of, schema_of
from asr_frontends.events import Audio, Bye, ClientEvent, Error, KeepAlive, ServiceEvent, Start, Stop
from asr_frontends.transcript import Transcript
from asr_proto.audio import BYTES_PER_SAMPLE, seconds
from asr_proto.errors import DecodeError, LimitExceeded, OutOfOrder
from asr_proto.messages import Final, Partial

FRAME_BYTES_MAX = 1_048_576
CLIENT_FAULT, SERVICE_FAULT = 4400, 4503


class AmiraCodec:
    """One stream. Raises BadRequest for an unknown schema, before the upgrade. Every model name means the default."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        self._is_v1 = schema_of(request.query) == amira.V1
        self._transcript = Transcript()
        self._confidence = _Confidence()
        self._samples = 0
        self._paused = self._newly_paused = False
        self._stopped = False

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return [Start(messages_per_s_max=amira.MESSAGES_PER_S_MAX)]

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, str):
            return []
        if self._stopped:
            raise OutOfOrder("a frame after the end of the stream")
        if len(frame) == 1:
            return self._control(frame)
        return self._audio(frame)

    def _control(self, frame: bytes) -> list[ClientEvent]:
        if frame == amira.END:
            self._stopped = True
            return [Stop()]
        if frame == amira.KEEPALIVE:
            self._newly_paused = not self._paused
            self._paused = True
            return [KeepAlive()]
        raise DecodeError(f"Unknown control byte 0x{frame.hex()}")

    def _audio(self, frame: bytes) -> list[ClientEvent]:
        if len(frame) > FRAME_BYTES_MAX:
            raise LimitExceeded(f"an audio frame has at most {FRAME_BYTES_MAX} bytes")
        check_pcm(frame)
        self._paused = False
        self._samples += len(frame) // BYTES_PER_SAMPLE
        return [Audio(frame)]

    def replies(self) -> list[Frame]:
        """The answer to the first of several keepalives in a row; only the form of AMIRA's code has one."""
        newly_paused, self._newly_paused = self._newly_paused, False
        return [self._status(amira.PAUSED)] if newly_paused and self._is_v1 else []

    def tail(self) -> list[ClientEvent]:
        return []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Partial() | Final():
                return self._hypothesis(event)
            case Bye(reason=events.GOING_AWAY):
                return self._error(closes.left(seconds(self._samples)))
            case Bye():
                confidence = self._confidence.value
                return [self._text(amira.FINAL, amira.COMPLETE, confidence), Close(1000)]
            case Error():
                return self._error(event)
        return []

    def _hypothesis(self, event: Partial | Final) -> list[Frame]:
        if isinstance(event, Final):
            self._confidence.add(event)
        if not self._transcript.update(event):
            return []
        return [self._text(amira.PARTIAL, amira.ACTIVE, None)]

    def _text(self, kind: str, status: str, confidence: float | None) -> str:
        return self._status(status) if self._is_v1 else amira.text(kind, self._transcript.text, confidence)

    def _status(self, status: str, **more: str) -> str:
        return amira.status(status, self._transcript.text, seconds(self._samples), **more)

    def _error(self, event: Error) -> list[Frame]:
        reason = message_of(event)
        code = SERVICE_FAULT if event.is_service else CLIENT_FAULT
        if event.slug == events.GOING_AWAY:
            code = closes.GOING_AWAY
        if self._is_v1:
            message = self._status(amira.FAILED, message=reason)
        else:
            message = amira.error(self._transcript.text, event.slug, reason, event.retry_after_s)
        return [message, Close.because(code, f"{event.slug}: {reason}")]


class _Confidence:
    """The confidence of the whole text: the mean over its finals, weighted by characters.

    It is None if one of the finals has none.
    """

    def __init__(self) -> None:
        self._sum, self._characters = 0.0, 0
        self._is_known = True

    def add(self, final: Final) -> None:
        self._is_known = self._is_known and final.confidence is not None
        self._sum += (final.confidence or 0.0) * len(final.text)
        self._characters += len(final.text)

    @property
    def value(self) -> float | None:
        return round(self._sum / self._characters, 4) if self._is_known and self._characters else None
