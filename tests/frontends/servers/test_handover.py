"""Live connections between two frontends: real sockets in one process, with links that keep what was sent."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.frames import Frame, Opcode

from asr_frontends import events as e
from asr_frontends.access import Gate, Rules
from asr_frontends.handed import VERSION
from asr_frontends.portable import encode
from asr_frontends.servers.app import App
from asr_frontends.servers.handover import GO, IS_SUPPORTED, OFFER, READY, Giver, Taker
from asr_frontends.servers.serve import listen, make_server
from asr_frontends.session import Limits
from asr_proto import messages as m
from tests.frontends.test_frontend import SPEC, Served

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="connections are handed over on Linux only")

REQUEST = (
    b"GET %s HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-api-key: secret\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: YXNyIGJlbmNoIGNsaWVudA==\r\n\r\n"
)
GREETING = f"{VERSION} 1".encode()
PCM = b"\1\0" * 320


def wire(payload: str | bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    if isinstance(payload, str):
        return Frame(Opcode.TEXT, payload.encode(), fin=fin).serialize(mask=True)
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


class Client:
    """A client below WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def message(self) -> dict[str, Any]:
        """The next message of the server, which must be a short text in one frame."""
        head = await self.reader.readexactly(2)
        assert head[0] == 0x81, head
        size = head[1] if head[1] < 126 else int.from_bytes(await self.reader.readexactly(2))
        return dict(json.loads(await self.reader.readexactly(size)))

    async def until(self, kind: str) -> dict[str, Any]:
        while (message := await self.message())["type"] != kind:
            assert message["type"] == "ack", message
        return message


class Process:
    """All of one frontend that a handover needs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.served = Served(Limits())
        self.link, self.frontend = self.served.link, self.served.frontend
        self.gate = Gate(Rules())
        self.app = App(self.frontend, self.gate, {"amira_streams_max": 1})
        self.socket = listen("127.0.0.1:0")
        self.server = make_server(self.app, 100_000)
        self.serving = asyncio.create_task(self.server.serve([self.socket]))
        self.path = folder / name
        self.taker = Taker(self.app, self.frontend, self.server)
        self.giver = Giver(self.app, self.frontend, folder)

    async def connect(self, path: bytes = b"/v1/stream") -> Client:
        reader, writer = await asyncio.open_connection(*self.socket.getsockname())
        writer.write(REQUEST % path)
        await reader.readuntil(b"\r\n\r\n")
        return Client(reader, writer)

    async def pinned(self, lease: int, **more: int) -> m.Open:
        """Grant the next slot that this frontend requests."""
        request, _ = await self.link.next(m.Open)
        assert isinstance(request, m.Open)
        self.link.receive(m.Pinned(request.session, request.epoch, lease, b"W", SPEC))
        return request

    async def close(self) -> None:
        await self.taker.close()
        self.server.should_exit = True
        await self.serving
        self.frontend.close()


class Two:
    """Two frontends. `a` stops listening for handovers, as when it stops, and `b` listens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clients: list[Client] = []
        self.a, self.b = Process(folder, "a"), Process(folder, "b")

    async def connect(self, path: bytes = b"/v1/stream", process: Process | None = None) -> Client:
        """A client of `a`, or of another process."""
        self.clients.append(await (process or self.a).connect(path))
        return self.clients[-1]

    async def speaking(self) -> tuple[Client, m.Open]:
        """A client of `a` that has sent a frame."""
        client = await self.connect()
        client.send(wire('{"type":"start"}'))
        request = await self.a.pinned(11)
        await client.until("ready")
        client.send(wire(PCM))
        bundle, _ = await self.a.link.next(m.Bundle)
        assert isinstance(bundle, m.Bundle) and bundle.leases == (11,)
        return client, request

    async def still_at_a(self, client: Client, lease: int) -> None:
        """The client is served by the first frontend."""
        final = m.Final(lease, 0, "text", 0, 320, "silence", None, None, m.Commit(320, 1, b""))
        self.a.link.receive(m.Bundle(b"F", (lease,)), final)
        assert (await client.until("final"))["text"] == "text"
        client.send(wire(PCM))
        await self.a.link.next(m.Bundle)
        assert len(self.a.app.live) == 1 and not self.b.app.live


