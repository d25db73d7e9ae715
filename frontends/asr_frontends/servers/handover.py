"""Passes live WebSockets to other frontends on this host, and takes theirs (ADR 19). No sessions and no dialects here.

Each frontend listens on a Unix socket in one folder. For each connection the giver connects to one of the others:

    taker → giver    the greeting: version and broker; or the reason why it takes nothing
    giver → taker    OFFER, with two descriptors: the client's socket, and a file with the HandedConnection
    taker → giver    READY, or the reason why it does not take this one
    giver → taker    GO

Before GO the client belongs to the giver, after it to the taker. If one of them dies or does not answer, the other one
receives the end of the Unix socket, so exactly one of them has the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import structlog
import uvicorn

from asr_frontends.frontend import Frontend
from asr_frontends.handed import STATE_BYTES_MAX, VERSION, HandedConnection
from asr_frontends.portable import encode, read
from asr_frontends.servers.app import App, Live
from asr_frontends.servers.websocket import WebSocket
from asr_proto.errors import AsrError, DecodeError, ServiceError

log = structlog.get_logger()

OFFER, READY, GO = b"asr-handover", b"ready", b"go"
PACKET_BYTES_MAX = 512
ANSWER_S_MAX = 2.0
"""Longest wait for the other frontend's answer. Meanwhile the client waits."""
ROUND_S = 0.05
"""Time between two attempts for the connections that could not be passed on yet."""
LATE_S = 0.3
"""How long new connections are passed on too, from the first attempt: the kernel has assigned them to this process."""
WATCH_S = 0.5
"""Interval at which a frontend that drains looks for another frontend, in seconds."""
IS_SUPPORTED = hasattr(socket, "SO_PEERCRED") and hasattr(os, "memfd_create")
"""Whether this system can pass connections on: Linux."""


class NotTaken(Exception):
    """Another frontend does not take this connection; it may take others."""


