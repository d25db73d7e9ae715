"""The HTTP bodies of AMIRA's dialect, and the checks that its streams share (AMI-03, AMI-04, AMI-29, AMI-31)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from asr_dialects import amira
from asr_frontends.events import Error
from asr_proto.audio import BYTES_PER_SAMPLE
from asr_proto.errors import BadRequest, DecodeError, LimitExceeded

OPAQUE_BYTES_MAX = 10_240
SCHEMAS = ("", amira.V1)
IGNORED: dict[str, type] = {"description": str, "model": str, "incremental": bool}
"""Types of the fields of a JSON batch that have no effect here."""

STATUS = {
    "rate-limited": 429,
    "idle-timeout": 408,
    "key-revoked": 401,
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


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """The contents of a batch's JSON body."""

    pcm: bytes
    opaque: Any = None
    """A value of the client, which is returned unchanged."""


def parse_batch(body: bytes) -> BatchRequest:
    """Parse a JSON body. Raises PeerError. `description`, `incremental` and `model` are checked and have no effect."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the body is not JSON") from error
    if not isinstance(fields, dict):
        raise DecodeError("the body is not a JSON object")
    for name, kind in IGNORED.items():
        if not isinstance(fields.get(name), kind | None):
            raise BadRequest(f"{name} is not a {'boolean' if kind is bool else 'string'}")
    opaque = fields.get("opaque")
    if _opaque_bytes(opaque) > OPAQUE_BYTES_MAX:
        raise LimitExceeded(f"opaque has more than {OPAQUE_BYTES_MAX} bytes")
    return BatchRequest(_audio_buffer(fields.get("audio_buffer")), opaque)


def _opaque_bytes(opaque: Any) -> int:
    """The size of `opaque` as JSON. NaN and infinity are rejected, because JSON cannot return them."""
    if isinstance(opaque, str):
        return len(opaque.encode(errors="surrogatepass"))
    try:
        return len(json.dumps(opaque, allow_nan=False, ensure_ascii=False).encode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise DecodeError("opaque cannot be written as JSON") from error


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
    """Raises DecodeError unless `pcm` is a whole number of PCM16 samples, at least one."""
    check_size(len(pcm))


def check_size(size: int) -> None:
    """Raises DecodeError unless `size` bytes are a whole number of PCM16 samples, at least one."""
    if not size:
        raise DecodeError("there is no audio")
    if size % BYTES_PER_SAMPLE:
        raise DecodeError(f"{size} bytes are no whole number of 16-bit samples")


def batch_body(text: str, samples: int, opaque: Any, schema: str) -> dict[str, Any]:
    """The answer to a batch. The lengths of features and encoder frames are null: they depend on the engine."""
    lengths = {"audio_length_samples": samples, "features_length": None, "encoded_length": None}
    passed_on = {} if opaque is None else {"opaque": opaque}
    if schema == amira.V1:
        return {"transcription": text, "status": "COMPLETE", "metadata": {**lengths, "tokens": []}, **passed_on}
    return {"text": text, "tokens": [], **lengths, **passed_on}


def error_body(event: Error, schema: str) -> dict[str, Any]:
    """The body of a failed request."""
    if schema == amira.V1:
        return {"transcription": "", "status": "ERROR", "message": message_of(event)}
    return {"error": message_of(event), "code": event.slug}


def status_of(event: Error) -> int:
    """HTTP status of an error (AMI-29)."""
    return STATUS.get(event.slug, 500 if event.is_service else 400)


def message_of(event: Error) -> str:
    """The reason for people. Old clients recognize a timeout by its first words."""
    detail = event.detail or event.slug
    return f"Stream timeout: {detail}" if event.slug == "idle-timeout" else detail


def schema_of(query: str) -> str:
    """The form of the answers: `""` for that of AMIRA's document, `v1` for that of its code. Raises BadRequest."""
    schema = dict(parse_qsl(query, keep_blank_values=True)).get("schema", "")
    if schema not in SCHEMAS:
        raise BadRequest("schema must be v1, or absent")
    return schema
