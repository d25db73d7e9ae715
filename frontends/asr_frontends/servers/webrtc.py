"""WebRTC clients: an SDP offer over HTTP, then one conversation on the data channel that the client has created.

A client may also send an audio track, as browsers do with a microphone. After the client's `init`, the audio of the
track is treated as the PCM16 that other clients send in binary messages.

A data channel cannot be left unread as a socket can. What a client sends beyond its credit is held here, up to
`INBOX_BYTES_MAX`; more than that ends its conversation. No STUN or TURN server is used: the SDP answer contains the
addresses of this machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from asr_frontends.access import Admission, Gate
from asr_frontends.audio.resample import Resampler
from asr_frontends.codec import Close, MakeTrackCodec, Request, TrackCodec
from asr_frontends.frontend import Frontend
from asr_frontends.servers.conversation import Conversation, Receiver
from asr_frontends.servers.handshake import request_of
from asr_proto.audio import from_float32
from asr_proto.errors import BadRequest, LimitExceeded, PeerError

log = structlog.get_logger()

OFFER_BYTES_MAX = 65_536
OFFER_S_MAX = 30.0
PEERS_MAX = 1000
"""Largest number of WebRTC connections in one process, with or without a session."""
CHANNEL_S_MAX = 30.0
"""Longest wait for a client to open its data channel."""
INBOX_BYTES_MAX = 4_194_304
"""Largest size of the messages of a client beyond its credit: two minutes of audio."""
FRAME_COST = 64
"""Bytes that are counted for each message in addition to its own."""
BUFFERED_BYTES_MAX = 65_536
"""Largest amount of data that is written to the channel and not received by the client. Then the outbox fills."""
LINGER_S = 0.25
"""Time between the last message and the end of the channel, as the dialect promises."""
CLOSE_S = 2.0
"""Longest wait for a client to close its side of the channel."""


class DataChannelTransport:
    """A data channel as a Transport. Messages are kept from its construction on."""

    def __init__(self, channel: RTCDataChannel, on_overflow: Callable[[], None]) -> None:
        self._channel, self._on_overflow = channel, on_overflow
        self._receiver: Receiver | None = None
        self._inbox: deque[str | bytes] = deque()
        self._inbox_bytes = 0
        self._is_paused = False
        self._taken = asyncio.Event()
        self._ended = asyncio.Event()
        channel.bufferedAmountLowThreshold = BUFFERED_BYTES_MAX
        channel.on("message", self.feed)
        channel.on("close", self.end)
        channel.on("bufferedamountlow", self._on_taken)

    # ---- The client ----

    def feed(self, frame: str | bytes) -> None:
        """Process a message of the client, or audio of its track."""
        self._inbox.append(frame)
        self._inbox_bytes += len(frame) + FRAME_COST
        self._hand_over()
        if self._inbox_bytes > INBOX_BYTES_MAX:
            self._inbox.clear()
            self._inbox_bytes = 0
            self._on_overflow()

    def end(self) -> None:
        """The client is gone."""
        self._ended.set()
        self._taken.set()
        if self._receiver is not None:
            self._receiver.on_gone(broken=True)

    def _on_taken(self) -> None:
        self._taken.set()
        if self._receiver is not None:
            self._receiver.on_writable()

    # ---- Transport ----

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._hand_over()
        if self._ended.is_set():
            receiver.on_gone(broken=True)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._hand_over()

    def _hand_over(self) -> None:
        while self._receiver is not None and self._inbox and not self._is_paused:
            frame = self._inbox.popleft()
            self._inbox_bytes -= len(frame) + FRAME_COST
            self._receiver.on_frame(frame)

    def can_write(self) -> bool:
        return bool(self._channel.bufferedAmount <= BUFFERED_BYTES_MAX)

    def write(self, frame: str | bytes) -> None:
        if self._channel.readyState == "open":
            self._channel.send(frame)

    async def finish(self, close: Close) -> None:
        """Close the channel. A data channel has no close codes, so `close` is not sent."""
        self._channel.bufferedAmountLowThreshold = 0
        while self._channel.bufferedAmount and not self._ended.is_set():
            self._taken.clear()
            await self._taken.wait()
        await asyncio.sleep(LINGER_S)
        self._channel.close()
        try:
            await asyncio.wait_for(self._ended.wait(), CLOSE_S)
        except TimeoutError:
            log.info("a WebRTC client did not close its data channel")


class Mono:
    """Converts the frames of an audio track to PCM16LE, 16 kHz, mono."""

    def __init__(self) -> None:
        self._rate = 0
        self._resampler: Resampler | None = None

    def feed(self, frame: Any) -> bytes:
        """PCM16LE of `frame`, an av.AudioFrame of interleaved 16-bit samples, which aiortc's decoders return."""
        if frame.sample_rate != self._rate or self._resampler is None:
            self._rate, self._resampler = frame.sample_rate, Resampler(frame.sample_rate)
        channels = len(frame.layout.channels)
        mean = frame.to_ndarray().reshape(-1, channels).mean(axis=1, dtype="f4")
        return self._resampler.feed(from_float32(mean / 32768.0).tobytes())


