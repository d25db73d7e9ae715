"""Proxies between the broker and its peers, which can cut or delay a link: Unix sockets that forward every byte.

They simulate a network between tcp links, without root or network namespaces. The socket's credentials identify the
process at the other end. While a link is cut, both ends live and no data is lost: it waits.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

READ_BYTES_MAX = 1 << 20
CLOSE_S = 5.0
CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class LinkCondition:
    """Whether the link of a process passes data, and with what delay."""

    passes: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.passes.set()


def endpoints(run_dir: Path, brokers: int) -> list[tuple[str, str]]:
    """The endpoints that the peers of each side must connect to, one for each broker: (side, endpoint)."""
    return [(side, f"ipc://{run_dir / f'x-{name}'}") for side, name in _sockets(brokers)]


def _sockets(brokers: int) -> list[tuple[str, str]]:
    """The file names of the brokers' sockets: (side, name)."""
    numbers = ["", *(f"-{number}" for number in range(2, brokers + 1))]
    return [(side, f"{side}{number}.ipc") for side in ("workers", "frontends") for number in numbers]


class Links:
    """The proxies: for each broker, one socket for workers and one for frontends.

    Each process has its own LinkCondition, by name.
    """

    def __init__(self, run_dir: Path, brokers: int, name_of: Callable[[int], str | None]) -> None:
        self._run_dir, self._brokers, self._name_of = run_dir, brokers, name_of
        self._conditions: dict[str, LinkCondition] = {}
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[object]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def of(self, name: str) -> LinkCondition:
        """The condition of the link of a process with this name, also after a restart."""
        return self._conditions.setdefault(name, LinkCondition())

    async def open(self) -> None:
        for _, name in _sockets(self._brokers):
            serve = self._serve(self._run_dir / name)
            path = self._run_dir / f"x-{name}"
            self._servers.append(await asyncio.start_unix_server(serve, path, limit=READ_BYTES_MAX))

    async def close(self) -> None:
        """Returns when every connection has ended."""
        for server in self._servers:
            server.close()
        for condition in self._conditions.values():
            condition.passes.set()
        for writer in list(self._writers):
            writer.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_S)

    def _serve(self, broker: Path) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            self._writers.add(writer)
            try:
                await self._join(reader, writer, broker)
            finally:
                self._serving.discard(task)
                self._writers.discard(writer)
                writer.close()

        return serve

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, broker: Path) -> None:
        """Forward data in both directions until one end closes; then close the other immediately."""
        condition = self.of(self._name_of(_peer_pid(writer)) or "?")
        try:
            there, back = await asyncio.open_unix_connection(broker, limit=READ_BYTES_MAX)
        except OSError:  # there is no broker, so close the peer's connection
            return
        pumps = [
            asyncio.create_task(_pump(reader, back, condition)),
            asyncio.create_task(_pump(there, writer, condition)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condition: LinkCondition) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_BYTES_MAX):
            if condition.delay_s:
                await asyncio.sleep(condition.delay_s)
            await condition.passes.wait()
            writer.write(data)
            await writer.drain()


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    pid: int = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
    return pid
