"""The small clients of every dialect: what they say, what they understand, and the ways in which a session fails.

The servers here are scripts: what each dialect's server answers, word for word. The real ones are met in
test_client_command.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from asr_client.dialects import DIALECTS, conversation, webrtc
from asr_client.dialects.conversation import converse
from asr_client.dialects.dialect_session import DialectSession, Update
from asr_client.dialects.recorder import Recorder
from asr_client.errors import ConnectionFailed, ConnectionLost, InvalidUrl, ServerError
from asr_client.figures import Run
from asr_proto.errors import DecodeError, SetupError

FRAMES = [bytes([1, 0]) * 320] * 5
Serve = Callable[[ServerConnection], Awaitable[None]]

# ---- Addresses ----


@pytest.mark.parametrize(
    ("dialect", "address", "options", "url"),
    [
        ("native", "h:1", {}, "ws://h:1/v1/stream"),
        ("yap", "127.0.0.1:8000", {}, "ws://127.0.0.1:8000/"),
        ("yap", "h:1", {"secure": True}, "wss://h:1/"),
        ("parakeet", "ws://h:1/ws", {}, "ws://h:1/ws"),
        ("parakeet", "http://h:1", {"path": "/other"}, "ws://h:1/other"),
        ("moonshine", "h:1", {"secure": True}, "https://h:1/webrtc"),
        ("moonshine", "ws://h:1", {"path": "/offer"}, "http://h:1/offer"),
        ("amira", "h:1", {"model": "a b"}, "ws://h:1/v2/decode/stream/a%20b"),
        ("amira", "h:1", {}, "ws://h:1/v2/decode/stream/default"),
        (
            "caiman",
            "h:3030",
            {},
            "ws://h:3030/asr/v0.1/stream?content_type=audio/x-raw;format=S16LE;channels=1;rate=16000",
        ),
        ("native", "wss://h/v1/stream?token=k", {}, "wss://h/v1/stream?token=k"),
    ],
)
def test_addresses(dialect: str, address: str, options: dict[str, Any], url: str) -> None:
    assert DIALECTS[dialect].url(address, **options) == url


def test_a_model_that_is_asked_for_is_in_the_query() -> None:
    assert DIALECTS["deepgram"].url("h:1", model="nova-3").endswith("&model=nova-3")
    assert "model" not in DIALECTS["deepgram"].url("h:1")


@pytest.mark.parametrize("address", ["ftp://h", "h:port", "ws://", "h:0"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidUrl):
        DIALECTS["native"].url(address)


def test_frames_grow_where_messages_are_limited() -> None:
    """AMI-28: more than 100 messages in a second are refused."""
    amira = DIALECTS["amira"]
    assert amira.frame_ms(20, 1.0) == 20
    assert 1000 * 10 / amira.frame_ms(20, 10.0) <= 80
    assert DIALECTS["yap"].frame_ms(20, 10.0) == 20


# ---- What they say and understand ----


def partial(text: str, kind: str = "partial") -> str:
    return json.dumps({"type": kind, "text": text})


def op(kind: str, text: str) -> str:
    return json.dumps({"op": kind, "sid": "s", "text": text, "final": kind == "final"})


def caiman(text: str, provisional: bool = False) -> str:
    alternatives = [{"transcript": text, "confidence": 1.0}]
    return json.dumps({"start": 0, "end": 0.06, "is_provisional": provisional, "alternatives": alternatives})


def native(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, "seq": 0, "utterance": 0, "start_s": 0.0, "end_s": 1.0, **fields})


def results(text: str, final: bool) -> str:
    return json.dumps({"type": "Results", "is_final": final, "channel": {"alternatives": [{"transcript": text}]}})


READY = json.dumps(
    {"type": "ready", "session": "s", "model": "m", "language": "en", "sample_rate": 16000, "engine": "fake"}
)
CONVERSATIONS: dict[str, tuple[list[str], list[str | None]]] = {
    "native": (
        [READY, native("partial", text="a"), native("final", text="a b", endpoint="silence"),
         native("partial", text="c"), json.dumps({"type": "ack", "samples": 1, "committed": 0})],
        [None, "a", "a b", "a b c", None],
    ),
    "caiman": (
        [caiman(""), caiman("a", provisional=True), caiman("a b"), caiman(" c")],
        ["", "a", "a b", "a b c"],
    ),
    "yap": ([op("interim", "a"), op("interim", "a b"), op("final", "a b c"), op("unknown", "")],
            ["a", "a b", "a b c", None]),
    "parakeet": ([partial("a"), json.dumps({"type": "reset"}), partial("a b c", "final")], ["a", None, "a b c"]),
    "moonshine": ([json.dumps({"op": "ready"}), op("interim", "a"), op("final", "a b c")], [None, "a", "a b c"]),
    "amira": ([partial("a"), partial("a b c", "final")], ["a", "a b c"]),
    "deepgram": (
        [results("a", False), results("a b", True), results("c", False), json.dumps({"type": "Metadata"})],
        ["a", "a b", "a b c", None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_understood(name: str) -> None:
    """Whatever the dialect's way, what is heard is the whole text so far."""
    session = DIALECTS[name].session(None)
    messages, texts = CONVERSATIONS[name]
    assert [session.read(message).text for message in messages] == texts


