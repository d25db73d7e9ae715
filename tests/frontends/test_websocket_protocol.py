"""`WebSocket` alone, between a socket and an application that the test plays: bytes in, bytes out, no network."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.frames import Close as ClosePayload
from websockets.frames import Frame, Opcode

from asr_frontends.codec import Close
from asr_frontends.servers import websocket as module
from asr_frontends.servers.handshake import EXTENSION, refuse, request_of
from asr_frontends.servers.websocket import WebSocket

SIZE_MAX = 1000
LINES = [
    b"GET /v1/stream HTTP/1.1",
    b"host: x",
    b"upgrade: websocket",
    b"connection: upgrade",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
]
"""The request of RFC 6455, section 1.3; its key is accepted with this:"""
ACCEPTED = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def head(*more: bytes, target: bytes = b"/v1/stream", without: bytes = b"-") -> bytes:
    lines = [b"GET " + target + b" HTTP/1.1", *LINES[1:], *more]
    return b"\r\n".join(line for line in lines if not line.startswith(without)) + b"\r\n\r\n"


def wire(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


def text(payload: bytes, *, fin: bool = True) -> bytes:
    return wire(Opcode.TEXT, payload, fin=fin)


def close(code: int, reason: str = "") -> bytes:
    """A close frame of the server."""
    return Frame(Opcode.CLOSE, ClosePayload(code, reason).serialize()).serialize(mask=False)


class Socket(asyncio.Transport):
    """Records the calls of the connection."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 80)})
        if tls:
            self._extra["sslcontext"] = object()  # type: ignore[attr-defined]
        self.written = b""
        self.is_reading = True
        self.closed = asyncio.Event()
        self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.is_closing(), "uvloop raises for this"
        self.written += data

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def pause_reading(self) -> None:
        assert not self.is_closing()
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_closing()
        self.is_reading = True