def run(test: Callable[[Two], Awaitable[None]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            two = Two(Path(folder) / "h")
            two.b.taker.listen(two.b.path)
            try:
                async with asyncio.timeout(30):
                    await test(two)
            finally:
                for client in two.clients:
                    client.writer.transport.abort()
                for process in (two.a, two.b):
                    await process.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_client_in_the_middle_of_everything() -> None:
    """In a fragmented message and in a frame, with a flush unanswered."""

    async def test(two: Two) -> None:
        client, before = await two.speaking()
        rest = wire(PCM, Opcode.CONT)
        client.send(wire('{"type":"flush","marker":"x"}'), wire(PCM, fin=False), rest[:100])
        await two.a.link.next(m.Bundle)
        await two.a.giver.give_all(0.0)
        while two.a.app.live:
            await asyncio.sleep(0)
        assert two.a.giver.given == 1
        assert m.Close not in two.a.link.kinds() and m.Detach not in two.a.link.kinds()
        after = await two.b.pinned(12)
        assert after == m.Open(before.session, 1, "fake", before.language, True, replaces=11)
        _, frames = await two.b.link.next(m.Bundle)
        assert frames == [m.Audio(12, 0, PCM), m.Flush(12, "x")]
        assert sum(two.a.gate._by_address.values()) == 0 and sum(two.b.gate._by_address.values()) == 1
        final = m.Final(12, 0, "text", 0, 320, "flush", None, None, m.Commit(320, 1, b""))
        two.b.link.receive(m.Bundle(b"F", (12,)), final, m.Flushed(12, "x"))
        assert (await client.until("final"))["utterance"] == 0
        assert (await client.until("flushed"))["marker"] == "x"
        client.send(rest[100:])
        _, frames = await two.b.link.next(m.Bundle)
        assert frames == [m.Audio(12, 320, PCM + PCM)]

    run(test)


@pytest.mark.parametrize("at", [1, 3, 90, 400, 700, 1300])
def test_bytes_that_are_cut_anywhere(at: int) -> None:
    """The first frontend has the bytes up to the cut, the second one reads the rest from the socket."""

    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        data = wire(PCM) + wire(PCM, fin=False) + wire(b"by the way", Opcode.PONG) + wire(PCM, Opcode.CONT)
        client.send(wire(b"", Opcode.PING) + data[:at])
        assert await client.reader.readexactly(2) == b"\x8a\0"  # the server has read everything so far
        await two.a.giver.give_all(0.0)
        client.send(data[at:], wire('{"type":"stop"}'))
        await two.b.pinned(12)
        samples, frames = 0, []
        while not frames or not isinstance(frames[-1], m.Stop):
            _, frames = await two.b.link.next(m.Bundle)
            samples += sum(len(frame.pcm) // 2 for frame in frames if isinstance(frame, m.Audio))
        assert samples == 4 * 320
        two.b.link.receive(m.Bundle(b"F", (12,)), m.Ended(12))
        assert (await client.until("end"))["type"] == "end"
        close = await client.reader.readexactly(4)
        assert close == b"\x88\x02\x03\xe8"
        client.send(wire(close[2:], Opcode.CLOSE))
        assert await client.reader.read() == b""

    run(test)


def test_a_client_before_its_session() -> None:
    async def test(two: Two) -> None:
        client = await two.connect()
        while not two.a.app.live:
            await asyncio.sleep(0)
        await two.a.giver.give_all(0.0)
        client.send(wire('{"type":"start"}'))
        assert (await two.b.pinned(12)).epoch == 0
        await client.until("ready")

    run(test)


def test_a_frontend_that_stops_too_takes_nothing() -> None:
    """Then nothing is packed: the session keeps its lease."""

    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        two.b.frontend.draining = True
        await two.a.giver.give_all(0.0)
        await two.still_at_a(client, 11)

    run(test)


def test_a_process_of_another_user_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        monkeypatch.setattr(os, "getuid", lambda: 4711)
        await two.a.giver.give_all(0.0)
        await two.still_at_a(client, 11)

    run(test)


def test_a_limit_counts_clients_that_are_handed_over_and_refuses_none() -> None:
    """AMIRA's limit on streams: the second one was admitted at the first frontend."""

    async def test(two: Two) -> None:
        path = b"/v2/decode/stream/x"
        await two.connect(path, two.b)
        await two.b.pinned(21)
        client = await two.connect(path)
        await two.a.pinned(11)
        await two.a.giver.give_all(0.0)
        await two.b.pinned(12)
        assert [serving.health() for serving in two.b.app._serving.values() if serving.health()] == [
            {"active_streams": 2, "max_concurrent_streams": 1, "active_batches": 0, "max_concurrent_batches": 50}
        ]
        two.b.link.receive(m.Bundle(b"F", (12,)), m.Ended(12))
        assert (await client.message())["type"] == "final"

    run(test)


def test_another_pool_takes_nothing() -> None:
    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        two.b.link.receive(m.Welcome(2, 1000.0))
        await two.a.giver.give_all(0.0)
        await two.still_at_a(client, 11)

    run(test)


def test_a_client_that_has_returned_there_is_not_taken_twice() -> None:
    async def test(two: Two) -> None:
        client, before = await two.speaking()
        two.b.frontend.sessions.start(before.session, e.Start(), 0.0)
        await two.a.giver.give_all(0.0)
        assert (await two.a.pinned(13)).replaces == 11
        await two.still_at_a(client, 13)

    run(test)


@pytest.mark.parametrize("answers", [[], [GREETING], [GREETING, b"not this one"]], ids=["died", "dies", "refuses"])
def test_a_taker_that_fails_leaves_the_client_here(answers: list[bytes]) -> None:
    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        await two.b.taker.close()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.setblocking(False)
            listener.bind(str(two.folder / "other"))
            listener.listen()
            giving = asyncio.create_task(two.a.giver.give_all(0.0))
            peer, _ = await loop.sock_accept(listener)
            with peer:
                for answer in answers:
                    peer.send(answer)
                    await asyncio.sleep(0)
                    if answer is GREETING:
                        while two.a.giver.given == 0 and len(two.a.frontend.sessions):
                            await asyncio.sleep(0)
            await giving
        if answers:
            assert (await two.a.pinned(13)).replaces == 11
        await two.still_at_a(client, 13 if answers else 11)

    run(test)


def test_the_socket_of_a_killed_frontend_is_removed() -> None:
    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        await two.b.taker.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(two.folder / "dead"))
            listener.listen()
        await two.a.giver.give_all(0.0)
        assert not list(two.folder.iterdir())
        await two.still_at_a(client, 11)

    run(test)


async def offered(two: Two, *packets: tuple[bytes, list[int]]) -> list[bytes]:
    """All answers to a giver that sends these packets with their descriptors, and then is gone."""
    loop = asyncio.get_running_loop()
    answers = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as giver:
        giver.setblocking(False)
        await loop.sock_connect(giver, str(two.b.path))
        answers.append(await loop.sock_recv(giver, 512))
        for packet, descriptors in packets:
            socket.send_fds(giver, [packet], descriptors)
            answers.append(await loop.sock_recv(giver, 512))
    return answers


def file_of(folder: Path, content: bytes) -> int:
    path = folder.parent / "state"
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("content", [b"", b"\xc1", encode([1, 2, 3]), b"\xff" * 1000])
def test_an_offer_that_is_not_understood_is_refused_with_the_reason(content: bytes) -> None:
    async def test(two: Two) -> None:
        ours, theirs = socket.socketpair()
        file = file_of(two.folder, content)
        with ours, theirs:
            greeting, answer = await offered(two, (OFFER, [theirs.fileno(), file]))
            assert greeting == GREETING and answer.startswith(b"not a state")
        os.close(file)
        assert await offered(two, (b"hello", [])) == [GREETING, b"not an offer of a connection"]
        assert not two.b.app.live

    run(test)


def test_a_giver_that_dies_before_go_has_kept_its_client() -> None:
    """The taker says nothing to the client, and closes no connection."""

    async def test(two: Two) -> None:
        client, _ = await two.speaking()
        (live,) = two.a.app.live
        packed = two.a.giver._packed(live)
        assert packed is not None
        file = file_of(two.folder, encode(packed))
        assert await offered(two, (OFFER, [live.transport.fileno(), file])) == [GREETING, READY]
        os.close(file)
        while two.b.taker._taking:
            await asyncio.sleep(0)
        live.conversation.take_back(packed.session)
        await two.a.pinned(13)
        await two.still_at_a(client, 13)

    run(test)


def test_a_client_that_goes_meanwhile_ends_its_session_there() -> None:
    async def test(two: Two) -> None:
        client, before = await two.speaking()
        client.writer.transport.abort()
        with suppress(ConnectionError):
            await client.writer.wait_closed()
        await two.a.giver.give_all(0.0)
        gone = two.b if two.a.giver.given else two.a
        if gone is two.b:
            await two.b.pinned(12)
        while gone.app.live:
            await asyncio.sleep(0)
        assert before.session not in gone.frontend.sessions

    run(test)


def test_go_is_the_last_word() -> None:
    assert len({OFFER, READY, GO}) == 3
