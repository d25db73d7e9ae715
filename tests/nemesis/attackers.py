"""Processes that attack the pool for a time: clients that flood it, and peers that send the brokers garbage."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from tests.e2e.service import ROOT, environment
from tests.nemesis.pool import Pool

FLOODERS = 8
END_S = 10.0


class Attacker:
    """A process of low priority, as if it ran on another machine. It ends at the end of its stdin."""

    def __init__(self, module: str, args: Sequence[str]) -> None:
        self._argv = ("nice", "-n", "10", sys.executable, "-m", module, *args)
        self.said = ""
        """What it has printed at its end."""

    async def __aenter__(self) -> None:
        pipe = asyncio.subprocess.PIPE
        variables = environment()
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=pipe, stdout=pipe, cwd=ROOT, env=variables
        )

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            async with asyncio.timeout(END_S):
                said, _ = await self._process.communicate(b"")
                self.said = said.decode().strip()
        except TimeoutError:
            self.said = "did not end"
        finally:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def flooder(pool: Pool, kind: str) -> Attacker:
    """Several clients that send messages of this kind as fast as they can."""
    return Attacker("tests.floods.flooder", [str(pool.port), kind, str(FLOODERS)])


def bad_peer(pool: Pool, side: str, seed: int) -> Attacker:
    """A process that attacks every broker at its endpoint for `side`."""
    return Attacker("tests.nemesis.bad_peer", [side, str(seed), *pool.endpoints(side)])
