"""Errors of clients: each client receives the reason, other clients are not affected, and every slot is freed.

In every test another client, the bystander, is in the middle of a session on the same service.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import zmq
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr_process import settings
from asr_proto import messages as m
from asr_proto import wire
from tests.e2e.clients import Caiman, Native, RawClient, converse, cut, expected, noise, websocket
from tests.e2e.service import Pool, Service, eventually

START_S_MAX = 30.0
"""Longest wait of a frontend for the message that starts a session."""


@pytest.fixture(autouse=True)
def bystander(fake: Pool) -> Iterator[Native]:
    """Another client with a session at the same time, all of whose words must arrive."""
    pcm = noise(3.1, seed=99)  # two seconds are whole words of the fake engine, so a flush there changes nothing
    with Native(fake.url) as client:
        client.ready()
        client.send(*cut(pcm[:64_000], 640))
        yield client
        client.send(*cut(pcm[64_000:], 640))
        client.stop()
    assert client.text == expected(pcm)
    assert client.close_code == 1000
    fake.wait_sessions(0)


@pytest.fixture(scope="module", autouse=True)
def silent(_fake_pool: Pool) -> Iterator[tuple[float, Any]]:
    """A client that connected when this module began and sends nothing."""
    with websocket(f"{_fake_pool.url}/v1/stream") as silent:
        yield time.monotonic(), silent


def answer(client: Native, marker: str) -> float:
    """The duration of a flush in an undisturbed session, in seconds."""
    started = time.monotonic()
    client.send_message("flush", marker=marker)
    assert client.until("flushed")["marker"] == marker
    return time.monotonic() - started


# ---- Messages that are none ----


@pytest.mark.parametrize(
    "text",
    [
        "",
        "start",
        '{"type":"start"',
        '{"type":"start"}{"type":"start"}',
        "[" * 100_000,
        '{"type":"start","sample_rate":' + "9" * 10_000 + "}",
        "null",
        "17",
        '"start"',
        '["start"]',
        "{}",
        '{"type":null}',
        '{"type":["start"]}',
        '{"type":"begin"}',
        '{"type":"Start"}',
        '{"type":"\\ud800"}',
        '{"type":"start","model":5}',
        '{"type":"start","model":"' + "m" * 129 + '"}',
        '{"type":"start","language":["en"]}',
        '{"type":"start","language":"e\\u0000n"}',
        '{"type":"start","partials":1}',
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_an_invalid_message(fake: Pool, text: str) -> None:
    with Native(fake.url, start=None) as client:
        client.socket.send(text)
        assert client.error()["code"] == "bad-message"
    assert client.close_code == 4400
    assert client.close_reason.startswith("bad-message: ")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"type":"shout"}',
        '{"type":"flush"}',
        '{"type":"flush","marker":7}',
        '{"type":"flush","marker":"' + "m" * 257 + '"}',
        '{"type":"flush","marker":"a\\nb"}',
    ],
)
def test_an_invalid_message_during_a_session(fake: Pool, text: str) -> None:
    with Native(fake.url) as client:
        client.ready()
        client.send(noise(0.5))
        client.socket.send(text)
        assert client.error()["code"] == "bad-message"
    assert client.close_code == 4400


def test_text_that_is_not_utf_8_and_invalid_frames(fake: Pool) -> None:
    """Errors of the WebSocket protocol have the codes of RFC 6455."""
    for head, payload, code in ((0x81, b'{"type":"\xff"}', 1007), (0x83, b"reserved", 1002), (0xC2, b"rsv1", 1002)):
        with RawClient(fake.port) as client:
            client.send_message("start")
            client.socket.sendall(bytes([head, 0x80 | len(payload)]) + bytes(4) + payload)
            closes = [payload for opcode, payload in client.frames() if opcode == 8]
            assert int.from_bytes(closes[0][:2]) == code


def test_bytes_that_are_not_http_are_refused(fake: Pool) -> None:
    for garbage in (os.urandom(300), b"\0" * 4096, b"GET /v1/stream\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while client.recv(4096):
                    pass


# ---- Messages at the wrong moment ----


@pytest.mark.parametrize("message", [b"\0" * 640, '{"type":"flush","marker":"1"}', '{"type":"stop"}'])
def test_before_start(fake: Pool, message: str | bytes) -> None:
    with Native(fake.url, start=None) as client:
        client.socket.send(message)
        assert client.error()["code"] == "out-of-order"
    assert client.close_code == 4400


def test_a_keepalive_before_start_does_no_harm(fake: Pool) -> None:
    with Native(fake.url, start=None) as client:
        client.send_message("keepalive")
        client.send_message("start")
        client.stop()
    assert client.close_code == 1000


def test_a_second_start(fake: Pool) -> None:
    with Native(fake.url) as client:
        client.ready()
        client.send(noise(0.5))
        client.send_message("start")
        assert client.error()["code"] == "out-of-order"
    assert client.close_code == 4400


@pytest.mark.parametrize("message", [b"\0" * 640, '{"type":"flush","marker":"1"}', '{"type":"stop"}'])
def test_after_stop(fake: Pool, message: str | bytes) -> None:
    with Native(fake.url, {"partials": False}) as client:
        client.ready()
        client.send(noise(9.0))  # so that the end is some steps away
        client.send_message("stop")
        client.socket.send(message)
        assert client.error()["code"] == "out-of-order"
    assert client.close_code == 4400


# ---- Requests that cannot be met ----


@pytest.mark.parametrize("rate", [7999, 192_001, 0, -16000, 16000.5, 16000.0, "16000", True])
def test_invalid_sample_rates(fake: Pool, rate: object) -> None:
    with Native(fake.url, {"sample_rate": rate}) as client:
        assert client.error()["code"] == "unsupported-sample-rate"
    assert client.close_code == 4400


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ({"model": "large"}, "unknown-model"),
        ({"model": "m" * 128}, "unknown-model"),
        ({"model": "fäke ☃"}, "unknown-model"),
        ({"language": "de"}, "unsupported-language"),
        ({"language": "l" * 128}, "unsupported-language"),
        ({"resume": "token"}, "bad-message"),
        ({"resume": {"session": "x", "finals": -4}}, "bad-message"),
        ({"resume": {"session": "of/nobody", "finals": 4}}, "resume-unavailable"),
        ({"resume": {"session": "0123456789abcdef", "finals": 4}}, "resume-unavailable"),
    ],
)
def test_requests_that_cannot_be_met(fake: Pool, start: dict[str, Any], code: str) -> None:
    with Native(fake.url, start) as client:
        error = client.error()
    assert error["code"] == code
    assert error["message"]
    assert "retry_after_s" not in error
    assert [message["type"] for message in client.received] == ["error"]
    assert client.close_code == 4400


@pytest.mark.parametrize("path", ["/v1", "/v1/stream/", "/v1/streams", "/asr/v0.2/stream", "/v1/%00", "/V1/stream"])
def test_paths_that_no_dialect_has(fake: Pool, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, websocket(fake.url + path):
        pass
    assert refused.value.response.status_code == 404


def test_pages_that_do_not_exist(fake: Pool) -> None:
    assert fake.get("/nothing")[0] == 404
    assert fake.get("/v1/stream")[0] in (400, 404, 405, 426)


# ---- Audio ----


def test_odd_bytes_are_carried_to_the_next_frame(fake: Pool) -> None:
    pcm = noise(2.0, seed=5)
    frames = [pcm[:1], *cut(pcm[1:], 961)]
    assert any(len(frame) % 2 for frame in frames)
    with Native(fake.url) as client:
        client.send(*frames, b"\x7f")  # half a sample at the end is none
        client.stop()
    assert client.text == expected(pcm)
    assert client.of("ack")[-1]["samples"] == len(pcm) // 2


def test_empty_frames_have_no_effect(fake: Pool) -> None:
    pcm = noise(1.1)
    client = converse(fake.url, [b"", pcm, b"", b""])
    assert client.text == expected(pcm)


@pytest.mark.parametrize("data", [bytes(1_048_577), "x" * 1_048_577], ids=["binary", "text"])
def test_a_message_over_the_limit(fake: Pool, data: str | bytes) -> None:
    with Native(fake.url) as client:
        client.ready()
        with suppress(ConnectionClosed):
            client.socket.send(data)
        client.rest()
    assert client.close_code == 1009


def test_a_message_of_the_largest_size(fake: Pool) -> None:
    pcm = noise(32.768)
    assert len(pcm) == 1_048_576
    assert converse(fake.url, [pcm], partials=False).text == expected(pcm)


# ---- Clients that do nothing, and clients that only talk ----


def test_an_idle_client_is_ended_in_both_dialects(fake: Pool, impatient: str) -> None:
    with Native(impatient) as native, Caiman(impatient) as caiman:
        assert native.error()["code"] == "idle-timeout"
        assert caiman.rest() == []
    assert native.close_code == caiman.close_code == 4400
    assert re.match("idle-timeout: ", native.close_reason)
    assert re.match("400 idle-timeout: ", caiman.close_reason)


class Chatterbox(threading.Thread):
    """Sends until the server ends the connection, and reads nothing."""

    def __init__(self, client: RawClient, caiman: bool) -> None:
        super().__init__(daemon=True)
        self._client, self._caiman = client, caiman
        self.start()

    def run(self) -> None:
        audio = noise(1.0)
        with suppress(OSError):
            for _ in range(1500):
                if self._caiman:
                    self._client.send(audio)
                else:
                    for _ in range(8):
                        self._client.send(audio[:64])
                        self._client.send_message("flush", marker="m" * 256)


def connections(pool: Pool, client_port: int) -> int:
    """The number of connections of that client in the frontend."""
    held = psutil.Process(pool.frontend.pid).net_connections("tcp")
    return sum(bool(connection.raddr) and connection.raddr.port == client_port for connection in held)


@pytest.mark.parametrize("path", ["/v1/stream", "/asr/v0.1/stream"])
def test_a_client_that_never_reads(fake: Pool, bystander: Native, path: str) -> None:
    """It loses its session, and later its connection. Another client waits no longer than usual."""
    with RawClient(fake.port, path) as deaf:
        if path == "/v1/stream":
            deaf.send_message("start", partials=False)
        fake.wait_sessions(2)
        talking = Chatterbox(deaf, path != "/v1/stream")
        delays: list[float] = []

        def over() -> bool:
            delays.append(answer(bystander, f"m{len(delays)}"))
            return fake.sessions() == 1

        eventually(over, f"the end of a session that nobody reads\n{fake.story()}")
        assert max(delays) < 2.0
        eventually(lambda: not connections(fake, deaf.port), "the end of a connection that nobody reads", 15)
        deaf.socket.close()
        talking.join(10)


@pytest.mark.parametrize("path", ["/v1/stream", "/asr/v0.1/stream"])
def test_a_client_that_reads_too_late_receives_the_reason(fake: Pool, path: str) -> None:
    with RawClient(fake.port, path) as slow:
        if path == "/v1/stream":
            slow.send_message("start", partials=False)
        fake.wait_sessions(2)
        talking = Chatterbox(slow, path != "/v1/stream")
        fake.wait_sessions(1)
        frames = list(slow.frames())
        slow.close()
        talking.join(10)
    opcode, payload = frames[-1]
    assert (opcode, int.from_bytes(payload[:2])) == (8, 4400)
    assert b"slow-reader" in payload
    if path == "/v1/stream":
        assert json.loads(frames[-2][1])["code"] == "slow-reader"


# ---- Clients that vanish ----


@pytest.mark.parametrize("how", ["reset", "end of file"])
@pytest.mark.parametrize("when", ["connected", "started", "speaking", "ahead", "stopped", "caiman"])
def test_a_client_that_vanishes_frees_its_slot(fake: Pool, when: str, how: str) -> None:
    client = RawClient(fake.port, "/asr/v0.1/stream" if when == "caiman" else "/v1/stream")
    if when not in ("connected", "caiman"):
        client.send_message("start")
    if when == "caiman":
        fake.wait_sessions(2)
    if when in ("speaking", "ahead", "stopped", "caiman"):
        for frame in cut(noise(60.0 if when == "ahead" else 2.0), 32_000):
            client.send(frame)
    if when == "stopped":
        client.send_message("stop")
    if how == "reset":
        client.vanish()
    else:
        client.close()
    fake.wait_sessions(1)


def test_a_slow_worker_frees_the_slot_of_a_client_that_is_gone() -> None:
    """The frontend does not read from a client that is too far ahead, but still notices that the client is gone."""
    worker = ["--engine=fake", "--step-ms=300", "--slots=1"]
    with Pool(workers=[worker], frontend=["--credit-s=2"], broker=["--grace-s=0.3"]) as pool:
        client = RawClient(pool.port, timeout_s=1.0)
        client.send_message("start")
        pool.wait_sessions(1)
        client.send(noise(20.0))  # 333 steps: a hundred seconds of work
        client.vanish()
        pool.wait_sessions(0)
        pool.wait_ready()  # the frontend receives of it with the next heartbeat


# ---- A service that is full, or not there ----


def test_at_capacity() -> None:
    pcm = noise(1.0)
    with Pool(workers=[["--engine=fake", "--slots=1"]]) as pool:
        with Native(pool.url) as first:
            first.ready()
            with Native(pool.url) as native, Caiman(pool.url) as caiman:
                error = native.error()
                assert error == {
                    "type": "error",
                    "code": "at-capacity",
                    "message": error["message"],
                    "retry_after_s": 1.0,
                }
                assert native.close_code == 4503
                assert native.close_reason.startswith("at-capacity: ")
                assert caiman.rest() == []
                assert caiman.close_code == 4503
                assert caiman.close_reason == "503 maximum number of simultaneous connections reached"
            eventually(lambda: not pool.is_ready(), "a full service is not ready")
            first.send(pcm)
            first.stop()
            assert first.text == expected(pcm)
        pool.wait_sessions(0)
        pool.wait_ready()
        assert converse(pool.url, [pcm]).text == expected(pcm)


def test_without_a_worker() -> None:
    with Pool(workers=[]) as pool, Native(pool.url) as native, Caiman(pool.url) as caiman:
        error = native.error()
        assert error["code"] == "no-worker"
        assert error["retry_after_s"] > 0
        assert native.close_code == 4503
        assert caiman.rest() == []
        assert caiman.close_code == 4503
        assert caiman.close_reason.startswith("503 no-worker")


def test_without_a_broker() -> None:
    with Service() as service:
        frontend = service.start("frontend", "--listen=127.0.0.1:0")
        service.port = int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        with Native(service.url) as native:
            assert native.error()["code"] == "no-broker"
        assert native.close_code == 4503


# ---- Garbage between the processes ----


def endpoints(pool: Pool) -> list[str]:
    sides = (settings.frontends_endpoint, settings.workers_endpoint, settings.control_endpoint)
    return [side(pool.run_dir) for side in sides]


def test_garbage_to_the_broker(fake: Pool, bystander: Native) -> None:
    """Invalid bytes, messages of the wrong direction and incomplete messages are ignored, for each peer separately."""
    valid = wire.encode(m.RegisterFrontend(m.PROTOCOL_VERSION, "x"))
    foreign = wire.encode(m.Closed(1))
    junk = [[os.urandom(size)] for size in (1, 2, 17, 1000)] + [[os.urandom(100_000)], [b""], [b"", b""]]
    junk += [[valid[:-1]], [valid + b"\0"], [foreign, b"body"], [b"\xc1"], [b"\xdf\xff\xff\xff\xff"]]
    junk += [[os.urandom(9)] * 200, [wire.encode(m.RegisterWorker(99, "old", _spec()))]]
    with zmq.Context() as context:
        for endpoint in endpoints(fake):
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 2000
                dealer.connect(endpoint)
                for parts in junk:
                    dealer.send_multipart(parts)
            assert fake.status() is not None
    assert answer(bystander, "alive") < 2.0
    eventually(fake.is_ready, "readiness after the garbage")


def test_garbage_below_zeromq(fake: Pool, bystander: Native) -> None:
    for endpoint in endpoints(fake):
        for junk in (os.urandom(500), b"\xff" + bytes(8) + b"\x7f" + os.urandom(60), b"GET / HTTP/1.1\r\n\r\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(endpoint.removeprefix("ipc://"))
                with suppress(OSError):
                    client.sendall(junk)
    assert answer(bystander, "alive") < 2.0
    status = fake.status()
    assert status is not None
    assert len(status.workers) == 1


def _spec() -> m.Spec:
    return m.Spec("x", "x", ("en",), 1, 960, 1.0, "none")


# ---- The one that takes half a minute, last ----


def test_a_client_that_never_starts(fake: Pool, silent: tuple[float, Any]) -> None:
    """It has been connected since this module's first test."""
    since, client = silent
    message = json.loads(client.recv(START_S_MAX + 10))
    assert message["type"] == "error"
    assert message["code"] == "idle-timeout"
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400
    assert time.monotonic() - since >= START_S_MAX
