"""Yap's and Parakeet-TDT's dialects through real processes, with plain WebSocket clients like the original ones."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.e2e.clients import WAIT_S, cut, expected, noise, paced, websocket
from tests.e2e.service import Pool

EOS, RESET = b"__CTRL__:EOS", b"__CTRL__:RESET"


def receive(socket: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(socket.recv(WAIT_S)))


def until(socket: ClientConnection, field: str, value: str) -> dict[str, Any]:
    while (message := receive(socket))[field] != value:
        pass
    return message


def closed(socket: ClientConnection) -> tuple[int, str]:
    """The server's close, after all its remaining messages."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            socket.recv(WAIT_S)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


@pytest.mark.parametrize("size", [640, 1280, 0])
def test_yap(fake: Pool, size: int) -> None:
    """YAP-09 to YAP-13: init, audio of any length, interims, close, final, 1000."""
    pcm = noise(3.4, seed=1)
    before_ms = time.time() * 1000
    with websocket(fake.url + "/") as socket:
        socket.send('{"op":"init","sid":"s-1","sr":16000}')
        for frame in cut(pcm, size):
            socket.send(frame)
        socket.send('{"op":"close","sid":"s-1"}')
        final = until(socket, "op", "final")
        assert closed(socket) == (1000, "")
    assert 3400 <= final.pop("ts") - before_ms < 3400 + 1000 * WAIT_S
    assert final == {"op": "final", "sid": "s-1", "text": expected(pcm), "final": True}


def test_yap_interims_come_at_least_once_a_second(speech: Pool) -> None:
    """YAP-12, decision 13: while audio arrives, also in silence. `ts` counts the audio."""
    with websocket(speech.url + "/") as socket:
        socket.send('{"op":"init","sid":"s-1"}')
        for frame in paced([bytes(3200)] * 35, 0.1):
            socket.send(frame)
        socket.send('{"op":"close"}')
        at = []
        while (message := receive(socket))["op"] == "interim":
            at.append(message["ts"])
            assert message["text"] == ""
        at.append(message["ts"])
    assert len(at) >= 4
    assert max(later - earlier for earlier, later in pairwise(at)) <= 1000


def test_yap_bad_init(fake: Pool) -> None:
    """YAP-25."""
    with websocket(fake.url + "/") as socket:
        socket.send("hello")
        assert closed(socket) == (1002, "Bad init")


def test_parakeet(fake: Pool) -> None:
    """PAR-01 to PAR-05, PAR-08: two turns and a reset between them on one socket."""
    first, dropped, second = noise(1.7, seed=1), noise(1.1, seed=2), noise(2.3, seed=3)
    with websocket(fake.url + "/ws") as socket:
        for frame in [*cut(first, 640), EOS, *cut(dropped, 640), RESET, *cut(second, 640), EOS]:
            socket.send(frame)
        assert until(socket, "type", "final") == {"type": "final", "text": expected(first)}
        assert until(socket, "type", "reset") == {"type": "reset"}
        assert until(socket, "type", "final") == {"type": "final", "text": expected(second)}
    assert fake.get("/status") == (200, "ok")


def test_parakeet_deltas(fake: Pool) -> None:
    """PAR-04: the fake engine's text only grows, so its deltas are the text."""
    pcm = noise(3.1, seed=4)
    received = ""
    with websocket(fake.url + "/ws?partials=delta") as socket:
        for frame in [*cut(pcm, 640), EOS]:
            socket.send(frame)
        while (message := receive(socket))["type"] == "partial":
            received += message["text"]
    assert received == message["text"] == expected(pcm)


@pytest.mark.parametrize("frame", [b"\0" * 641, b"hello " * 20, "hello"], ids=["odd", "text in binary", "text"])
def test_parakeet_takes_pcm_only(fake: Pool, frame: str | bytes) -> None:
    """PAR-07."""
    with websocket(fake.url + "/ws") as socket:
        socket.send(frame)
        assert closed(socket)[0] == 1003
