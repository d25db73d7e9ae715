"""WebRTC through real processes: ICE, DTLS and SCTP on this machine, with aiortc as the client and with a browser.

Audio on the data channel goes to the fake engine, whose text is a checksum of it. What comes as an Opus track is no
longer the same audio: that goes to the embedded model, which must understand it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pytest
import soxr

from asr_audio.files import AudioFile
from asr_frontends.codec import Close
from asr_proto.audio import to_float32, to_int16
from tests.e2e.clients import cut, expected, noise
from tests.e2e.service import WAIT_S, Pool, eventually

aiortc = pytest.importorskip("aiortc", reason="needs the extra webrtc")

from aiortc.mediastreams import AudioFrame, MediaStreamTrack  # noqa: E402

from asr_frontends.servers import webrtc  # noqa: E402

Message = dict[str, Any]
DATA = Path(__file__).parents[1] / "data"
CLIP = DATA / "speechbrain__spk1_snt1.wav"
NO_CHANNEL = "the offer has no data channel: create it before the offer"
SPOKEN = "the child almost hurt the small dog"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def post(port: int, body: bytes, path: str = "/webrtc") -> tuple[int, str]:
    """Status and body of an offer's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()


class Client:
    """A peer connection with one data channel, and its messages."""

    def __init__(self, port: int, label: str = "audio", track: MediaStreamTrack | None = None) -> None:
        self._port, self._track = port, track
        self.received: list[Message] = []
        self.at: list[float] = []
        self.pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.channel = self.pc.createDataChannel(label)
        self._opened, self.closed = asyncio.Event(), asyncio.Event()
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self.channel.on("open", self._opened.set)
        self.channel.on("message", self._on_message)
        self.channel.on("close", self._on_close)

    def _on_message(self, message: str | bytes) -> None:
        self.at.append(time.monotonic())
        self._inbox.put_nowait(json.loads(message))

    def _on_close(self) -> None:
        self.at.append(time.monotonic())
        self.closed.set()
        self._inbox.put_nowait(None)

    async def __aenter__(self) -> Self:
        if self._track is not None:
            self.pc.addTrack(self._track)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        offer = {"sdp": self.pc.localDescription.sdp, "type": self.pc.localDescription.type}
        status, body = await asyncio.to_thread(post, self._port, json.dumps(offer).encode())
        assert status == 200, body
        answer = json.loads(body)
        assert answer.keys() == {"sdp", "type"}
        await self.pc.setRemoteDescription(aiortc.RTCSessionDescription(**answer))
        await asyncio.wait_for(self._opened.wait(), WAIT_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pc.close()

    def send_message(self, op: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"op": op, **fields}))

    def send(self, *messages: bytes | str) -> None:
        for message in messages:
            self.channel.send(message)

    async def receive(self) -> Message | None:
        """The next message, None when the server has closed the channel."""
        message = await asyncio.wait_for(self._inbox.get(), WAIT_S)
        if message is not None:
            self.received.append(message)
        return message

    async def until(self, op: str) -> Message:
        while (message := await self.receive()) is not None:
            if message["op"] == op:
                return message
        raise AssertionError(f"closed before {op!r}: {self.received[-5:]}")

    async def rest(self) -> list[Message]:
        """All messages up to the server's close."""
        while await self.receive() is not None:
            pass
        return self.received


def played(conversation: Callable[[], Awaitable[None]]) -> None:
    """Run a test's conversation on a new event loop."""

    async def main() -> None:
        await conversation()

    asyncio.run(main())


# ---- The data channel ----


def test_a_conversation(fake: Pool) -> None:
    """MOO-01 to MOO-05, MOO-22: offer, answer, init, ready, audio, interims, close, final, and the channel lingers."""
    pcm = noise(3.3, seed=1)

    async def conversation() -> None:
        async with Client(fake.port, label="whatever") as client:
            client.send_message("init", sid="s-1", sr=16000)
            assert await client.until("ready") == {"op": "ready", "sid": "s-1", "max_batch": 32, "model": "fake"}
            client.send(*cut(pcm, 640))
            client.send_message("close")
            final = (await client.rest())[-1]
        assert final.pop("inference_ms") == 0
        assert final == {"op": "final", "sid": "s-1", "text": expected(pcm), "final": True}
        interims = [message for message in client.received if message["op"] == "interim"]
        texts = [interim["text"] for interim in interims]
        assert texts and all(later != earlier for earlier, later in itertools.pairwise(texts))
        assert all(expected(pcm).startswith(text) for text in texts)
        assert client.at[-1] - client.at[-2] > 0.2

    played(conversation)


