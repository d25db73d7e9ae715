"""The removal of an API key ends what its clients have open, in the form of their dialect."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_dialects import amira
from asr_frontends.access import digest
from tests.e2e.clients import Native, noise
from tests.e2e.service import WAIT_S, Pool

LINES = {name: f"{name} {digest(name)}\n" for name in ("alice", "bob")}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("".join(LINES.values()))
    return path


@pytest.fixture
def pool(keys: Path) -> Iterator[Pool]:
    with Pool(frontend=[f"--keys={keys}"]) as pool:
        yield pool


def native(pool: Pool, key: str) -> Native:
    return Native(pool.url, path=f"/v1/stream?token={key}")


def unfinished(port: int) -> http.client.HTTPConnection:
    """A batch of AMIRA's whose last bytes are missing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.putrequest("POST", amira.BATCH_PATH)
    for header in ("content-length: 32000", "content-type: application/octet-stream", "x-api-key: alice"):
        connection.putheader(*header.split(": "))
    connection.endheaders(bytes(16000))
    return connection


def test_a_removed_key_ends_its_sessions_and_uploads(pool: Pool, keys: Path) -> None:
    with native(pool, "alice") as alice, native(pool, "bob") as bob, contextlib.closing(unfinished(pool.port)) as batch:
        alice.ready()
        bob.ready()
        alice.send(noise(0.5))
        keys.write_text(LINES["bob"])
        assert alice.error()["code"] == "key-revoked"
        assert alice.close_code == 4400
        batch.send(bytes(8000))
        response = batch.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (401, "key-revoked")
        pcm = noise(0.5)
        bob.send(pcm)
        bob.stop()
        assert bob.of("final")


def test_with_new_only_new_sessions_are_refused(keys: Path) -> None:
    with Pool(frontend=[f"--keys={keys}", "--keys-revoke=new"]) as pool, native(pool, "alice") as alice:
        alice.ready()
        since = len(pool.frontend.lines)
        keys.write_text(LINES["bob"])
        pool.frontend.wait_for("keys read", since)
        alice.send(noise(0.5))
        alice.stop()
        assert alice.of("final")
        with socket.create_connection(("127.0.0.1", pool.port)) as refused:
            refused.sendall(b"GET /v1/models?token=alice HTTP/1.1\r\nHost: x\r\n\r\n")
            assert refused.recv(100).startswith(b"HTTP/1.1 401 ")