class Peer:
    """One connection: its socket, its application, and the conversation that receives its messages."""

    def __init__(self, *, tls: bool = False) -> None:
        self.socket, self.server = Socket(tls=tls), ServerState()
        config = uvicorn.Config(self._app, ws=WebSocket, ws_max_size=SIZE_MAX, interface="asgi3", log_config=None)
        config.load()
        self.websocket = WebSocket(config=config, server_state=self.server, app_state={})
        self.websocket.connection_made(self.socket)
        self.asked = asyncio.Event()
        self.scope: Any = None
        self.send: Any = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends the application."""
        self.received: list[str | bytes] = []
        self.gone: list[bool] = []
        self.writable = 0
        self.is_ending = False
        self.pause_after: int | None = None

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "websocket.connect"}
        self.scope, self.send = scope, send
        self.asked.set()
        await self.over

    async def end(self) -> None:
        """Let the application return."""
        tasks = list(self.server.tasks)
        self.over.set_result(None)
        await asyncio.gather(*tasks)

    # The conversation

    def on_frame(self, frame: str | bytes) -> None:
        self.received.append(frame)
        if len(self.received) == self.pause_after:
            self.websocket.pause()

    def on_writable(self) -> None:
        self.writable += 1

    def on_gone(self, *, broken: bool) -> None:
        self.gone.append(broken)


async def asked(request: bytes | None = None, *, tls: bool = False) -> Peer:
    """A connection whose application has the request, and has not answered it."""
    peer = Peer(tls=tls)
    peer.websocket.data_received(head() if request is None else request)
    await peer.asked.wait()
    return peer


async def accepted(subprotocol: str | None = None) -> Peer:
    peer = await asked()
    await peer.send({"type": "websocket.accept", "subprotocol": subprotocol})
    return peer


async def opened() -> Peer:
    """A connection with a conversation, its handshake removed from what was written."""
    peer = await accepted()
    peer.scope["extensions"][EXTENSION].start(peer)
    peer.socket.written = b""
    return peer


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test(**arguments)

        asyncio.run(limited())

    return run


# ---- The handshake ----


@in_loop
async def test_a_request_as_a_scope() -> None:
    request = head(
        b"sec-websocket-protocol: token, abc",
        b"sec-websocket-protocol: v2",
        b"x-name: J\xfcrgen",
        target=b"/a%20b?model=x;y&z=%20",
    )
    peer = await asked(request)
    assert peer.scope["type"] == "websocket"
    assert peer.scope["scheme"] == "ws"
    assert peer.scope["raw_path"] == b"/a%20b"
    assert peer.scope["server"] == ("192.0.2.1", 80)
    asked_for = request_of(peer.scope)
    assert asked_for.path == "/a b"
    assert asked_for.query == "model=x;y&z=%20"
    assert asked_for.subprotocols == ("token", "abc", "v2")
    assert asked_for.headers["x-name"] == "Jürgen"
    assert asked_for.address == "192.0.2.7"


@in_loop
async def test_a_request_without_subprotocols_over_tls() -> None:
    peer = await asked(tls=True)
    assert peer.scope["scheme"] == "wss"
    assert peer.scope["subprotocols"] == []
    assert peer.socket.written == b""


@pytest.mark.parametrize(("subprotocol", "named"), [(None, []), ("v2", [b"Sec-WebSocket-Protocol: v2"])])
@in_loop
async def test_an_accepted_request(subprotocol: str | None, named: list[bytes]) -> None:
    peer = await accepted(subprotocol)
    lines = peer.socket.written.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert ACCEPTED in lines
    assert [line for line in lines if line.startswith(b"Sec-WebSocket-Protocol")] == named
    assert not peer.socket.is_closing()


@in_loop
async def test_a_refused_request() -> None:
    peer = await asked()
    await refuse(peer.send, 429, "too much: ü", "text/fancy")
    answer, _, body = peer.socket.written.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert answer.lower().count(b"content-type: ") == 1
    assert b"content-type: text/fancy" in answer
    assert b"Content-Length: 12" in answer
    assert body == "too much: ü".encode()
    assert peer.socket.is_closing()
    await peer.end()
    assert peer.socket.written.endswith(body)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(without=b"sec-websocket-version"), b"400"),
        (head(without=b"sec-websocket-key"), b"400"),
        (head(without=b"upgrade"), b"426"),
    ],
)
@in_loop
async def test_a_request_that_the_library_rejects(request_head: bytes, status: bytes) -> None:
    peer = Peer()
    peer.websocket.data_received(request_head)
    assert peer.socket.written.startswith(b"HTTP/1.1 " + status)
    assert peer.socket.is_closing()
    assert not peer.server.tasks


@in_loop
async def test_a_head_that_the_library_cannot_read() -> None:
    peer = Peer()
    peer.websocket.data_received(head(b"x-long: " + b"v" * 20_000))
    assert peer.socket.is_closing()
    assert not peer.server.tasks


@in_loop
async def test_an_answer_of_another_kind() -> None:
    peer = await asked()
    with pytest.raises(RuntimeError, match=r"websocket\.send cannot answer"):
        await peer.send({"type": "websocket.send", "text": "x"})


@in_loop
async def test_an_application_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    peer = await asked()
    tasks = list(peer.server.tasks)
    peer.over.set_exception(ZeroDivisionError("why"))
    await asyncio.gather(*tasks)
    assert peer.socket.written.startswith(b"HTTP/1.1 500 ")
    assert peer.socket.is_closing()
    assert "ZeroDivisionError: why" in caplog.text


@in_loop
async def test_an_application_that_is_cancelled() -> None:
    peer = await asked()
    (task,) = peer.server.tasks
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert peer.socket.written.startswith(b"HTTP/1.1 500 ")
    assert peer.socket.is_closing()


@in_loop
async def test_what_the_server_waits_for() -> None:
    peer = await opened()
    assert peer.server.connections == {peer.websocket}
    assert len(peer.server.tasks) == 1
    await peer.end()
    await asyncio.sleep(0)  # the task's callbacks run one turn after it
    assert peer.server.tasks == set()
    assert peer.socket.is_closing()
    peer.websocket.connection_lost(None)
    assert peer.server.connections == set()


@in_loop
async def test_messages_before_the_conversation_starts() -> None:
    peer = await asked()
    stream = text(b"1") + text(b"2")
    peer.websocket.data_received(stream[:9])
    assert not peer.socket.is_reading
    await peer.send({"type": "websocket.accept"})
    peer.websocket.data_received(stream[9:])
    peer.websocket.start(peer)
    assert peer.received == ["1", "2"]
    assert peer.socket.is_reading


@in_loop
async def test_a_client_that_goes_before_the_answer() -> None:
    peer = await asked()
    peer.socket.close()
    peer.websocket.connection_lost(None)
    await peer.send({"type": "websocket.accept"})
    peer.websocket.start(peer)
    assert peer.gone == [True]
    assert peer.socket.written == b""


# ---- Messages ----


@in_loop
async def test_messages_in_any_pieces() -> None:
    peer = await opened()
    stream = text("grüß".encode()) + wire(Opcode.BINARY, b"\x00\x01") + text(b"")
    for byte in stream:
        peer.websocket.data_received(bytes([byte]))
    peer.websocket.data_received(stream)
    assert peer.received == ["grüß", b"\x00\x01", ""] * 2


@in_loop
async def test_a_paused_conversation() -> None:
    """During a pause no message is received, in frames of any kind, and the socket is not read."""
    peer = await opened()
    peer.pause_after = 1
    peer.websocket.data_received(text(b"1") + text(b"2", fin=False) + wire(Opcode.CONT, b"2") + text(b"3"))
    assert peer.received == ["1"]
    assert not peer.socket.is_reading
    peer.pause_after = 2
    peer.websocket.resume()
    assert peer.received == ["1", "22"]
    assert not peer.socket.is_reading
    peer.websocket.data_received(text(b"4"))
    assert peer.received == ["1", "22"]
    peer.websocket.resume()
    assert peer.received == ["1", "22", "3", "4"]
    assert peer.socket.is_reading


@in_loop
async def test_a_message_in_fragments() -> None:
    peer = await opened()
    stream = [
        text(b"a", fin=False),
        wire(Opcode.PING, b"?"),
        wire(Opcode.CONT, b"", fin=False),
        wire(Opcode.CONT, b"b"),
        text(b"c"),
        wire(Opcode.BINARY, b"d", fin=False),
        wire(Opcode.CONT, b"e"),
        wire(Opcode.BINARY, b"f"),
    ]
    peer.websocket.data_received(b"".join(stream))
    assert peer.received == ["ab", "c", b"de", b"f"]
    assert peer.socket.written == Frame(Opcode.PONG, b"?").serialize(mask=False)


HALF = SIZE_MAX // 2


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (text(b"\xff"), 1007),
        (text(b"a\xc3", fin=False) + wire(Opcode.CONT, b"x"), 1007),
        (wire(Opcode.BINARY, bytes(SIZE_MAX + 1))[:4], 1009),
        (wire(Opcode.BINARY, bytes(HALF), fin=False) + wire(Opcode.CONT, bytes(HALF + 1)), 1009),
        (text(b"a", fin=False) + text(b"b"), 1002),
        (text(b"a", fin=False) + wire(Opcode.BINARY, b"b"), 1002),
        (wire(Opcode.CONT, b"a"), 1002),
        (Frame(Opcode.TEXT, b"a").serialize(mask=False), 1002),
        (b"\xc2" + wire(Opcode.BINARY, b"a")[1:], 1002),
        (wire(Opcode.CLOSE, b"\x00"), 1002),
    ],
    ids=[
        "text that is not UTF-8",
        "fragments that are not UTF-8",
        "too large",
        "too large together",
        "text within fragments",
        "binary within fragments",
        "continuation of nothing",
        "unmasked",
        "reserved bit",
        "half a close code",
    ],
)
@in_loop
async def test_a_violation(stream: bytes, code: int) -> None:
    """A violation closes the connection with its code; earlier messages are received, and no later ones."""
    peer = await opened()
    peer.websocket.data_received(text(b"before") + stream + text(b"after"))
    assert peer.received == ["before"]
    assert peer.gone == [False]
    assert peer.socket.written[0] == 0x88
    assert int.from_bytes(peer.socket.written[2:4]) == code
    assert peer.socket.is_closing()
    peer.websocket.data_received(text(b"after"))
    assert peer.received == ["before"]


@in_loop
async def test_a_violation_whose_frame_is_incomplete() -> None:
    """The library reads the rest, and nothing else is a message."""
    peer = await opened()
    frame = b"\xc2" + wire(Opcode.BINARY, b"abc")[1:]
    peer.websocket.data_received(frame[:7])
    assert not peer.socket.is_closing()
    peer.websocket.data_received(frame[7:] + text(b"after"))
    assert peer.socket.written[2:4] == (1002).to_bytes(2)
    assert peer.received == []


@in_loop
async def test_messages_of_the_largest_size() -> None:
    peer = await opened()
    peer.websocket.data_received(wire(Opcode.BINARY, bytes(SIZE_MAX)))
    peer.websocket.data_received(
        wire(Opcode.BINARY, bytes(HALF), fin=False) + wire(Opcode.CONT, bytes(SIZE_MAX - HALF))
    )
    assert peer.received == [bytes(SIZE_MAX)] * 2


@in_loop
async def test_pings() -> None:
    peer = await opened()
    peer.websocket.data_received(wire(Opcode.PING, b"a") + wire(Opcode.PONG, b"b") + wire(Opcode.PING))
    assert peer.socket.written == b"\x8a\x01a\x8a\x00"
    peer.websocket.pause_writing()
    peer.websocket.data_received(wire(Opcode.PING, b"c"))
    assert peer.socket.aborted
    assert peer.socket.written == b"\x8a\x01a\x8a\x00"


@in_loop
async def test_messages_to_the_client() -> None:
    peer = await opened()
    peer.websocket.write("grüß")
    peer.websocket.write(b"\x00")
    assert peer.socket.written == b"\x81\x06gr\xc3\xbc\xc3\x9f\x82\x01\x00"
    peer.socket.close()
    peer.websocket.write("to nobody")
    assert peer.socket.written.endswith(b"\x00")


@in_loop
async def test_a_client_that_takes_nothing_for_a_while() -> None:
    peer = await accepted()
    peer.websocket.pause_writing()
    peer.websocket.resume_writing()
    peer.websocket.start(peer)
    assert peer.websocket.can_write()
    peer.websocket.pause_writing()
    assert not peer.websocket.can_write()
    assert peer.writable == 0
    peer.websocket.resume_writing()
    assert peer.websocket.can_write()
    assert peer.writable == 1


# ---- The end ----


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x11\x30why"])
@in_loop
async def test_a_close_of_the_client(payload: bytes) -> None:
    peer = await opened()
    peer.websocket.data_received(text(b"before") + wire(Opcode.CLOSE, payload) + text(b"after"))
    assert peer.received == ["before"]
    assert peer.socket.written == Frame(Opcode.CLOSE, payload).serialize(mask=False)
    assert peer.socket.is_closing()
    assert peer.gone == [False]
    peer.websocket.write("too late")
    await peer.websocket.finish(Close(1000, ""))
    peer.websocket.pause()
    peer.websocket.resume()
    assert peer.received == ["before"]
    peer.websocket.connection_lost(None)
    assert peer.gone == [False, True]


@in_loop
async def test_a_connection_that_breaks() -> None:
    """Messages that were not passed on before the close are lost."""
    peer = await opened()
    peer.websocket.pause()
    peer.websocket.data_received(text(b"1"))
    peer.socket.close()
    peer.websocket.connection_lost(ConnectionResetError())
    peer.websocket.resume()
    assert peer.gone == [True]
    assert peer.received == []
    await peer.end()


@in_loop
async def test_a_close_of_the_conversation() -> None:
    """Messages before the client's close are discarded; its close ends the connection."""
    peer = await opened()
    half = text(b"half")
    peer.websocket.data_received(half[:4])
    peer.websocket.pause()
    await peer.websocket.finish(Close(4400, "why"))
    assert peer.socket.written == close(4400, "why")
    assert peer.socket.is_reading
    await peer.end()
    peer.websocket.write("too late")
    peer.websocket.data_received(half[4:] + text(b"a", fin=False) + wire(Opcode.CONT, b"b"))
    assert peer.received == []
    assert not peer.socket.is_closing()
    peer.websocket.data_received(wire(Opcode.CLOSE, b"\x11\x30"))
    assert peer.socket.is_closing()
    assert peer.socket.written == close(4400, "why")


