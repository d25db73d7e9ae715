"""Runs an `asr serve` during a measurement, with a temporary run directory and on a free port."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asr_proto.errors import SetupError

START_S_MAX = 180.0
STOP_S_MAX = 20.0
READY = b"ready: "


@dataclass(frozen=True, slots=True)
class Service:
    """A running `asr serve`."""

    url: str
    pid: int
    """Process id of the supervisor, the parent of all its processes."""


@asynccontextmanager
async def serving(arguments: Sequence[str]) -> AsyncIterator[Service]:
    """Run `asr serve` with these arguments while the block runs.

    Raises SetupError, with the service's log, if it is not ready within START_S_MAX seconds.
    """
    with tempfile.TemporaryDirectory(prefix="asr-own-") as run_dir, open(Path(run_dir) / "serve.log", "w+b") as log:
        command = [_asr(), "serve", f"--listen=127.0.0.1:{_free_port()}", f"--run-dir={run_dir}", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        try:
            url = await _ready(process.stdout)
            if url is None:
                log.seek(0)
                raise SetupError(f"asr serve did not become ready\n{log.read().decode(errors='replace').strip()}")
            yield Service(url, process.pid)
        finally:
            await _stop(process)


def _asr() -> str:
    beside = Path(sys.executable).with_name("asr")
    command = str(beside) if beside.exists() else shutil.which("asr")
    if command is None:
        raise SetupError("the command asr is not installed beside this Python: install the project, or give --url")
    return command


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


async def _ready(lines: asyncio.StreamReader) -> str | None:
    """The URL in the line `ready: URL`, or None if the service ends or takes too long."""
    try:
        async with asyncio.timeout(START_S_MAX):
            async for line in lines:
                if line.startswith(READY):
                    return line.removeprefix(READY).decode().strip()
    except TimeoutError:
        pass
    return None


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Terminate the process, and kill it after STOP_S_MAX seconds.

    Its output is read in the meantime, because a full pipe would block it.
    """
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.communicate(), STOP_S_MAX)
    except TimeoutError:
        process.kill()
        await process.communicate()
