"""The record of Moonshine's dialect."""

from __future__ import annotations

import click

from asr_dialects import moonshine
from asr_frontends.access import Gate
from asr_frontends.dialect import Dialect, Serving, Settings
from asr_frontends.dialects.moonshine.codec import MoonshineCodec
from asr_frontends.frontend import Frontend
from asr_frontends.servers import webrtc_extra


def _serve(frontend: Frontend, gate: Gate, settings: Settings) -> Serving:
    peers = webrtc_extra.peers(frontend, gate, MoonshineCodec)
    return Serving(routes=peers.routes(settings.get("webrtc_path", moonshine.PATH)), close=peers.close_all)


MOONSHINE = Dialect(
    name="moonshine",
    transport="webrtc",
    path=moonshine.PATH,
    codec=MoonshineCodec,
    options=(
        click.option(
            "--webrtc-path", default=moonshine.PATH, help="Where Moonshine's clients POST their WebRTC offer."
        ),
    ),
    serve=_serve,
)
