"""AMIRA's dialect: `/v2/decode/stream/{model}`, and the bodies of its REST side (AMI-03..07, 13, 28, 29, 31).

A stream's text is cumulative: all finals so far and the current partial; one `final` ends it (decisions 9, 17). Two
forms of every answer: the document's, and with `?schema=v1` the one of AMIRA's code (decision 7). A field that the
engine has nothing to say about is null, or empty for lists: nothing is invented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from asr_frontends.codec import Close, Frame, Request
from asr_frontends.codecs.transcript import Transcript
from asr_frontends.events import Audio, Bye, ClientEvent, Error, KeepAlive, ServiceEvent, Start, Stop
from asr_proto.audio import BYTES_PER_SAMPLE, seconds
from asr_proto.errors import BadRequest, DecodeError, LimitExceeded, OutOfOrder
from asr_proto.messages import Final, Partial

PATH = r"/v2/decode/stream/[^/]+"
END, KEEPALIVE = b"\x00", b"\x01"
FRAME_BYTES_MAX = 1_048_576
MESSAGES_PER_S_MAX = 100
OPAQUE_BYTES_MAX = 10_240
SCHEMAS = ("", "v1")
IGNORED: dict[str, type] = {"description": str, "model": str, "incremental": bool}
"""Fields of a JSON batch that make no difference here, by their types."""
CLIENT_FAULT, SERVICE_FAULT, GOING_AWAY = 4400, 4503, 1001

STATUS = {
    "rate-limited": 429,
    "idle-timeout": 408,
    "at-capacity": 503,
    "no-worker": 503,
    "no-broker": 503,
    "overloaded": 503,
    "going-away": 503,
    "session-lost": 502,
    "worker-lost": 502,
    "broker-lost": 502,
    "lease-expired": 502,
}
"""AMI-29. Other slugs are 500 when the service is at fault, 400 when the client is."""


class AmiraCodec:
    """One stream. Raises BadRequest for an unknown schema, before the upgrade. Any model's name means the default."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        self._is_v1 = schema_of(request.query) == "v1"
        self._transcript = Transcript()
        self._confidence = _Confidence()
        self._samples = 0
        self._paused = self._newly_paused = False
        self._stopped = False

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return [Start(messages_per_s_max=MESSAGES_PER_S_MAX)]

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, str):
            return []
        if self._stopped:
            raise OutOfOrder("a frame after the end of the stream")
        if len(frame) == 1:
            return self._control(frame)
        return self._audio(frame)

    def _control(self, frame: bytes) -> list[ClientEvent]:
        if frame == END:
            self._stopped = True
            return [Stop()]
        if frame == KEEPALIVE:
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
        """The first of several keepalives is answered in the code's form; the document has no such message."""
        newly_paused, self._newly_paused = self._newly_paused, False
        return [self._v1("PAUSED")] if newly_paused and self._is_v1 else []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Partial() | Final():
                return self._hypothesis(event)
            case Bye():
                confidence = self._confidence.value
                return [self._v1("COMPLETE") if self._is_v1 else self._form("final", confidence), Close(1000)]
            case Error():
                return self._error(event)
        return []

    def _hypothesis(self, event: Partial | Final) -> list[Frame]:
        if isinstance(event, Final):
            self._confidence.hear(event)
        if not self._transcript.hear(event):
            return []
        return [self._v1("ACTIVE") if self._is_v1 else self._form("partial", None)]

    def _form(self, kind: str, confidence: float | None, **more: Any) -> str:
        return to_json({"type": kind, "text": self._transcript.text, "tokens": [], "confidence": confidence, **more})

    def _v1(self, status: str, **more: Any) -> str:
        metadata = {"audio_length_seconds": seconds(self._samples), "processing_time_ms": None}
        return to_json({"transcription": self._transcript.text, "status": status, **more, "metadata": metadata})

    def _error(self, event: Error) -> list[Frame]:
        reason = message_of(event)
        code = SERVICE_FAULT if event.is_service else CLIENT_FAULT
        if event.slug == "going-away":
            code = GOING_AWAY
        more: dict[str, Any] = {"retry_after_s": event.retry_after_s} if event.retry_after_s else {}
        if self._is_v1:
            said = self._v1("ERROR", message=reason)
        else:
            said = self._form("error", None, code=event.slug, message=reason, **more)
        return [said, Close.because(code, f"{event.slug}: {reason}")]


