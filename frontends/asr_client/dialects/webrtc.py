"""A WebRTC data channel as a channel, through the optional extra `webrtc` (aiortc).

The offer is posted as JSON and answered the same way; the channel is made before the offer. Importing this module must
work without the extra.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from asr_client.dialects.conversation import Closed
from asr_client.errors import ConnectionFailed, ServerError
from asr_dialects.client import Message
from asr_proto.errors import DecodeError, SetupError

OPEN_TIMEOUT_S = 5.0
READY_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 1 << 20
BUFFERED_BYTES_MAX = 262_144
"""Audio that may wait in the channel before the sender does; 8 s of it."""

Description = dict[str, str]
"""`sdp` and `type`."""
Exchange = Callable[[str, Description, str | None], Awaitable[Description]]


async def post_offer(url: str, offer: Description, api_key: str | None) -> Description:
    """The server's answer. Raises ConnectionFailed, ServerError, DecodeError."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
    request = urllib.request.Request(url, json.dumps(offer).encode(), headers)
    answer = await asyncio.to_thread(_post, request)
    try:
        fields = json.loads(answer)
        return {"sdp": str(fields["sdp"]), "type": str(fields["type"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DecodeError("the server's answer to the offer is no session description") from None


def _post(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=OPEN_TIMEOUT_S) as response:
            body: bytes = response.read(ANSWER_BYTES_MAX)
            return body
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(ANSWER_BYTES_MAX).decode(errors="replace").strip()
        raise ServerError(f"http-{error.code}", reason or "the server refused the offer") from None
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise ConnectionFailed(request.full_url, str(getattr(error, "reason", error))) from None


@asynccontextmanager
async def open_channel(url: str, api_key: str | None, exchange: Exchange = post_offer) -> AsyncIterator[DataChannel]:
    """Connect; leaving the block closes. Raises SetupError without the extra, ConnectionFailed, ServerError."""
    aiortc = _aiortc()
    peer = aiortc.RTCPeerConnection()
    try:
        channel = DataChannel(peer.createDataChannel("asr"))
        await peer.setLocalDescription(await peer.createOffer())
        offer = {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}
        answer = await exchange(url, offer, api_key)
        try:
            await peer.setRemoteDescription(aiortc.RTCSessionDescription(**answer))
            await asyncio.wait_for(channel.opened.wait(), OPEN_TIMEOUT_S)
        except ValueError as error:
            raise DecodeError(f"the server's answer to the offer cannot be used: {error}") from None
        except TimeoutError:
            raise ConnectionFailed(url, f"the data channel did not open within {OPEN_TIMEOUT_S:g} s") from None
        yield channel
    finally:
        await peer.close()


class DataChannel:
    """Messages of a data channel."""

    ready_timeout_s = READY_TIMEOUT_S

    def __init__(self, channel: Any) -> None:
        self.opened = asyncio.Event()
        self._channel = channel
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        channel.bufferedAmountLowThreshold = BUFFERED_BYTES_MAX // 2
        channel.on("open", self.opened.set)
        channel.on("message", self._inbox.put_nowait)
        channel.on("close", self._close)
        channel.on("bufferedamountlow", self._changed.set)

    async def send(self, message: Message) -> None:
        while self._channel.readyState == "open" and self._channel.bufferedAmount > BUFFERED_BYTES_MAX:
            self._changed.clear()
            await self._changed.wait()
        if self._channel.readyState != "open":
            raise Closed(None)
        self._channel.send(message)
        await asyncio.sleep(0)

    async def receive(self) -> Message:
        message = await self._inbox.get()
        if message is None:
            raise Closed(None)
        return message

    def _close(self) -> None:
        self._inbox.put_nowait(None)
        self._changed.set()


def _aiortc() -> Any:
    try:
        return importlib.import_module("aiortc")
    except ImportError as error:
        raise SetupError("WebRTC needs the extra 'webrtc': pip install 'asr-pool[webrtc]'") from error