@in_loop
async def test_a_close_after_the_client_has_sent_its_own() -> None:
    """The client's close was received during a pause. After both closes, the connection ends."""
    peer = await opened()
    peer.websocket.pause()
    peer.websocket.data_received(text(b"1") + wire(Opcode.CLOSE, b"\x03\xe8"))
    assert peer.gone == []
    await peer.websocket.finish(Close(1000, ""))
    assert peer.received == []
    assert peer.socket.written == close(1000)
    assert peer.socket.is_closing()


@in_loop
async def test_a_close_that_the_client_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_ANSWER_S_MAX", 0.01)
    peer = await opened()
    await peer.websocket.finish(Close(1000, ""))
    assert not peer.socket.is_closing()
    await peer.socket.closed.wait()
    assert not peer.socket.aborted


@in_loop
async def test_the_wait_for_an_answer_ends_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_ANSWER_S_MAX", 0.0)
    peer = await opened()
    await peer.websocket.finish(Close(1000, ""))
    peer.websocket.connection_lost(None)
    await asyncio.sleep(0)  # the timer, were it still there, would be due in this turn
    await asyncio.sleep(0)
    assert not peer.socket.is_closing()


@pytest.mark.parametrize("is_lost", [False, True])
@in_loop
async def test_a_close_waits_until_the_client_takes_it(is_lost: bool) -> None:
    peer = await opened()
    peer.websocket.pause_writing()
    finishing = asyncio.create_task(peer.websocket.finish(Close(1000, "")))
    await asyncio.sleep(0)
    assert peer.socket.written == b""
    if is_lost:
        peer.socket.close()
        peer.websocket.connection_lost(None)
    else:
        peer.websocket.resume_writing()
    await finishing
    assert peer.socket.written == (b"" if is_lost else close(1000))


