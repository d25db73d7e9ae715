"""WebRTC where the extra `webrtc` is installed; where it is not, the answer is one sentence that names the extra."""

from __future__ import annotations

import importlib.util
from typing import Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from asr_frontends.access import Gate
from asr_frontends.codec import MakeTrackCodec
from asr_frontends.frontend import Frontend

MISSING = "WebRTC is not installed here: pip install 'asr-pool[webrtc]'"


class Peers(Protocol):
    """All WebRTC clients of a frontend."""

    def routes(self, path: str) -> list[BaseRoute]:
        """Where clients send their offers."""

    async def close_all(self) -> None:
        """End every conversation and connection."""


class NoPeers:
    """Stands in where the extra is missing."""

    def routes(self, path: str) -> list[BaseRoute]:
        return [Route(path, _missing, methods=["POST"])]

    async def close_all(self) -> None:
        """Nobody is here."""


async def _missing(_: HttpRequest) -> Response:
    return PlainTextResponse(MISSING, 501)


def installed() -> bool:
    return importlib.util.find_spec("aiortc") is not None


def peers(frontend: Frontend, gate: Gate, make_codec: MakeTrackCodec) -> Peers:
    """Those of one dialect, with aiortc, which is imported only here and takes its time."""
    if not installed():
        return NoPeers()
    from asr_frontends.servers.webrtc import RtcPeers  # noqa: PLC0415

    return RtcPeers(frontend, gate, make_codec)
