"""A client that stalls its TLS handshake is disconnected; one that finishes it is served."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asr_frontends.servers import loop
from asr_frontends.servers.serve import listen, make_server

WAIT_S = 20.0
STALL_S = 0.5
"""The limit in these tests; the real one is TLS_HANDSHAKE_S_MAX."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*new, "-subj", "/CN=x", "-keyout", path, "-out", path.with_suffix(".crt")], check=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


def hello() -> bytes:
    """The first message of a client's handshake."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def with_server(certificate: Path, act: Callable[[int], Awaitable[None]]) -> None:
    async def run() -> None:
        sock = listen("127.0.0.1:0")
        server = make_server(answer, 65_536, certificate)
        serving = asyncio.create_task(server.serve([sock]))
        try:
            async with asyncio.timeout(WAIT_S):
                await act(sock.getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=loop.Loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("sent", [0, 0.5], ids=["nothing", "half of its hello"])
def test_a_stalled_handshake_ends(certificate: Path, sent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TLS_HANDSHAKE_S_MAX", STALL_S)

    async def act(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello()[: int(sent * len(hello()))])
        assert await reader.read() == b""
        writer.close()

    with_server(certificate, act)


def test_a_client_that_finishes_its_handshake_is_served(certificate: Path) -> None:
    async def act(port: int) -> None:
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"served\r\n0\r\n\r\n")
        writer.close()

    with_server(certificate, act)


def test_the_limit_is_that_of_a_request_head() -> None:
    assert loop.TLS_HANDSHAKE_S_MAX == 15.0