@in_loop
async def test_a_close_that_is_given_up() -> None:
    """The client reads again after the wait for it was cancelled."""
    peer = await opened()
    peer.websocket.pause_writing()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await peer.websocket.finish(Close(1000, ""))
    peer.websocket.resume_writing()
    await peer.end()
    assert peer.socket.is_closing()


@in_loop
async def test_the_end_of_the_server_during_a_conversation() -> None:
    peer = await opened()
    peer.websocket.shutdown()
    assert peer.socket.written == close(1012)
    assert peer.socket.is_closing()


@in_loop
async def test_the_end_of_the_server_during_the_handshake() -> None:
    peer = await asked()
    peer.websocket.shutdown()
    assert peer.socket.written.startswith(b"HTTP/1.1 500 ")
    assert peer.socket.is_closing()
    await peer.send({"type": "websocket.accept"})
    assert b"101" not in peer.socket.written


@in_loop
async def test_the_end_of_the_server_while_the_client_owes_its_close() -> None:
    """A reset now could destroy texts that the client has not read: the connection stays for its answer."""
    peer = await opened()
    peer.is_ending = True
    await peer.websocket.finish(Close(1000, ""))
    peer.websocket.shutdown()
    assert peer.socket.written == close(1000)
    assert not peer.socket.is_closing()
