"""The record of OpenAI's dialect."""

from __future__ import annotations

from starlette.responses import Response

from asr_frontends.access import Gate
from asr_frontends.dialect import Dialect, Endpoint, Serving, Settings
from asr_frontends.dialects.openai.rest import OpenAiLimits, openai_error, routes
from asr_frontends.frontend import Frontend
from asr_proto.errors import PeerError


def _refusal(error: PeerError, status: int) -> Response:
    return openai_error(status, error.detail, code="invalid_api_key" if status == 401 else error.slug)


def _serve(frontend: Frontend, _gate: Gate, _settings: Settings) -> Serving:
    return Serving(routes=routes(frontend, OpenAiLimits()))


OPENAI = Dialect(
    name="openai",
    transport="http",
    http_prefixes=("/v1/audio/", "/v1/models"),
    http_refusal=_refusal,
    endpoints=(Endpoint("/v1/audio", is_prefix=True), Endpoint("/v1/models", is_prefix=True)),
    serve=_serve,
)
