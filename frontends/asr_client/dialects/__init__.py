"""Small clients for every dialect that the service speaks, behind one verb, made for measuring.

    run = await DIALECTS["yap"].speak("ws://127.0.0.1:8000/", frames, pace=1.0)
    figures(run)

    talks         what each dialect says and means: pure
    conversation  one session over any channel: send at a pace, read up to the end
    websocket, webrtc   the channels; `webrtc` needs the extra of that name
    recorder      when things happened

Programs that want the service's events rather than figures use `asr_client.connect`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from asr_client.dialects import talks, webrtc, websocket
from asr_client.dialects.conversation import converse
from asr_client.dialects.recorder import OnText, Recorder, ignore
from asr_client.dialects.talks import Talk
from asr_client.errors import InvalidUrl
from asr_client.figures import Run

DEFAULT_MODEL = "default"
"""Stands in a path that must name a model, for a server that takes any name."""
RATE_SHARE_MAX = 0.8
"""Share of a dialect's limit on messages that a steady sender may use."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect: where it is served, how it is spoken."""

    name: str
    path: str
    """`{model}` stands for the model's name."""
    query: str
    """`{model}` here is left out, with its parameter, when no model is asked for."""
    talk: Callable[[str | None], Talk]
    channel: Literal["websocket", "webrtc"] = "websocket"
    messages_per_s_max: int | None = None

    def url(self, address: str, *, secure: bool = False, path: str | None = None, model: str | None = None) -> str:
        """The URL meant by HOST:PORT or by a URL; what the URL already says stays. Raises InvalidUrl."""
        parts = _split(address)
        encrypted = secure or parts.scheme in ("https", "wss")
        scheme = "http" if self.channel == "webrtc" else "ws"
        given = parts.path if parts.path.strip("/") else ""
        ours = self.path.format(model=quote(model or DEFAULT_MODEL, safe=""))
        query = parts.query or self._query(model)
        return urlunsplit((scheme + "s" * encrypted, parts.netloc, path or given or ours, query, ""))

    def _query(self, model: str | None) -> str:
        kept = [part for part in self.query.split("&") if model or "{model}" not in part]
        return "&".join(kept).format(model=quote(model or "", safe=""))

    def frame_ms(self, wanted: int, pace: float) -> int:
        """The length of frames at that pace: longer than wanted where the dialect limits messages per second."""
        if self.messages_per_s_max is None or pace <= 0:
            return wanted
        return max(wanted, math.ceil(1000 * pace / (self.messages_per_s_max * RATE_SHARE_MAX)))

    async def speak(
        self,
        url: str,
        frames: Iterable[bytes],
        pace: float,
        on_text: OnText = ignore,
        *,
        model: str | None = None,
        api_key: str | None = None,
    ) -> Run:
        """One whole session: PCM16LE frames at `pace` times real time (0: as fast as they are taken), all text.

        `on_text` hears the whole text whenever it has changed. Raises ClientError, DecodeError.
        """
        recorder = Recorder(on_text)
        talk = self.talk(model)
        open_channel = webrtc.open_channel if self.channel == "webrtc" else websocket.open_channel
        async with open_channel(url, api_key) as channel:
            recorder.connected()
            await converse(channel, talk, frames, pace, recorder)
        return recorder.run()


CAIMAN_QUERY = "content_type=audio/x-raw;format=S16LE;channels=1;rate=16000&model={model}"
DEEPGRAM_QUERY = "encoding=linear16&sample_rate=16000&channels=1&interim_results=true&model={model}"

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("native", "/v1/stream", "", talks.Native),
        Dialect("caiman", "/asr/v0.1/stream", CAIMAN_QUERY, talks.Caiman),
        Dialect("yap", "/", "", talks.Yap),
        Dialect("parakeet", "/ws", "", talks.Parakeet),
        Dialect("moonshine", "/webrtc", "", talks.Moonshine, channel="webrtc"),
        Dialect("amira", "/v2/decode/stream/{model}", "", talks.Amira, messages_per_s_max=100),
        Dialect("deepgram", "/v1/listen", DEEPGRAM_QUERY, talks.Deepgram),
    )
}


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address if "://" in address else f"ws://{address}")
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, unbalanced brackets
        valid = False
    if not valid or parts.scheme not in ("ws", "wss", "http", "https"):
        raise InvalidUrl(f"{address!r} is no address of a server (try 127.0.0.1:8000)")
    return parts