@pytest.mark.parametrize(
    ("name", "opening", "ending"),
    [
        ("native", ['{"type": "start", "sample_rate": 16000, "model": "m"}'], ['{"type": "stop"}']),
        ("caiman", [], [b""]),
        ("parakeet", [], [b"__CTRL__:EOS"]),
        ("amira", [], [b"\x00"]),
        ("deepgram", [], ['{"type": "CloseStream"}']),
    ],
)
def test_what_is_said(name: str, opening: list[str], ending: list[str | bytes]) -> None:
    session = DIALECTS[name].session("m")
    assert (session.opening(), session.ending()) == (opening, ending)


def test_yap_and_moonshine_name_their_session() -> None:
    """YAP-09, YAP-11, MOO-03, MOO-04: as clients say it."""
    yap = DIALECTS["yap"].session(None)
    opening, ending = json.loads(yap.opening()[0]), json.loads(yap.ending()[0])
    assert opening == {"op": "init", "sid": opening["sid"], "sr": 16000}
    assert ending == {"op": "close", "sid": opening["sid"]}
    assert json.loads(DIALECTS["moonshine"].session(None).ending()[0]) == {"op": "close"}


@pytest.mark.parametrize("name", ["yap", "moonshine", "parakeet", "amira"])
def test_the_final_ends_the_session(name: str) -> None:
    session = DIALECTS[name].session(None)
    final = op("final", "a") if name in ("yap", "moonshine") else partial("a", "final")
    assert session.read(final) == Update("a", ended=True)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("message", ["{", "[]", "[" * 100_000, b"\xff"])
def test_nonsense_is_a_decode_error(name: str, message: str | bytes) -> None:
    with pytest.raises(DecodeError):
        DIALECTS[name].session(None).read(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yap", '{"op": "interim"}'),
        ("caiman", "{}"),
        ("caiman", '{"alternatives": [1]}'),
        ("parakeet", '{"type": "final", "text": 1}'),
    ],
)
def test_missing_fields_are_decode_errors(name: str, message: str) -> None:
    with pytest.raises(DecodeError):
        DIALECTS[name].session(None).read(message)


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("native", '{"type": "error", "code": "at-capacity", "message": "full"}', "at-capacity"),
        ("moonshine", '{"op": "error", "reason": "inference_failed"}', "inference_failed"),
        ("amira", '{"type": "error", "code": "rate-limited", "message": "slow down"}', "rate-limited"),
        ("deepgram", '{"type": "Error", "variant": "NET-0001", "description": "no audio"}', "NET-0001"),
    ],
)
def test_errors_that_servers_report(name: str, message: str, code: str) -> None:
    with pytest.raises(ServerError) as caught:
        DIALECTS[name].session(None).read(message)
    assert caught.value.code == code


