"""Runs a `sherpa-onnx-online-websocket-server` with the toy model during a measurement."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asr_ops.own_service import Service
from asr_proto.errors import SetupError

FOLDER = Path(__file__).resolve().parent
VENV = FOLDER / ".venv"
SERVER = "sherpa-onnx-online-websocket-server"
START_S_MAX = 30.0
STOP_S_MAX = 5.0
POLL_S = 0.05
LISTENS = b"Listening on:"


@dataclass(frozen=True, slots=True)
class Peer:
    """The peer's virtual environment, the toy model's chunk and further arguments."""

    venv: Path
    chunk_ms: int
    arguments: tuple[str, ...]


def check(peer: Peer) -> None:
    """Raise SetupError if the peer is not installed."""
    if not _server(peer).exists():
        raise SetupError(f"there is no {SERVER} in {peer.venv / 'bin'}: `make bench-peer` installs it")


def pins() -> list[str]:
    """The pinned requirements of the peer."""
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line]


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[Service]:
    """Run the server on a free port while the block runs.

    Raises SetupError, with the server's log, if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="sherpa-peer-") as name:
        folder = Path(name)
        _write_model(peer, folder)
        port = _free_port()
        with open(folder / "server.out", "wb") as output:
            process = await asyncio.create_subprocess_exec(
                _server(peer), *_arguments(folder, port), *peer.arguments, stdout=output, stderr=output
            )
        try:
            await _listening(process, folder / "server.out")
            yield Service(f"ws://127.0.0.1:{port}/", process.pid)
        finally:
            await _stop(process)


def _server(peer: Peer) -> Path:
    return peer.venv / "bin" / SERVER


def _arguments(folder: Path, port: int) -> Sequence[str]:
    models = [f"--{part}={folder / part}.onnx" for part in ("encoder", "decoder", "joiner")]
    return [f"--port={port}", f"--tokens={folder / 'tokens.txt'}", f"--log-file={folder / 'server.log'}", *models]


def _write_model(peer: Peer, folder: Path) -> None:
    """Write the model with the peer's Python, because onnx is installed only there. Raises SetupError."""
    script, python = str(FOLDER / "toy_model.py"), str(peer.venv / "bin" / "python")
    command = [python, script, str(folder), f"--chunk-ms={peer.chunk_ms}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"the toy model cannot be written\n{done.stderr.strip()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


async def _listening(process: asyncio.subprocess.Process, output: Path) -> None:
    """Wait until the server's log shows that it listens. A test connection would count as a session."""
    for _ in range(round(START_S_MAX / POLL_S)):
        if LISTENS in output.read_bytes():
            return
        if process.returncode is not None:
            break
        await asyncio.sleep(POLL_S)
    raise SetupError(f"{SERVER} did not start\n{output.read_text(errors='replace').strip()}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Terminate the process, and kill it after STOP_S_MAX seconds."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()
