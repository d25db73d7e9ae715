"""Load generators in separate processes, so that neither the command nor its reading of CPU and memory delays them.

    command                        generator
    a share of the plan     ->
                            <-     all sessions are open
    when to begin           ->     sends audio
                            <-     all sessions have ended
    continue                ->
                            <-     the results

Messages are pickles on the child's stdin and stdout; this module implements both ends. A string in place of an answer
is an error message. All processes use the machine's clock, so their times can be compared.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from asr_client.dialects import DIALECTS
from asr_ops.bench import by_client, load
from asr_ops.bench.connection import clock
from asr_ops.bench.plan import LoadResult, Plan, merged, shares
from asr_proto.errors import AsrError

LEAD_S = 0.1
"""Seconds from the last session's `ready` to the beginning of the audio."""
LENGTH = struct.Struct("!Q")
Barrier = Callable[[], Awaitable[None]]

# ---- The command's end ----


class Generators:
    """The command's side of the load generators, which wait for a plan."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        """Process ids of the load generators. Their CPU time is not the server's."""
        return [process.pid for process in self._processes]

    async def run(self, plan: Plan, at_begin: Barrier, at_end: Barrier) -> LoadResult:
        """Carry out the plan. `at_begin` runs before the first audio is sent, `at_end` after the last session ended.

        Raises AsrError if a load generator fails.
        """
        await self._send_all(shares(plan, len(self._processes)))
        await self._receive_all()
        await at_begin()
        await self._send_all([clock() + LEAD_S] * len(self._processes))
        await self._receive_all()
        await at_end()
        await self._send_all([None] * len(self._processes))
        return merged(plan, await self._receive_all())

    async def _send_all(self, messages: list[Any]) -> None:
        await asyncio.gather(*map(_write, self._processes, messages))

    async def _receive_all(self) -> list[Any]:
        return list(await asyncio.gather(*map(_read, self._processes)))


@asynccontextmanager
async def generating(count: int) -> AsyncIterator[Generators]:
    """Run `count` load generators while the block runs."""
    async with AsyncExitStack() as stack:
        yield Generators([await stack.enter_async_context(_started()) for _ in range(count)])


@asynccontextmanager
async def _started() -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _write(process: Process, message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(message))
    await process.stdin.drain()


async def _read(process: Process) -> Any:
    assert process.stdout is not None
    try:
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        message = pickle.loads(await process.stdout.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise AsrError("a load generator ended unexpectedly") from error
    if isinstance(message, str):
        raise AsrError(message)
    return message


# ---- The generator's end ----


def main() -> None:
    """Carry out plans until the command closes stdin. Interrupts are ignored: the command handles them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # a collection would delay frames by milliseconds, and there is little garbage
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


async def _serve() -> None:
    while (plan := await asyncio.to_thread(_next)) is not None:
        run = by_client.run if DIALECTS[plan.dialect].channel == "webrtc" else load.run
        try:
            _answer(await run(plan, _wait_for_others, _wait_for_others))
        except AsrError as error:
            _answer(error.detail)


async def _wait_for_others() -> Any:
    """Report that this point is reached, and wait for the other generators. Returns the command's message."""
    _answer(None)
    return await asyncio.to_thread(_next)


def _next() -> Any:
    """The command's next message; None if the command has ended."""
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:
        return None


def _answer(message: Any) -> None:
    data = pickle.dumps(message)
    sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