class _Confidence:
    """Of the whole text: the mean of its finals', by characters; None as soon as one final has none."""

    def __init__(self) -> None:
        self._sum, self._characters = 0.0, 0
        self._is_known = True

    def hear(self, final: Final) -> None:
        self._is_known = self._is_known and final.confidence is not None
        self._sum += (final.confidence or 0.0) * len(final.text)
        self._characters += len(final.text)

    @property
    def value(self) -> float | None:
        return round(self._sum / self._characters, 4) if self._is_known and self._characters else None


# ---- REST ----


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch as its JSON body says it."""

    pcm: bytes
    opaque: Any = None
    """Given back untouched."""


def parse_batch(body: bytes) -> BatchRequest:
    """A JSON body. Raises PeerError. `description`, `incremental` and `model` are checked; they change nothing."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the body is no JSON") from error
    if not isinstance(fields, dict):
        raise DecodeError("the body is no JSON object")
    for name, kind in IGNORED.items():
        if not isinstance(fields.get(name), kind | None):
            raise BadRequest(f"{name} is no {'boolean' if kind is bool else 'string'}")
    opaque = fields.get("opaque")
    if _opaque_bytes(opaque) > OPAQUE_BYTES_MAX:
        raise LimitExceeded(f"opaque has more than {OPAQUE_BYTES_MAX} bytes")
    return BatchRequest(_audio_buffer(fields.get("audio_buffer")), opaque)


def _opaque_bytes(opaque: Any) -> int:
    """Its size as JSON, which it must have: NaN and infinity cannot be given back."""
    if isinstance(opaque, str):
        return len(opaque.encode(errors="surrogatepass"))
    try:
        return len(json.dumps(opaque, allow_nan=False, ensure_ascii=False).encode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise DecodeError("opaque is no JSON") from error


def _audio_buffer(values: Any) -> bytes:
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        raise BadRequest("audio_buffer is not a list of bytes")
    try:
        pcm = bytes(values)
    except (ValueError, OverflowError) as error:
        raise BadRequest("audio_buffer is not a list of bytes from 0 to 255") from error
    check_pcm(pcm)
    return pcm


def check_pcm(pcm: bytes) -> None:
    """Raises DecodeError unless it is whole PCM16 samples, at least one."""
    if not pcm:
        raise DecodeError("there is no audio")
    if len(pcm) % BYTES_PER_SAMPLE:
        raise DecodeError(f"{len(pcm)} bytes are no whole number of 16-bit samples")


def batch_body(text: str, samples: int, opaque: Any, schema: str) -> dict[str, Any]:
    """The answer to a batch. Lengths of features and encoder frames mean nothing outside one engine: null."""
    lengths = {"audio_length_samples": samples, "features_length": None, "encoded_length": None}
    passed_on = {} if opaque is None else {"opaque": opaque}
    if schema == "v1":
        return {"transcription": text, "status": "COMPLETE", "metadata": {**lengths, "tokens": []}, **passed_on}
    return {"text": text, "tokens": [], **lengths, **passed_on}


def error_body(event: Error, schema: str) -> dict[str, Any]:
    """The body of a failed request."""
    if schema == "v1":
        return {"transcription": "", "status": "ERROR", "message": message_of(event)}
    return {"error": message_of(event), "code": event.slug}


def status_of(event: Error) -> int:
    """HTTP status of an error (AMI-29)."""
    return STATUS.get(event.slug, 500 if event.is_service else 400)


def message_of(event: Error) -> str:
    """The reason for people; old clients know a timeout by its first words."""
    detail = event.detail or event.slug
    return f"Stream timeout: {detail}" if event.slug == "idle-timeout" else detail


def schema_of(query: str) -> str:
    """`""` for the document's form, `v1` for the code's. Raises BadRequest."""
    schema = dict(parse_qsl(query, keep_blank_values=True)).get("schema", "")
    if schema not in SCHEMAS:
        raise BadRequest("schema must be v1, or absent")
    return schema


def to_json(fields: dict[str, Any]) -> str:
    """As every answer is written: opaque text may hold what UTF-8 cannot, so everything else is escaped too."""
    return json.dumps(fields, separators=(",", ":"))