# ---- Whole sessions ----


@asynccontextmanager
async def serving(handle: Serve) -> AsyncIterator[str]:
    async with serve(handle, "127.0.0.1", 0) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"{host}:{port}"


def speak(name: str, handle: Serve, frames: list[bytes] = FRAMES) -> tuple[Run, list[str]]:
    texts: list[str] = []

    async def session() -> Run:
        async with serving(handle) as address:
            dialect = DIALECTS[name]
            return await dialect.speak(dialect.url(address), frames, 0.0, texts.append)

    return asyncio.run(session()), texts


async def parakeet_server(socket: ServerConnection) -> None:
    heard = 0
    async for message in socket:
        if message == b"__CTRL__:EOS":
            await socket.send(partial(f"{heard} frames", "final"))
        else:
            heard += 1
            await socket.send(partial("so far"))


def test_a_session_is_noted() -> None:
    run, texts = speak("parakeet", parakeet_server)
    assert texts == ["so far", "5 frames"]
    assert [said.text for said in run.said] == texts
    assert run.audio_s == pytest.approx(0.1)
    assert 0 < run.connected_s <= run.first_audio_s <= run.last_audio_s <= run.final_s


def test_no_audio_is_a_session_too() -> None:
    run, texts = speak("parakeet", parakeet_server, frames=[])
    assert texts == ["0 frames"]
    assert run.audio_s == 0
    assert run.first_audio_s == run.last_audio_s == run.connected_s


def test_the_orderly_close_completes_the_text() -> None:
    """CAI-28: the server closes when it has said everything."""

    async def server(socket: ServerConnection) -> None:
        while await socket.recv() != b"":
            await socket.send(caiman("a"))

    assert speak("caiman", server)[0].text == "aaaaa"


def closing(code: int, reason: str) -> Serve:
    async def server(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(code, reason)

    return server


@pytest.mark.parametrize(
    ("code", "reason", "error", "said"),
    [
        (4503, "503 maximum number reached", ServerError, "503 maximum number reached (closed-4503)"),
        (1002, "Bad init", ConnectionLost, "the server closed the connection early: 1002 Bad init"),
        (1011, "", ConnectionLost, "the server closed the connection early: 1011"),
    ],
)
def test_early_closes_say_why(code: int, reason: str, error: type[Exception], said: str) -> None:
    """YAP-25, CAI-20: as the client hears it."""
    with pytest.raises(error) as caught:
        speak("yap", closing(code, reason))
    assert caught.value.args[0] == said


def test_a_final_before_the_end_of_the_audio_is_no_success() -> None:
    async def server(socket: ServerConnection) -> None:
        await socket.send(partial("early", "final"))
        await socket.close()

    with pytest.raises(ConnectionLost, match="before all audio was sent"):
        speak("parakeet", server, frames=FRAMES * 200_000)


def test_a_broken_connection() -> None:
    async def server(socket: ServerConnection) -> None:
        socket.transport.abort()

    with pytest.raises(ConnectionLost, match="broke"):
        speak("parakeet", server)


def test_a_server_that_never_gets_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """MOO-22: waiting for `ready` has an end."""
    monkeypatch.setattr("asr_client.dialects.websocket.WebSocketChannel.ready_timeout_s", 0.05)

    async def server(socket: ServerConnection) -> None:
        await socket.wait_closed()

    with pytest.raises(ConnectionLost, match="not ready within"):
        speak("native", server)


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """MOO-22, PAR-13: waiting for the final has an end."""
    monkeypatch.setattr(conversation, "ANSWER_TIMEOUT_S", 0.05)

    async def server(socket: ServerConnection) -> None:
        async for _ in socket:
            pass

    with pytest.raises(ConnectionLost, match="said nothing"):
        speak("parakeet", server)


def test_a_path_that_is_not_served() -> None:
    async def session() -> None:
        async def refuse(socket: ServerConnection, _request: object) -> Any:
            return socket.respond(404, "no dialect here")

        async with serve(parakeet_server, "127.0.0.1", 0, process_request=refuse) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await DIALECTS["yap"].speak(f"ws://127.0.0.1:{port}/", FRAMES, 0.0)

    with pytest.raises(ServerError) as caught:
        asyncio.run(session())
    assert (caught.value.code, caught.value.message) == ("http-404", "no dialect here")


def test_a_pace_is_kept() -> None:
    """YAP-10, YAP-21: 20 ms frames, here at ten times real time."""

    async def session() -> Run:
        async with serving(parakeet_server) as address:
            return await DIALECTS["parakeet"].speak(f"ws://{address}/ws", FRAMES * 10, 10.0)

    run = asyncio.run(session())
    assert run.last_audio_s - run.connected_s >= 0.095


# ---- WebRTC ----


class Peer:
    """The server's side of a data channel, in this process: answers offers, then speaks as it is told."""

    def __init__(self, speak: Callable[[Any, str | bytes], None]) -> None:
        self._speak = speak
        self._peers: list[Any] = []

    async def exchange(self, _url: str, offer: dict[str, str], _api_key: str | None) -> dict[str, str]:
        import aiortc

        peer = aiortc.RTCPeerConnection()
        self._peers.append(peer)

        @peer.on("datachannel")
        def opened(channel: Any) -> None:
            channel.on("message", lambda message: self._speak(channel, message))

        await peer.setRemoteDescription(aiortc.RTCSessionDescription(**offer))
        await peer.setLocalDescription(await peer.createAnswer())
        return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}

    async def close(self) -> None:
        for peer in self._peers:
            await peer.close()


