"""AMIRA's side of HTTP: batches, health, and the limit on streams (AMI-02..04, 13, 29, 31, 32)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from asr_frontends import events as e
from asr_frontends.codecs import amira
from asr_frontends.frontend import Frontend
from asr_frontends.servers.connection import Connection
from asr_frontends.servers.rest import Places, hear, read_body, unless_gone
from asr_frontends.servers.upload import decode
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, AtCapacity, BadRequest, LimitExceeded

SERVICE = "asr-pool"
RETRY_AFTER_S = 1
FRAME_BYTES = SAMPLE_RATE * BYTES_PER_SAMPLE
RAW, JSON, SOUND = "application/octet-stream", "application/json", "audio/"


@dataclass(frozen=True, slots=True)
class AmiraLimits:
    """AMIRA's own limits, by its document's defaults; AMIRA's names of them are in the comments."""

    streams_max: int = 10  # max_concurrent_streams
    batches_max: int = 50  # max_concurrent_batches
    batch_audio_s_max: float = 30.0  # max_batch_audio_length_secs
    request_bytes_max: int = 10_485_760  # AMIRA_MAX_REQUEST_SIZE


@dataclass(frozen=True, slots=True)
class _Batch:
    """A recording that was asked for, ready to be heard."""

    frames: Iterator[bytes]
    opaque: Any = None


class Amira:
    """AMIRA's endpoints over one frontend."""

    def __init__(self, frontend: Frontend, limits: AmiraLimits) -> None:
        self._frontend, self._limits = frontend, limits
        self._streams = Places(limits.streams_max, "streams")
        self._batches = Places(limits.batches_max, "batches")
        self._started_at = time.monotonic()

    def routes(self) -> list[Route]:
        """Everything but the stream, which is a WebSocket."""
        return [
            Route("/v2/decode/batch/{model}", _answering(self._batch), methods=["POST"]),
            Route("/health", self._health),
            Route("/health/detailed", self._detailed),
            Route("/admin/reset-batch-count", self._reset, methods=["POST"]),
        ]

    async def stream(self, connection: Connection) -> None:
        """Serve one accepted stream; one too many hears why, in its dialect."""
        try:
            with self._streams.one():
                await connection.run()
        except AtCapacity as error:
            await connection.refuse(error)

    # ---- Batches ----

    async def _batch(self, request: Request) -> Response:
        schema = amira.schema_of(request.url.query)
        batch = await self._read(request)
        heard = await unless_gone(
            request, hear(self._frontend, e.Start(partials=False, whole=True), batch.frames, self._batches)
        )
        return _json(amira.batch_body(heard.text, heard.samples, batch.opaque, schema))

    async def _read(self, request: Request) -> _Batch:
        """The audio by the content's type, and a WAV file also by its first bytes (decision 7). Raises PeerError."""
        kind = request.headers.get("content-type", RAW).partition(";")[0].strip().lower()
        if kind not in (RAW, JSON) and not kind.startswith(SOUND):
            raise BadRequest(f"Content-Type must be {RAW}, audio/wav or {JSON}")
        body = await read_body(request, self._limits.request_bytes_max)
        if kind == JSON:
            parsed = await asyncio.to_thread(amira.parse_batch, body)
            return _Batch(self._raw(parsed.pcm), parsed.opaque)
        if kind.startswith(SOUND) or body.startswith(b"RIFF"):
            _, frames = await decode(body, self._limits.batch_audio_s_max)
            return _Batch(frames)
        return _Batch(self._raw(body))

    def _raw(self, pcm: bytes) -> Iterator[bytes]:
        amira.check_pcm(pcm)
        audio_s, audio_s_max = len(pcm) / BYTES_PER_SAMPLE / SAMPLE_RATE, self._limits.batch_audio_s_max
        if audio_s > audio_s_max:
            raise LimitExceeded(f"{audio_s:.1f} s of audio exceed {audio_s_max:g} s", slug="audio-too-long")
        return (pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES))

    async def _reset(self, _: Request) -> Response:
        """AMIRA's counter leaked and had to be reset; here a place is given back however its request ends."""
        return _json({"status": "ok", "active_batches": self._batches.taken})

    # ---- Health ----

    async def _health(self, _: Request) -> Response:
        return _json({"status": "healthy", "service": SERVICE, "version": _version()})

    async def _detailed(self, _: Request) -> Response:
        """503 unless a broker and a worker are there; `degraded` while every slot is taken."""
        pool = self._frontend.sessions.pool
        is_full = pool is not None and pool.workers > 0 and pool.slots_free == 0
        status = "healthy" if self._frontend.ready() else "degraded" if is_full else "unhealthy"
        body = {
            "status": status,
            "service": SERVICE,
            "version": _version(),
            "uptime_seconds": round(time.monotonic() - self._started_at, 1),
            "dependencies": {
                "broker": {"status": _up(self._frontend.connected())},
                "workers": {
                    "status": _up(pool is not None and pool.workers > 0),
                    "count": pool.workers if pool else 0,
                    "slots": pool.slots if pool else 0,
                    "slots_free": pool.slots_free if pool else 0,
                    "models": list(pool.models) if pool else [],
                },
            },
            "sessions": len(self._frontend.sessions),
            "active_streams": self._streams.taken,
            "max_concurrent_streams": self._streams.count_max,
            "active_batches": self._batches.taken,
            "max_concurrent_batches": self._batches.count_max,
        }
        return _json(body, 503 if status == "unhealthy" else 200)


def _up(is_up: bool) -> str:
    return "healthy" if is_up else "unhealthy"


def _version() -> str:
    try:
        return version(SERVICE)
    except PackageNotFoundError:
        return "unknown"


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
    status = amira.status_of(event)
    headers = {"Retry-After": f"{max(RETRY_AFTER_S, round(event.retry_after_s))}"} if status in (429, 503) else {}
    schema = "v1" if request.query_params.get("schema") == "v1" else ""
    return _json(amira.error_body(event, schema), status, headers)


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(amira.to_json(body), status, headers, media_type=JSON)
