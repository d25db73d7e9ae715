"""What lies between the broker and its peers, so that it can be cut or slowed: Unix sockets that pass on every byte.

A network would do the same to tcp links; here it needs neither root nor name spaces, and it knows by the socket's
credentials which process is at the other end. While a link is cut, both ends live and nothing is lost: it waits.
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
class Weather:
    """What a process's link is like."""

    passes: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.passes.set()


class Links:
    """One socket for workers and one for frontends; a process is told from another by its name."""

    def __init__(self, run_dir: Path, name_of: Callable[[int], str | None]) -> None:
        self._run_dir, self._name_of = run_dir, name_of
        self._weather: dict[str, Weather] = {}
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[object]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def endpoint(self, side: str) -> str:
        """Where the peers of that side are to connect."""
        return f"ipc://{self._run_dir / f'x-{side}.ipc'}"

    def of(self, name: str) -> Weather:
        """The link of a process, whichever incarnation of it lives."""
        return self._weather.setdefault(name, Weather())

    async def open(self) -> None:
        for side in ("workers", "frontends"):
            behind = self._run_dir / f"{side}.ipc"
            path = self.endpoint(side).removeprefix("ipc://")
            self._servers.append(await asyncio.start_unix_server(self._serve(behind), path, limit=READ_BYTES_MAX))

    async def close(self) -> None:
        """Returns when every connection has ended."""
        for server in self._servers:
            server.close()
        for weather in self._weather.values():
            weather.passes.set()
        for writer in list(self._writers):
            writer.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_S)

    def _serve(self, behind: Path) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            self._writers.add(writer)
            try:
                await self._join(reader, writer, behind)
            finally:
                self._serving.discard(task)
                self._writers.discard(writer)
                writer.close()

        return serve

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behind: Path) -> None:
        """Returns when one end is gone; the other hears of it at once."""
        weather = self.of(self._name_of(_peer_pid(writer)) or "?")
        try:
            there, back = await asyncio.open_unix_connection(behind, limit=READ_BYTES_MAX)
        except OSError:  # no broker: nor would the peer have reached one
            return
        pumps = [asyncio.create_task(_pump(reader, back, weather)), asyncio.create_task(_pump(there, writer, weather))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Weather) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_BYTES_MAX):
            if weather.delay_s:
                await asyncio.sleep(weather.delay_s)
            await weather.passes.wait()
            writer.write(data)
            await writer.drain()


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    pid: int = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
    return pid