class Peer:
    """One peer connection: its conversation on the data channel, and its audio track."""

    def __init__(self, frontend: Frontend, gate: Gate, request: Request, codec: TrackCodec) -> None:
        self._frontend, self._gate, self._request = frontend, gate, request
        self._admission: Admission | None = None
        self._codec = codec
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track: MediaStreamTrack | None = None
        self._transport: DataChannelTransport | None = None
        self._conversation: Conversation | None = None
        self._opened = asyncio.Event()
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("track", self._on_track)
        self._pc.on("connectionstatechange", self._on_state)

    @property
    def is_ending(self) -> bool:
        """Whether the last message of the conversation is in its outbox or already sent."""
        return self._conversation is not None and self._conversation.is_ending

    async def answer(self, offer: RTCSessionDescription) -> RTCSessionDescription:
        """The answer to a client's offer. Raises BadRequest; the caller must then close the peer."""
        try:
            await self._pc.setRemoteDescription(offer)
            has_channel = self._pc.sctp is not None
            self._take_one_track()
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        except Exception as error:  # aiortc has no exception class for an SDP that it does not support
            log.info("refused an SDP offer", reason=repr(error))
            raise BadRequest("invalid sdp") from error
        if not has_channel:
            raise BadRequest("the offer has no data channel: create it before the offer")
        return self._pc.localDescription

    async def run(self) -> None:
        """Serve the client until the connection or the conversation ends."""
        reading: asyncio.Task[None] | None = None
        try:
            await asyncio.wait_for(self._opened.wait(), CHANNEL_S_MAX)
            if self._conversation is not None:
                reading = asyncio.create_task(self._read_track())
                await self._conversation.run()
        except TimeoutError:
            log.info("a WebRTC client opened no data channel")
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            if self._admission is not None:
                self._gate.leave(self._admission)
            await self.close()

    async def close(self) -> None:
        await self._pc.close()

    # ---- The peer connection ----

    def _take_one_track(self) -> None:
        """Accept one audio track; answer further tracks and video as inactive."""
        for transceiver in self._pc.getTransceivers():
            if transceiver.receiver.track is not self._track:
                transceiver.direction = "inactive"

    def _on_track(self, track: MediaStreamTrack) -> None:
        if self._track is None and track.kind == "audio":
            self._track = track

    def _on_channel(self, channel: RTCDataChannel) -> None:
        """Begin the conversation on the first channel, whatever its label; close any other channel.

        The client is admitted again here, because the admission of its offer ended with the response.
        """
        if self._transport is not None:
            channel.close()
            return
        self._transport = DataChannelTransport(channel, self._on_overflow)
        self._conversation = Conversation(self._codec, self._frontend, self._transport)
        try:
            self._admission = self._gate.admit(self._request)
        except PeerError as error:
            self._conversation.fail(error)
        self._opened.set()

    def _on_overflow(self) -> None:
        assert self._conversation is not None
        detail = f"{INBOX_BYTES_MAX} bytes are ahead of the model"
        self._conversation.fail(LimitExceeded(detail, slug="too-far-ahead"))

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            self._opened.set()
            if self._transport is not None:
                self._transport.end()

    async def _read_track(self) -> None:
        """Pass the track's audio to the conversation while its codec accepts audio."""
        if self._track is None or self._transport is None:
            return
        mono = Mono()
        try:
            while True:
                frame = await self._track.recv()
                if self._codec.takes_audio and (pcm := mono.feed(frame)):
                    self._transport.feed(pcm)
        except MediaStreamError:
            return


