"""AMIRA's HTTP routes: batches, and the limit on streams (AMI-03, AMI-04, AMI-13, AMI-31, AMI-32)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from asr_dialects import amira as messages
from asr_frontends import events as e
from asr_frontends.dialects.amira import forms
from asr_frontends.frontend import Frontend
from asr_frontends.servers.conversation import Conversation
from asr_frontends.servers.rest import Places, body_of, transcribe, unless_gone
from asr_frontends.servers.upload import decode
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, AtCapacity, BadRequest, LimitExceeded

RETRY_AFTER_S = 1
FRAME_BYTES = SAMPLE_RATE * BYTES_PER_SAMPLE
RAW, JSON, SOUND = "application/octet-stream", "application/json", "audio/"


@dataclass(frozen=True, slots=True)
class AmiraLimits:
    """The limits of AMIRA's dialect, with the defaults of AMIRA's document. AMIRA's names are in the comments."""

    streams_max: int = 10  # max_concurrent_streams
    batches_max: int = 50  # max_concurrent_batches
    batch_audio_s_max: float = 30.0  # max_batch_audio_length_secs
    request_bytes_max: int = 10_485_760  # AMIRA_MAX_REQUEST_SIZE


@dataclass(frozen=True, slots=True)
class _BatchAudio:
    """The audio of a batch as PCM16 frames, and its opaque value."""

    frames: Iterator[bytes]
    opaque: Any = None


class Amira:
    """AMIRA's endpoints over one frontend."""

    def __init__(self, frontend: Frontend, limits: AmiraLimits) -> None:
        self._frontend, self._limits = frontend, limits
        self._streams = Places(limits.streams_max, "streams")
        self._batches = Places(limits.batches_max, "batches")
        self._parsing = asyncio.Lock()
        """One JSON body is parsed at a time: its numbers as objects need ten times its size, and the GIL anyway."""

    def routes(self) -> list[Route]:
        """The HTTP routes. The stream is a WebSocket and no route."""
        return [
            Route(messages.BATCH_PATH, _answering(self._batch), methods=["POST"]),
            Route("/admin/reset-batch-count", self._reset, methods=["POST"]),
        ]

    async def stream(self, connection: Conversation) -> None:
        """Serve one accepted stream. Above the limit, the stream is refused with AMIRA's error message."""
        try:
            with self._streams.one(always=connection.is_adopted):
                await connection.run()
        except AtCapacity as error:
            await connection.refuse(error)

    # ---- Batches ----

    async def _batch(self, request: Request) -> Response:
        schema = forms.schema_of(request.url.query)
        kind = _kind_of(request)
        with ExitStack() as exits:
            held = body_of(request, self._batches, self._frontend.bodies, self._limits.request_bytes_max)
            body = exits.enter_context(closing(await exits.enter_context(held).spooled()))
            batch = await self._read(kind, body)
            start = e.Start(partials=False, whole=True)
            transcription = await unless_gone(request, transcribe(request, self._frontend, start, batch.frames))
        return _json(forms.batch_body(transcription.text, transcription.samples, batch.opaque, schema))

    async def _read(self, kind: str, body: BinaryIO) -> _BatchAudio:
        """Read the audio by its content type; a WAV file also by its first bytes (decision 7). Raises PeerError."""
        if kind == JSON:
            async with self._parsing:
                parsed = await asyncio.to_thread(forms.parse_batch, body.read())
            return _BatchAudio(self._raw(io.BytesIO(parsed.pcm)), parsed.opaque)
        is_wav = body.read(4) == b"RIFF"
        body.seek(0)
        if kind.startswith(SOUND) or is_wav:
            _, frames = await decode(body, self._limits.batch_audio_s_max)
            return _BatchAudio(frames)
        return _BatchAudio(self._raw(body))

    def _raw(self, pcm: BinaryIO) -> Iterator[bytes]:
        size = pcm.seek(0, io.SEEK_END)
        pcm.seek(0)
        forms.check_size(size)
        audio_s, audio_s_max = size / BYTES_PER_SAMPLE / SAMPLE_RATE, self._limits.batch_audio_s_max
        if audio_s > audio_s_max:
            raise LimitExceeded(f"{audio_s:.1f} s of audio exceed {audio_s_max:g} s", slug="audio-too-long")
        return iter(partial(pcm.read, FRAME_BYTES), b"")

    async def _reset(self, _: Request) -> Response:
        """Reset nothing: AMIRA's counter leaked, but here each request returns its place."""
        return _json({"status": "ok", "active_batches": self._batches.taken})

    def health(self) -> Mapping[str, int]:
        """The numbers of streams and batches, for `/health/detailed`."""
        return {
            "active_streams": self._streams.taken,
            "max_concurrent_streams": self._streams.count_max,
            "active_batches": self._batches.taken,
            "max_concurrent_batches": self._batches.count_max,
        }


def _kind_of(request: Request) -> str:
    """The content type of a batch. Raises BadRequest."""
    kind = request.headers.get("content-type", RAW).partition(";")[0].strip().lower()
    if kind not in (RAW, JSON) and not kind.startswith(SOUND):
        raise BadRequest(f"Content-Type must be {RAW}, audio/wav or {JSON}")
    return kind


# ---- Answers ----

Endpoint = Callable[[Request], Awaitable[Response]]


def _answering(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AsrError as error:
            return _failed(e.Error.of(error), request)
        except ClientDisconnect:
            return Response(status_code=400)

    return answer


def _failed(event: e.Error, request: Request) -> Response:
    status = forms.status_of(event)
    headers = {"Retry-After": f"{max(RETRY_AFTER_S, round(event.retry_after_s))}"} if status in (429, 503) else {}
    schema = messages.V1 if request.query_params.get("schema") == messages.V1 else ""
    return _json(forms.error_body(event, schema), status, headers)


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(messages.to_json(body), status, headers, media_type=JSON)
