"""The record of AMIRA's dialect."""

from __future__ import annotations

import click

from asr_dialects import amira
from asr_frontends.access import Gate
from asr_frontends.dialect import Dialect, Endpoint, Serving, Settings
from asr_frontends.dialects.amira.codec import AmiraCodec
from asr_frontends.dialects.amira.rest import Amira, AmiraLimits
from asr_frontends.frontend import Frontend

LIMITS = AmiraLimits()


def _serve(frontend: Frontend, _gate: Gate, settings: Settings) -> Serving:
    limits = AmiraLimits(
        streams_max=settings.get("amira_streams_max", LIMITS.streams_max),
        batches_max=settings.get("amira_batches_max", LIMITS.batches_max),
        batch_audio_s_max=settings.get("amira_batch_s_max", LIMITS.batch_audio_s_max),
        request_bytes_max=settings.get("amira_request_bytes_max", LIMITS.request_bytes_max),
    )
    it = Amira(frontend, limits)
    return Serving(routes=it.routes(), converse=it.stream, health=it.health)


AMIRA = Dialect(
    name="amira",
    transport="websocket",
    path=amira.PATH,
    codec=AmiraCodec,
    endpoints=(Endpoint("/v2/decode/stream", is_prefix=True), Endpoint("/v2/decode/batch", is_prefix=True)),
    options=(
        click.option(
            "--amira-streams-max",
            type=click.IntRange(min=1),
            default=LIMITS.streams_max,
            help="Largest number of AMIRA streams at once.",
        ),
        click.option(
            "--amira-batches-max",
            type=click.IntRange(min=1),
            default=LIMITS.batches_max,
            help="Largest number of AMIRA batches at once.",
        ),
        click.option(
            "--amira-batch-s-max",
            type=click.FloatRange(min=1),
            default=LIMITS.batch_audio_s_max,
            help="Longest audio of an AMIRA batch, in seconds.",
        ),
        click.option(
            "--amira-request-bytes-max",
            type=click.IntRange(min=1024),
            default=LIMITS.request_bytes_max,
            help="Largest body of an AMIRA request, in bytes.",
        ),
    ),
    serve=_serve,
)