class RtcPeers:
    """All WebRTC clients of one dialect in a frontend."""

    def __init__(self, frontend: Frontend, gate: Gate, make_codec: MakeTrackCodec) -> None:
        self._frontend, self._gate, self._make_codec = frontend, gate, make_codec
        self._peers: dict[asyncio.Task[None], Peer] = {}
        # aioice logs every pair of addresses that it tries, and so the client's addresses.
        logging.getLogger("aioice").setLevel(logging.WARNING)

    def __len__(self) -> int:
        return len(self._peers)

    def routes(self, path: str) -> list[BaseRoute]:
        """The route to which clients send their offers."""
        return [Route(path, self._offer, methods=["POST"])]

    async def close_all(self) -> None:
        """Wait for the last messages of conversations that have ended, then end every conversation and connection."""
        ending = [task for task, peer in self._peers.items() if peer.is_ending]
        if ending:
            await asyncio.wait(ending, timeout=LINGER_S + CLOSE_S)
        tasks = list(self._peers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _offer(self, request: HttpRequest) -> Response:
        if self._frontend.draining:
            return PlainTextResponse("this server is going away", 503, {"retry-after": "1"})
        if len(self._peers) >= PEERS_MAX:
            return PlainTextResponse("too many WebRTC clients are connected", 503, {"retry-after": "1"})
        peer: Peer | None = None
        try:
            offer = _parse(await _body(request))
            asked = request_of(request.scope)
            peer = Peer(self._frontend, self._gate, asked, self._make_codec(asked))
            answer = await peer.answer(offer)
        except PeerError as error:
            if peer is not None:
                await peer.close()
            return PlainTextResponse(error.detail, 413 if isinstance(error, LimitExceeded) else 400)
        task = asyncio.create_task(peer.run())
        self._peers[task] = peer
        task.add_done_callback(self._forget)
        return JSONResponse({"sdp": answer.sdp, "type": answer.type})

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._peers[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a WebRTC conversation failed", exc_info=error)


async def _body(request: HttpRequest) -> bytes:
    """The body of an offer. Raises LimitExceeded and BadRequest."""
    body = b""
    try:
        async with asyncio.timeout(OFFER_S_MAX):
            async for piece in request.stream():
                body += piece
                if len(body) > OFFER_BYTES_MAX:
                    raise LimitExceeded(f"an offer has at most {OFFER_BYTES_MAX} bytes")
    except (TimeoutError, ClientDisconnect) as error:
        raise BadRequest("the offer is not complete") from error
    return body


def _parse(body: bytes) -> RTCSessionDescription:
    """The client's offer. Raises BadRequest."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("invalid json") from error
    fields = message if isinstance(message, dict) else {}
    sdp, kind = fields.get("sdp"), fields.get("type")
    if not sdp or not kind or not isinstance(sdp, str):
        raise BadRequest("missing sdp/type")
    if kind != "offer":
        raise BadRequest("type must be offer")
    return RTCSessionDescription(sdp, kind)