class Taker:
    """Takes connections of other frontends."""

    def __init__(self, app: App, frontend: Frontend, server: uvicorn.Server) -> None:
        self._app, self._frontend, self._server = app, frontend, server
        self._loop = asyncio.get_running_loop()
        self._path: Path | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._taking: set[asyncio.Task[None]] = set()

    def listen(self, path: Path) -> None:
        """Listen at this path of a Unix socket. Raises OSError."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        listener = _packets()
        listener.bind(str(path))
        listener.listen()
        self._path = path
        self._accepting = self._loop.create_task(self._accept(listener))

    async def close(self) -> None:
        """Take nothing more. Returns when every offer is either taken or refused."""
        if self._path is not None and self._accepting is not None:
            self._path.unlink(missing_ok=True)
            self._accepting.cancel()
        if self._taking:
            _, late = await asyncio.wait(self._taking, timeout=ANSWER_S_MAX)
            for task in late:  # its giver does not answer; it has the client, because no GO has come
                task.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                giver, _ = await self._loop.sock_accept(listener)
                task = self._loop.create_task(self._take(giver))
                self._taking.add(task)
                task.add_done_callback(self._taking.discard)

    async def _take(self, giver: socket.socket) -> None:
        with giver:
            try:
                await self._talk(giver)
            except OSError:
                pass  # the giver has changed its mind, or died
            except (AsrError, TimeoutError) as error:
                log.warning("took no connection of another frontend", reason=str(error) or "no offer")
                with contextlib.suppress(OSError):
                    giver.send(str(error).encode()[:PACKET_BYTES_MAX])

    async def _talk(self, giver: socket.socket) -> None:
        """Take one connection. Raises AsrError with the reason why not, OSError and TimeoutError."""
        self._check_self(giver)
        giver.send(_greeting(self._frontend))
        await asyncio.wait_for(_readable(giver), ANSWER_S_MAX)
        with contextlib.ExitStack() as until_taken:
            client, handed = _offered(giver, until_taken)
            if handed.session is not None and handed.session.id in self._frontend.sessions:
                raise ServiceError("the client has resumed its session here")
            codec = self._app.codec_of(handed)
            giver.send(READY)
            if await self._loop.sock_recv(giver, PACKET_BYTES_MAX) != GO:  # without a time limit: the giver has one
                return
            until_taken.pop_all()
        websocket = WebSocket(self._server.config, self._server.server_state, {})
        websocket.adopt(handed.unread)
        await self._loop.connect_accepted_socket(lambda: websocket, client)
        websocket.run(self._app.adopt(handed, codec, websocket))

    def _check_self(self, giver: socket.socket) -> None:
        """Raises ServiceError if this frontend takes no connection of this process now."""
        if not _is_same_user(giver):
            raise ServiceError("its process belongs to another user")
        if self._frontend.draining:
            raise ServiceError("this frontend stops too")
        if self._frontend.sessions.boot is None:
            raise ServiceError("no broker is connected")
        if self._frontend.sessions.budget.exhausted:
            raise ServiceError("too much unconfirmed audio is held here")


class Giver:
    """Passes the connections of this frontend to the others that listen in the same folder."""

    def __init__(self, app: App, frontend: Frontend, folder: Path) -> None:
        self._app, self._frontend, self._folder = app, frontend, folder
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self.given = 0
        """Number of connections that another frontend has taken."""
        self._refused: set[Live] = set()
        """Connections that another frontend did not take: they stay here."""
        self._stopping = asyncio.Event()

    async def give_all(self, timeout_s: float) -> None:
        """Pass on every connection that can be passed on, also those that need a moment until then."""
        begun = self._loop.time()
        while await self._round():
            spent_s = self._loop.time() - begun
            if spent_s >= (timeout_s if self._waiting() else min(LATE_S, timeout_s)):
                return
            await asyncio.sleep(ROUND_S)

    async def keep_giving(self) -> None:
        """Pass connections on while this frontend drains, also to a frontend that starts meanwhile, until `stop`."""
        while not self._stopping.is_set():
            await self._round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WATCH_S)

    def stop(self) -> None:
        """Let `keep_giving` return, after the connection that it is passing on."""
        self._stopping.set()

    def _waiting(self) -> bool:
        return any(map(self._may_go, self._app.live))

    def _may_go(self, live: Live) -> bool:
        return live.conversation.is_portable and live.transport.is_portable and live not in self._refused

    def _others(self) -> list[Path]:
        """The sockets of the other frontends; this one has removed its own."""
        return sorted(self._folder.iterdir()) if self._folder.is_dir() else []

    async def _round(self) -> bool:
        """Try each connection once, with the other frontends in turn. False if none of those takes connections."""
        others = self._others()
        for live in filter(self._may_go, list(self._app.live)):
            if not others or self._stopping.is_set():
                break
            self._turn += 1
            other = others[self._turn % len(others)]
            try:
                await self._give(live, other)
            except NotTaken as error:
                self._refused.add(live)
                log.warning("a frontend did not take a connection", to=other.name, reason=str(error))
            except (OSError, TimeoutError, ServiceError) as error:
                log.info("handed no connection over", to=other.name, reason=str(error) or "no answer")
                others.remove(other)
        return bool(others)

    async def _give(self, live: Live, other: Path) -> None:
        """Pass a connection on, if it can be passed on now.

        Raises NotTaken, or OSError, TimeoutError and ServiceError if the other frontend takes nothing now. Then the
        connection stays here.
        """
        with _packets() as taker:
            await self._connect(taker, other)
            packed = self._packed(live)
            if packed is None:
                return
            with contextlib.ExitStack() as unless_taken:
                unless_taken.callback(live.conversation.take_back, packed.session)
                await self._offer(taker, packed, live.transport.fileno())
                unless_taken.pop_all()
            self.given += 1
            live.conversation.let_go()
            live.transport.let_go()

    async def _connect(self, taker: socket.socket, other: Path) -> None:
        try:
            await self._loop.sock_connect(taker, str(other))
        except ConnectionRefusedError:
            other.unlink(missing_ok=True)  # its process was killed
            raise
        if not _is_same_user(taker):
            raise ServiceError("its process belongs to another user")
        greeting = await asyncio.wait_for(self._loop.sock_recv(taker, PACKET_BYTES_MAX), ANSWER_S_MAX)
        if greeting != _greeting(self._frontend):
            raise ServiceError(greeting.decode(errors="replace"))

    def _packed(self, live: Live) -> HandedConnection | None:
        unread = live.transport.hand_over()
        handed = live.conversation.hand_over() if unread is not None else None
        if unread is None or handed is None:
            live.transport.take_back()
            return None
        codec, session = handed
        return HandedConnection(live.dialect, live.request, live.admission.client, codec, session, unread)

    async def _offer(self, taker: socket.socket, handed: HandedConnection, client: int) -> None:
        """Returns when the other frontend has the client. Raises NotTaken, OSError and TimeoutError: it has not."""
        with _file(encode(handed)) as file:
            socket.send_fds(taker, [OFFER], [client, file])
        answer = await asyncio.wait_for(self._loop.sock_recv(taker, PACKET_BYTES_MAX), ANSWER_S_MAX)
        if not answer:
            raise ConnectionResetError("it has ended")
        if answer != READY:
            raise NotTaken(answer.decode(errors="replace"))
        taker.send(GO)


def new_path(folder: Path) -> Path:
    """A path for a Taker in this folder that no other process has."""
    return folder / secrets.token_hex(4)


def _greeting(frontend: Frontend) -> bytes:
    """Only frontends with the same greeting hand anything over: of the same version, and in the same pool."""
    return f"{VERSION} {frontend.sessions.boot}".encode()


def _packets() -> socket.socket:
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unix.setblocking(False)
    return unix


def _is_same_user(peer: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(peer.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(peer.fileno())


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[int]:
    """The descriptor of a file in memory with this content."""
    with os.fdopen(os.memfd_create("asr-handover"), "wb") as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def _offered(giver: socket.socket, until_taken: contextlib.ExitStack) -> tuple[socket.socket, HandedConnection]:
    """The client's socket, which is closed with `until_taken`, and its state. Raises OSError and DecodeError."""
    data, descriptors, _, _ = socket.recv_fds(giver, PACKET_BYTES_MAX, 2)
    if not data:
        raise ConnectionResetError("the giver had nothing to offer")
    if data != OFFER or len(descriptors) != 2:
        for descriptor in descriptors:
            os.close(descriptor)
        raise DecodeError("not an offer of a connection")
    client = until_taken.enter_context(socket.socket(fileno=descriptors[0]))
    client.setblocking(False)
    with os.fdopen(descriptors[1], "rb") as file:
        return client, _state(file)


def _state(file: BinaryIO) -> HandedConnection:
    """The connection in the giver's file. Raises DecodeError."""
    if os.fstat(file.fileno()).st_size > STATE_BYTES_MAX:
        raise DecodeError(f"the state has more than {STATE_BYTES_MAX} bytes")
    file.seek(0)
    return read(file.read(), HandedConnection)