@pytest.mark.parametrize("size", [0, 320, 32_001])
def test_messages_of_any_size(fake: Pool, size: int) -> None:
    """MOO-02: the text does not depend on how the audio is cut, and everything may be sent at once."""
    pcm = noise(5.1, seed=2)

    async def conversation() -> None:
        async with Client(fake.port) as client:
            client.send_message("init")
            client.send(*cut(pcm, size))
            client.send_message("flush")
            received = await client.rest()
        assert received[0]["op"] == "ready"
        assert received[-1]["text"] == expected(pcm)
        assert {message.get("sid") for message in received} == {received[0]["sid"]}

    played(conversation)


def test_several_clients_receive_their_own_words(fake: Pool) -> None:
    """One session per peer connection; an equal sid does not join sessions (decision 14)."""

    async def speak(seed: int) -> tuple[str, str]:
        pcm = noise(2.0 + seed / 4, seed)
        async with Client(fake.port) as client:
            client.send_message("init", sid="the same")
            client.send(*cut(pcm, 1920))
            client.send_message("close")
            return (await client.rest())[-1]["text"], expected(pcm)

    async def conversation() -> None:
        received = await asyncio.gather(*(speak(seed) for seed in range(4)))
        assert [text for text, _ in received] == [text for _, text in received]

    played(conversation)