async def over_webrtc(peer: Peer, session: DialectSession) -> Run:
    recorder = Recorder(lambda _text: None)
    try:
        async with webrtc.open_channel("http://here/webrtc", None, peer.exchange) as channel:
            recorder.connected()
            await asyncio.wait_for(converse(channel, session, FRAMES, 0.0, recorder), 20)
    finally:
        await peer.close()
    return recorder.run()


def moonshine_server() -> Callable[[Any, str | bytes], None]:
    heard = bytearray()

    def speak(channel: Any, message: str | bytes) -> None:
        if isinstance(message, bytes):
            heard.extend(message)
            return
        match json.loads(message)["op"]:
            case "init":
                channel.send(json.dumps({"op": "ready", "sid": "s", "max_batch": 32}))
            case "close":
                channel.send(op("final", f"{len(heard)} bytes"))

    return speak


def test_a_session_over_webrtc() -> None:
    """MOO-02, MOO-03, MOO-04, MOO-19: the client's side."""
    pytest.importorskip("aiortc")
    run = asyncio.run(over_webrtc(Peer(moonshine_server()), DIALECTS["moonshine"].session(None)))
    assert run.text == "3200 bytes"


def test_a_data_channel_that_closes_early() -> None:
    pytest.importorskip("aiortc")
    peer = Peer(lambda channel, _message: channel.close())
    with pytest.raises(ConnectionLost, match="broke"):
        asyncio.run(over_webrtc(peer, DIALECTS["moonshine"].session(None)))


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with pytest.raises(SetupError, match=r"pip install 'asr-pool\[webrtc\]'"):
        asyncio.run(DIALECTS["moonshine"].speak("http://127.0.0.1:1/webrtc", FRAMES, 0.0))


def test_an_offer_to_nobody() -> None:
    with pytest.raises(ConnectionFailed):
        asyncio.run(webrtc.post_offer("http://127.0.0.1:1/webrtc", {"sdp": "", "type": "offer"}, "key"))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nonsense"])
def test_an_answer_that_is_none(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "_post", lambda _request: body)
    with pytest.raises(DecodeError):
        asyncio.run(webrtc.post_offer("http://127.0.0.1:1/webrtc", {"sdp": "", "type": "offer"}, None))


def test_a_closed_socket_is_no_leak() -> None:
    """The server sees the end of each session."""
    left: list[bool] = []

    async def server(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await parakeet_server(socket)
        left.append(True)

    speak("parakeet", server)
    assert left == [True]
