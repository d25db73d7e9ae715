"""One small client for every dialect of the service, made for measuring. The messages are in `asr_dialects`.

    run = await DIALECTS["yap"].run_session("ws://127.0.0.1:8000/", frames, pace=1.0)
    figures(run)

    dialect_session   the client's side of one session in a dialect: pure
    conversation      one session over any channel: sends at a pace, reads up to the end
    websocket, webrtc the channels; `webrtc` needs the extra of that name
    recorder          the times of a session's events

Programs that want the service's events rather than figures use `asr_client.connect`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit, urlunsplit

from asr_client.dialects import webrtc, websocket
from asr_client.dialects.conversation import Channel, converse
from asr_client.dialects.dialect_session import DialectSession
from asr_client.dialects.recorder import OnText, Recorder, ignore
from asr_client.errors import InvalidUrl
from asr_client.figures import Run
from asr_dialects.client import Client
from asr_dialects.clients import CLIENTS

RATE_SHARE_MAX = 0.8
"""Share of a dialect's limit on messages that a steady sender may use."""


@dataclass(frozen=True, slots=True)
class DialectClient:
    """The client of one dialect: its URLs and its sessions."""

    client: Client

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def channel(self) -> Literal["websocket", "webrtc"]:
        return self.client.channel

    def session(self, model: str | None) -> DialectSession:
        """The client's side of one session."""
        return DialectSession(self.client, model)

    def url(self, address: str, *, secure: bool = False, path: str | None = None, model: str | None = None) -> str:
        """The URL for HOST:PORT or for a URL, whose own path and query stay. Raises InvalidUrl."""
        parts = _split(address)
        encrypted = secure or parts.scheme in ("https", "wss")
        scheme = "http" if self.channel == "webrtc" else "ws"
        given = parts.path if parts.path.strip("/") else ""
        query = parts.query or self.client.query_for(model)
        where = path or given or self.client.path_for(model)
        return urlunsplit((scheme + "s" * encrypted, parts.netloc, where, query, ""))

    def frame_ms(self, wanted: int, pace: float) -> int:
        """The frame length in ms at a pace: longer than `wanted` if the dialect limits messages per second."""
        messages_per_s_max = self.client.messages_per_s_max
        if messages_per_s_max is None or pace <= 0:
            return wanted
        return max(wanted, math.ceil(1000 * pace / (messages_per_s_max * RATE_SHARE_MAX)))

    def open_channel(self, url: str, api_key: str | None) -> AbstractAsyncContextManager[Channel]:
        """An open channel, closed at the end of the block. Raises ConnectionFailed, ServerError or SetupError."""
        return webrtc.open_channel(url, api_key) if self.channel == "webrtc" else websocket.open_channel(url, api_key)

    async def run_session(
        self,
        url: str,
        frames: Iterable[bytes],
        pace: float,
        on_text: OnText = ignore,
        *,
        model: str | None = None,
        api_key: str | None = None,
    ) -> Run:
        """Run one whole session: send PCM16LE frames at `pace` times real time (0: as fast as the server reads).

        `on_text` is called with the whole text whenever it has changed. Raises ClientError, DecodeError.
        """
        recorder = Recorder(on_text)
        session = self.session(model)
        async with self.open_channel(url, api_key) as channel:
            recorder.connected()
            await converse(channel, session, frames, pace, recorder)
        return recorder.run()


DIALECTS = {name: DialectClient(client) for name, client in CLIENTS.items()}


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address if "://" in address else f"ws://{address}")
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, unbalanced brackets
        valid = False
    if not valid or parts.scheme not in ("ws", "wss", "http", "https"):
        raise InvalidUrl(f"{address!r} is no address of a server (try 127.0.0.1:8000)")
    return parts