def test_answers_that_change_nothing(fake: Pool) -> None:
    """MOO-06, MOO-07: ping, bad_json and unknown_op are answered, and the conversation goes on."""
    pcm = noise(1.0, seed=3)

    async def conversation() -> None:
        async with Client(fake.port) as client:
            client.send_message("ping")
            assert await client.receive() == {"op": "pong"}
            client.send("hello")
            assert await client.receive() == {"op": "error", "reason": "bad_json"}
            client.send_message("init")
            await client.until("ready")
            client.send_message("other")
            assert await client.until("error") == {"op": "error", "reason": "unknown_op"}
            client.send(pcm)
            client.send_message("close")
            last = (await client.rest())[-1]
            assert last.get("text") == expected(pcm), last

    played(conversation)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"\0\0"], "not_initialized"),
        (['{"op":"close"}'], "not_initialized"),
        (['{"op":"init"}', '{"op":"init"}'], "already_initialized"),
        (['{"op":"init","sr":48000}'], "unsupported_sample_rate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_close_the_channel(fake: Pool, messages: list[str | bytes], reason: str) -> None:
    """MOO-06, decision 5."""

    async def conversation() -> None:
        async with Client(fake.port) as client:
            client.send(*messages)
            assert (await client.rest())[-1] == {"op": "error", "reason": reason}

    played(conversation)


def test_a_client_that_leaves(fake: Pool) -> None:
    """Its slot is free again (the fixture checks it), whether it closes its channel or its connection."""

    async def conversation() -> None:
        async with Client(fake.port) as client:
            client.send_message("init")
            await client.until("ready")
            client.send(noise(1.0))
        async with Client(fake.port) as client:
            client.send_message("init")
            await client.until("ready")
            client.channel.close()
            await asyncio.wait_for(client.closed.wait(), WAIT_S)

    played(conversation)
    fake.wait_sessions(0)


def test_a_second_channel_is_closed(fake: Pool) -> None:
    """One session per peer connection."""
    pcm = noise(1.0, seed=4)

    async def conversation() -> None:
        async with Client(fake.port) as client:
            client.send_message("init")
            await client.until("ready")
            second, closed = client.pc.createDataChannel("second"), asyncio.Event()
            second.on("close", closed.set)
            await asyncio.wait_for(closed.wait(), WAIT_S)
            client.send(pcm)
            client.send_message("close")
            last = (await client.rest())[-1]
            assert last.get("text") == expected(pcm), last

    played(conversation)


@pytest.fixture(scope="module")
def tight(_fake_pool: Pool) -> int:
    """Port of a second frontend of the same pool: it holds little ahead of the model."""
    _, port = _fake_pool.add_frontend("--credit-s=3")
    _fake_pool.wait_ready(port)
    return port


def test_a_silent_session_is_ended(fake: Pool, impatient_port: int) -> None:
    """MOO-23: the idle timeout works."""

    async def conversation() -> None:
        async with Client(impatient_port) as client:
            client.send_message("init")
            assert (await client.rest())[-1] == {"op": "error", "reason": "idle_timeout"}

    played(conversation)


def test_audio_ahead_of_the_model_is_kept(fake: Pool, tight: int) -> None:
    """MOO-24, decision 19: a minute sent at once to a session with three seconds of credit: nothing is dropped."""
    pcm = noise(60.0, seed=5)

    async def conversation() -> None:
        async with Client(tight) as client:
            client.send_message("init")
            client.send(*cut(pcm, 16_000))
            client.send_message("close")
            last = (await client.rest())[-1]
            assert last.get("text") == expected(pcm), last

    played(conversation)


def test_a_connection_counts_as_its_clients_session(fake: Pool) -> None:
    """It counts as long as the conversation lasts, not only until its offer is answered."""
    _, port = fake.add_frontend("--sessions-per-address=1")
    fake.wait_ready(port)

    async def conversation() -> None:
        offer = await _offer(channel=True)
        async with Client(port) as client:
            client.send_message("ping")
            await client.until("pong")
            assert await asyncio.to_thread(post, port, offer) == (429, "this address has 1 sessions already")
            client.send_message("init")
            client.send_message("close")
            await client.rest()
        # An admitted client receives an error about its invalid offer. The first connection ends soon after its final.
        await asyncio.to_thread(eventually, lambda: post(port, b"{}")[0] == 400, "the end of the first connection")
        async with Client(port) as client:
            client.send_message("ping")
            await client.until("pong")

    played(conversation)


def test_the_end_of_the_server() -> None:
    """MOO-15: after SIGTERM clients receive their last messages, peers are closed and the process ends.

    A client that has not ended its audio receives all its text, and an error in place of the final.
    """
    first, second = noise(1.3, seed=4), noise(0.9, seed=5)

    async def conversation(pool: Pool) -> None:
        async with Client(pool.port) as ending, Client(pool.port) as talking, Client(pool.port) as silent:
            for client in (ending, talking):
                client.send_message("init")
                await client.until("ready")
                client.send(first)
                await client.until("interim")
            pool.frontend.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(pool.frontend.wait_for, "draining")
            offer = await _offer(channel=True)
            assert await asyncio.to_thread(post, pool.port, offer) == (503, "this server is going away")
            for client in (ending, talking):
                client.send(second)
            ending.send_message("close")
            final = (await ending.rest())[-1]
            assert (final["op"], final["text"]) == ("final", expected(first + second))
            *_, interim, error = await talking.rest()
            assert error == {"op": "error", "reason": "going_away"}
            assert (interim["op"], interim["text"]) == ("interim", expected(first + second))
            assert interim["inference_ms"] == 0
            await asyncio.wait_for(silent.closed.wait(), WAIT_S)
        assert await asyncio.to_thread(pool.frontend.wait) == 0

    with Pool(frontend=["--drain-s=4"]) as pool:
        asyncio.run(conversation(pool))
        assert not [line for line in pool.frontend.lines if "Traceback" in line]


# ---- Offers ----


async def _offer(*, channel: bool, audio: bool = False) -> bytes:
    pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    if channel:
        pc.createDataChannel("x")
    if audio:
        pc.addTransceiver("audio", direction="sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    sdp = pc.localDescription.sdp
    await pc.close()
    return json.dumps({"sdp": sdp, "type": "offer"}).encode()


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (b"", 400, "invalid json"),
        (b"{", 400, "invalid json"),
        (b"\xff", 400, "invalid json"),
        (b"[" * 60_000, 400, "invalid json"),
        (b"[]", 400, "missing sdp/type"),
        (b"{}", 400, "missing sdp/type"),
        (b'{"sdp":"v=0"}', 400, "missing sdp/type"),
        (b'{"type":"offer"}', 400, "missing sdp/type"),
        (b'{"sdp":1,"type":"offer"}', 400, "missing sdp/type"),
        (b'{"sdp":"v=0","type":"answer"}', 400, "type must be offer"),
        (b'{"sdp":"v=0","type":["offer"]}', 400, "type must be offer"),
        (b'{"sdp":"hello","type":"offer"}', 400, NO_CHANNEL),
        (b'{"sdp":"v=0\\r\\nm=audio","type":"offer"}', 400, "invalid sdp"),
        (b'{"sdp":"v=0","type":"offer"}', 400, NO_CHANNEL),
        (b" " * 70_000, 413, "an offer has at most 65536 bytes"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_refused_offers(fake: Pool, body: bytes, status: int, answer: str) -> None:
    """MOO-01: 400 `invalid json`, 400 `missing sdp/type`, and offers that no peer connection accepts."""
    assert post(fake.port, body) == (status, answer)


def test_an_offer_without_a_data_channel(fake: Pool) -> None:
    """MOO-02: the client creates the channel, before its offer."""
    status, answer = post(fake.port, asyncio.run(_offer(channel=False, audio=True)))
    assert (status, answer) == (400, NO_CHANNEL)


def test_only_offers_are_posted(fake: Pool) -> None:
    assert fake.get("/webrtc")[0] == 405


# ---- The transport alone ----


class StubChannel:
    """A data channel whose client reads as much as the test wants."""

    def __init__(self) -> None:
        self.readyState = "open"
        self.bufferedAmount = 0
        self.bufferedAmountLowThreshold = 0
        self.sent: list[str | bytes] = []
        self._listeners: dict[str, Callable[..., None]] = {}

    def on(self, event: str, listener: Callable[..., None]) -> None:
        self._listeners[event] = listener

    def emit(self, event: str, *args: Any) -> None:
        self._listeners[event](*args)

    def send(self, frame: str | bytes) -> None:
        self.sent.append(frame)
        self.bufferedAmount += len(frame)

    def take(self, count: int) -> None:
        before, self.bufferedAmount = self.bufferedAmount, self.bufferedAmount - count
        if before > self.bufferedAmountLowThreshold >= self.bufferedAmount:
            self.emit("bufferedamountlow")

    def close(self) -> None:
        self.readyState = "closed"
        self.emit("close")


class RecordingReceiver:
    """A Receiver that keeps its messages."""

    def __init__(self) -> None:
        self.frames: list[str | bytes] = []
        self.writable = self.gone = 0

    def on_frame(self, frame: str | bytes) -> None:
        self.frames.append(frame)

    def on_writable(self) -> None:
        self.writable += 1

    def on_gone(self, *, broken: bool) -> None:
        self.gone += 1


def test_a_slow_client_is_not_written_to() -> None:
    """The amount of written and unread data is limited; the rest waits in the conversation's outbox."""

    async def conversation() -> None:
        channel, received = StubChannel(), RecordingReceiver()
        transport = webrtc.DataChannelTransport(channel, lambda: None)  # type: ignore[arg-type]
        transport.start(received)
        message = "x" * 40_000
        transport.write(message)
        assert transport.can_write()
        transport.write(message)
        assert not transport.can_write()
        channel.take(40_000)
        assert received.writable == 1 and transport.can_write()
        closing = asyncio.create_task(transport.finish(Close(1000)))
        done, _ = await asyncio.wait((closing,), timeout=0.05)
        assert not done
        channel.take(40_000)
        start = time.monotonic()
        await closing
        assert time.monotonic() - start >= webrtc.LINGER_S - 0.01
        assert channel.readyState == "closed"
        assert received.gone

    played(conversation)


def test_a_client_too_far_ahead() -> None:
    """MOO-24, decision 19: messages beyond the credit are held up to a limit; above it the client receives an error."""

    async def conversation() -> None:
        channel, received, overflows = StubChannel(), RecordingReceiver(), []
        transport = webrtc.DataChannelTransport(channel, lambda: overflows.append(True))  # type: ignore[arg-type]
        transport.start(received)
        second = bytes(32_000)
        channel.emit("message", second)
        transport.pause()
        for _ in range(webrtc.INBOX_BYTES_MAX // (len(second) + webrtc.FRAME_COST)):
            channel.emit("message", second)
        assert received.frames == [second]
        assert not overflows
        channel.emit("message", second)
        assert overflows

    played(conversation)


def test_messages_that_waited_are_received_in_order() -> None:
    """They wait before the conversation begins and during a pause."""

    async def conversation() -> None:
        channel, received = StubChannel(), RecordingReceiver()
        transport = webrtc.DataChannelTransport(channel, lambda: None)  # type: ignore[arg-type]
        channel.emit("message", "one")
        transport.start(received)
        transport.pause()
        channel.emit("message", b"two")
        channel.emit("message", "three")
        assert received.frames == ["one"]
        transport.resume()
        assert received.frames == ["one", b"two", "three"]

    played(conversation)


def test_a_client_that_is_gone_blocks_no_wait() -> None:
    async def conversation() -> None:
        channel, received = StubChannel(), RecordingReceiver()
        transport = webrtc.DataChannelTransport(channel, lambda: None)  # type: ignore[arg-type]
        transport.start(received)
        transport.write("x" * 100_000)
        closing = asyncio.create_task(transport.finish(Close(1000)))
        await asyncio.wait((closing,), timeout=0.05)
        channel.close()
        await closing
        transport.write("more")
        assert received.gone
        assert len(channel.sent) == 1

    played(conversation)


# ---- Audio tracks ----


def words(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ")


def clip_pcm(path: Path = CLIP) -> bytes:
    """A recording as PCM16LE, 16 kHz, mono."""
    return b"".join(AudioFile(path.read_bytes()).frames(1000))


class Spoken(MediaStreamTrack):
    """A microphone: 48 kHz stereo in frames of 20 ms at the speed of speech, silence after the last word."""

    kind = "audio"

    def __init__(self, pcm: bytes) -> None:
        super().__init__()
        mono = soxr.resample(to_float32(to_int16(pcm)), 16_000, 48_000)
        samples = (np.repeat(mono, 2) * 32767).astype("<i2")
        self._pieces = [samples[start : start + 1920] for start in range(0, len(samples) - 1919, 1920)]
        self._count = 0
        self._start = 0.0
        self.begun, self.over = False, asyncio.Event()

    async def recv(self) -> AudioFrame:
        now = asyncio.get_running_loop().time()
        self._start = self._start or now
        await asyncio.sleep(self._start + 0.02 * self._count - now)
        piece = np.zeros(1920, np.int16)
        if self.begun and self._pieces:
            piece = self._pieces.pop(0)
        elif self.begun:
            self.over.set()
        frame = AudioFrame.from_ndarray(piece.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 960 * self._count
        self._count += 1
        return frame


def test_nothing_is_left_of_a_connection(fake: Pool) -> None:
    """No socket and no thread is left, after a connection with a track and after a refused offer."""
    frontend, port = fake.add_frontend()
    fake.wait_ready(port)
    process = psutil.Process(frontend.pid)

    async def conversation() -> None:
        track = Spoken(noise(0.4))
        async with Client(port, track=track) as client:
            client.send_message("init")
            await client.until("ready")
            track.begun = True
            await asyncio.wait_for(track.over.wait(), WAIT_S)
            client.send_message("close")
            await client.rest()

    played(conversation)  # the first connection creates what later ones use again
    eventually(lambda: not udp_sockets(process), "the first connection is gone")
    files, threads = process.num_fds(), process.num_threads()
    for _ in range(3):
        played(conversation)
    assert post(port, asyncio.run(_offer(channel=False, audio=True)))[0] == 400
    eventually(
        lambda: not udp_sockets(process) and (process.num_fds(), process.num_threads()) == (files, threads),
        lambda: f"{files} files and {threads} threads: {process.num_fds()}, {process.num_threads()}",
    )


def udp_sockets(process: psutil.Process) -> int:
    return len(process.net_connections("udp"))


def test_an_opus_track(speech: Pool) -> None:
    """As browsers send it: an Opus track in addition to the data channel is read from init on."""

    async def conversation() -> None:
        track = Spoken(clip_pcm())
        async with Client(speech.port, track=track) as client:
            client.send_message("init")
            await client.until("ready")
            track.begun = True
            await asyncio.wait_for(track.over.wait(), WAIT_S)
            while True:  # the last words have come when a pause has ended their utterance
                interim = await client.until("interim")
                if words(interim["text"]) == SPOKEN:
                    break
            client.send_message("close")
            final = (await client.rest())[-1]
        assert words(final["text"]) == SPOKEN

    played(conversation)


# ---- A browser ----


PAGE = """<!doctype html><title>test</title><script>
const tell = (result) => fetch("/result", {method: "POST", body: JSON.stringify(result)});
addEventListener("error", (event) => tell({failed: String(event.message)}));
addEventListener("unhandledrejection", (event) => tell({failed: String(event.reason)}));
const once = (target, name) => new Promise((done) => target.addEventListener(name, done, {once: true}));

async function talk(speak, tracks) {
  const pc = new RTCPeerConnection();
  const channel = pc.createDataChannel("audio");
  const received = [];
  const opened = once(channel, "open"), closed = once(channel, "close");
  let hear;
  channel.onmessage = (event) => { received.push(JSON.parse(event.data)); hear?.(); };
  const until = async (test) => { while (!received.some(test)) await new Promise((done) => { hear = done; }); };
  for (const track of tracks) pc.addTrack(track);
  await pc.setLocalDescription();
  if (pc.iceGatheringState !== "complete")
    await new Promise((done) => {
      pc.onicegatheringstatechange = () => pc.iceGatheringState === "complete" && done();
    });
  const {sdp, type} = pc.localDescription;
  const answer = await fetch("SERVICE/webrtc", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({sdp, type})});
  if (!answer.ok) throw await answer.text();
  await pc.setRemoteDescription(await answer.json());
  await opened;
  channel.send(JSON.stringify({op: "init", sid: "browser", sr: 16000}));
  await until((message) => message.op === "ready");
  await speak(channel, until);
  channel.send(JSON.stringify({op: "close"}));
  await closed;
  tell(received);
}

async function channel() {
  const pcm = await (await fetch("/pcm")).arrayBuffer();
  await talk((channel) => {
    for (let at = 0; at < pcm.byteLength; at += 640) channel.send(pcm.slice(at, at + 640));
  }, []);
}

async function track() {
  const context = new AudioContext();
  await context.resume();
  const clip = await context.decodeAudioData(await (await fetch("/clip")).arrayBuffer());
  const source = new AudioBufferSourceNode(context, {buffer: clip});
  const destination = new MediaStreamAudioDestinationNode(context);
  source.connect(destination);
  await talk(async (channel, until) => {
    const ended = once(source, "ended");
    source.start();
    await ended;
    await until((message) => message.op === "interim" && message.text.toLowerCase().includes("LAST"));
  }, destination.stream.getTracks());
}
TEST();
</script>"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
]
PLAIN_ADDRESSES = "--disable-features=WebRtcHideLocalIpsWithMdns"
"""Without this flag the browser's offer has .local names instead of addresses, and the server must ignore them."""


class Site:
    """A web site on loopback: a page that uses a service, its audio, and a path for the messages it received."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self._results: queue.Queue[Any] = queue.Queue()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = site.files.get(self.path, ("text/plain", b""))
                self._answer(200 if self.path in site.files else 404, kind, body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                site._results.put(json.loads(body))
                self._answer(200, "text/plain", b"")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def visit(self, port: int, test: str, last: str, profile: Path, *flags: str) -> list[Message]:
        """Open the page in a browser. Returns the messages that the page received from the service."""
        page = PAGE.replace("SERVICE", f"http://127.0.0.1:{port}").replace("TEST", test).replace("LAST", last)
        self.files["/"] = ("text/html", page.encode())
        assert CHROMIUM is not None
        with (profile / "log").open("wb") as output:
            browser = subprocess.Popen(
                [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile / 'data'}", self.origin],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"HOME": str(profile)},
                start_new_session=True,
            )
            try:
                received = self._results.get(timeout=60)
            except queue.Empty:
                raise AssertionError((profile / "log").read_text()[-3000:]) from None
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                browser.wait()
        assert isinstance(received, list), received
        return received

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    if CHROMIUM is None:
        pytest.skip("needs a Chromium")
    site = Site()
    yield site
    site.close()


@pytest.mark.parametrize("flags", [(PLAIN_ADDRESSES,), ()], ids=["plain addresses", "hidden addresses"])
def test_a_browser_on_the_data_channel(fake: Pool, site: Site, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """MOO-01 to MOO-05 with a page of another origin: CORS, ICE, DTLS and SCTP of a real browser."""
    pcm = noise(3.0, seed=6)
    _, port = fake.add_frontend(f"--origin={site.origin}")
    fake.wait_ready(port)
    site.files["/pcm"] = ("application/octet-stream", pcm)
    received = site.visit(port, "channel", "", tmp_path, *flags)
    assert received[0] == {"op": "ready", "sid": "browser", "max_batch": 32, "model": "fake"}
    assert (received[-1]["op"], received[-1]["text"]) == ("final", expected(pcm))


def test_a_browser_with_a_microphone(speech: Pool, site: Site, tmp_path: Path) -> None:
    """A page whose audio track plays a recording, like a microphone: the Opus of a real browser is recognized."""
    _, port = speech.add_frontend(f"--origin={site.origin}")
    speech.wait_ready(port)
    site.files["/clip"] = ("audio/wav", CLIP.read_bytes())
    received = site.visit(port, "track", SPOKEN.rsplit(maxsplit=1)[-1], tmp_path, PLAIN_ADDRESSES)
    assert received[-1]["op"] == "final"
    assert words(received[-1]["text"]) == SPOKEN
