"""AMIRA's WebSocket and REST routes through real processes. Each test names the entry of the inventory it proves."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from asr_audio.files import AudioFile
from tests.e2e.clients import WAIT_S, cut, expected, noise, websocket
from tests.e2e.service import Pool, eventually

STREAM, BATCH = "/v2/decode/stream/amira", "/v2/decode/batch/amira"
RAW = "application/octet-stream"
SPEECH = Path(__file__).parents[1] / "data" / "speechbrain__spk1_snt1.wav"
WORDS = {"child", "hurt", "dog"}
Message = dict[str, Any]


def rest(socket: ClientConnection) -> tuple[list[Message], int]:
    """Every message up to the server's close, and its code."""
    received: list[Message] = []
    try:
        while True:
            received.append(json.loads(socket.recv(WAIT_S)))
    except ConnectionClosed as error:
        assert error.rcvd is not None
        return received, error.rcvd.code


def post(pool: Pool, body: bytes, content_type: str = RAW, path: str = BATCH) -> tuple[int, Message, Any]:
    """Status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", pool.port, timeout=WAIT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers
    finally:
        connection.close()


def words_in(text: str) -> set[str]:
    return set("".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").split())


# ---- Streams ----


@pytest.mark.parametrize("size", [1600, 3200, 32_000])
def test_a_stream(fake: Pool, size: int) -> None:
    """AMI-05, 06, 07, decision 9: cumulative partials, a proper final, a normal close."""
    pcm = noise(3.1)
    with websocket(fake.url + STREAM) as socket:
        for frame in cut(pcm, size):
            socket.send(frame)
        socket.send(b"\x00")
        received, code = rest(socket)
    assert code == 1000
    assert [message["type"] for message in received] == ["partial"] * (len(received) - 1) + ["final"]
    assert received[-1] == {"type": "final", "text": expected(pcm), "tokens": [], "confidence": None}
    texts = [message["text"] for message in received]
    assert all(expected(pcm).startswith(text) for text in texts)
    assert len(texts) > 2


def test_a_stream_in_the_form_of_the_code(fake: Pool) -> None:
    """AMI-06, 07, decisions 7 and 9: keepalives make one PAUSED."""
    pcm = noise(1.0)
    with websocket(f"{fake.url}{STREAM}?schema=v1") as socket:
        for frame in (b"\x01", b"\x01", pcm, b"\x00"):
            socket.send(frame)
        received, code = rest(socket)
    statuses = [message["status"] for message in received]
    assert code == 1000
    assert statuses.count("PAUSED") == 1
    assert (statuses[0], statuses[-1]) == ("PAUSED", "COMPLETE")
    assert received[-1]["transcription"] == expected(pcm)


@pytest.mark.parametrize(
    "frame, message",
    [
        (b"", "there is no audio"),
        (b"\x07", "Unknown control byte 0x07"),
        (bytes(3), "3 bytes are no whole number of 16-bit samples"),
    ],
)
def test_a_refused_frame(fake: Pool, frame: bytes, message: str) -> None:
    """AMI-28: an error message in the dialect, then the close."""
    with websocket(fake.url + STREAM) as socket:
        socket.send("text is ignored")
        socket.send(frame)
        received, code = rest(socket)
    assert (received[-1]["type"], received[-1]["message"], code) == ("error", message, 4400)


def test_a_frame_that_is_too_large(fake: Pool) -> None:
    """AMI-28: beyond 1 MiB the transport itself refuses."""
    with websocket(fake.url + STREAM) as socket:
        socket.send(bytes(1_048_578))
        assert rest(socket)[1] == 1009


def test_too_many_messages(fake: Pool) -> None:
    """AMI-28: the 101st in a second."""
    with websocket(fake.url + STREAM) as socket:
        try:
            for _ in range(1000):
                socket.send(b"\x01")
        except ConnectionClosed:
            pass
        received, code = rest(socket)
    assert (received[-1]["code"], code) == ("rate-limited", 4400)
    assert received[-1]["message"] == "more than 100 messages in a second"


def test_too_many_streams(fake: Pool) -> None:
    """AMI-13: the eleventh receives the reason; a returned place can be taken again."""
    with ExitStack() as exits:
        sockets = [exits.enter_context(websocket(fake.url + STREAM)) for _ in range(10)]
        fake.wait_sessions(10)
        with websocket(fake.url + STREAM) as refused:
            received, code = rest(refused)
        assert (received[-1]["code"], code) == ("at-capacity", 4503)
        assert received[-1]["message"] == "the maximum of 10 concurrent streams is reached"
        for socket in sockets:
            socket.send(b"\x00")
            assert rest(socket)[0][-1]["type"] == "final"
    test_a_stream(fake, 32_000)


def test_an_idle_stream() -> None:
    """AMI-28: inactivity, in the words that old clients know."""
    with Pool(frontend=["--idle-s=0.3"]) as pool, websocket(pool.url + STREAM) as socket:
        received, code = rest(socket)
    assert (received[-1]["message"], code) == ("Stream timeout: nothing was sent for 0.3 s", 4400)


def test_speech(speech: Pool) -> None:
    """AMI-05, AMI-07: real words."""
    with AudioFile(SPEECH) as file, websocket(speech.url + STREAM) as socket:
        for frame in file.frames(100):
            socket.send(frame)
        socket.send(b"\x00")
        received, code = rest(socket)
    assert code == 1000
    assert received[-1]["type"] == "final"
    assert words_in(received[-1]["text"]) & WORDS


# ---- Batches ----


def test_a_raw_batch(fake: Pool) -> None:
    """AMI-03, AMI-04."""
    pcm = noise(2.3)
    status, body, _ = post(fake, pcm)
    assert status == 200
    assert body == {
        "text": expected(pcm),
        "tokens": [],
        "audio_length_samples": len(pcm) // 2,
        "features_length": None,
        "encoded_length": None,
    }


def test_a_json_batch(fake: Pool) -> None:
    """AMI-03, AMI-31, decision 7."""
    pcm = noise(0.6)
    sent = {"audio_buffer": list(pcm), "description": "d", "opaque": {"a": 1}, "incremental": True, "model": "x"}
    status, body, _ = post(fake, json.dumps(sent).encode(), "application/json", f"{BATCH}?schema=v1")
    assert status == 200
    assert (body["transcription"], body["status"], body["opaque"]) == (expected(pcm), "COMPLETE", {"a": 1})
    assert body["metadata"]["audio_length_samples"] == len(pcm) // 2


@pytest.mark.parametrize("content_type", [RAW, "audio/wav"])
def test_a_wav_batch(speech: Pool, content_type: str) -> None:
    """AMI-03, decision 7: by its type, or by its first bytes."""
    status, body, _ = post(speech, SPEECH.read_bytes(), content_type)
    assert status == 200
    assert words_in(body["text"]) & WORDS
    with AudioFile(SPEECH) as file:
        assert body["audio_length_samples"] == sum(len(frame) for frame in file.frames(100)) // 2


@pytest.mark.parametrize(
    "body, content_type, message",
    [
        (b"", RAW, "there is no audio"),
        (bytes(3), RAW, "3 bytes are no whole number of 16-bit samples"),
        (bytes(32_000 * 31), RAW, "31.0 s of audio exceed 30 s"),
        (b"{}", "application/json", "audio_buffer is not a list of bytes"),
        (bytes(2), "text/plain", "Content-Type must be application/octet-stream, audio/wav or application/json"),
        (b"RIFF", RAW, "it is no audio that can be read"),
        (b"", "audio/wav", "it is no audio that can be read"),
    ],
)
def test_a_refused_batch(fake: Pool, body: bytes, content_type: str, message: str) -> None:
    """AMI-13, AMI-29: 400, with the reason."""
    status, answer, _ = post(fake, body, content_type)
    assert status == 400
    assert answer["error"].startswith(message)
    status, answer, _ = post(fake, body, content_type, f"{BATCH}?schema=v1")
    assert (status, answer["status"]) == (400, "ERROR")


def test_a_body_that_is_too_large(fake: Pool) -> None:
    """AMI-15, AMI-28: refused by its announced length, before it is read."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=WAIT_S)
    try:
        connection.putrequest("POST", BATCH)
        connection.putheader("Content-Type", RAW)
        connection.putheader("Content-Length", "10485761")
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 400
        assert json.loads(response.read())["error"] == "the request's body has more than 10485760 bytes"
    finally:
        connection.close()


def test_an_unknown_schema(fake: Pool) -> None:
    """AMI-29."""
    status, body, _ = post(fake, bytes(2), RAW, f"{BATCH}?schema=v7")
    assert (status, body) == (400, {"error": "schema must be v1, or absent", "code": "bad-request"})


def test_every_slot_is_taken() -> None:
    """AMI-29: 503 and when to try again."""
    with Pool(workers=[["--engine=fake", "--slots=1"]]) as pool, websocket(pool.url + STREAM) as socket:
        pool.wait_sessions(1)
        status, body, headers = post(pool, bytes(3200))
        assert (status, body["code"]) == (503, "at-capacity")
        assert int(headers["Retry-After"]) >= 1
        eventually(lambda: json.loads(pool.get("/health/detailed")[1])["status"] == "degraded", "a full pool")
        socket.send(b"\x00")
        rest(socket)


# ---- Health, and the document's own commands ----


def test_health(fake: Pool) -> None:
    """AMI-02."""
    status, body = fake.get("/health")
    assert status == 200
    assert json.loads(body).keys() == {"status", "service", "version"}
    assert json.loads(body)["status"] == "healthy"


def test_detailed_health(fake: Pool) -> None:
    """AMI-02, decision 8."""
    status, body = fake.get("/health/detailed")
    health = json.loads(body)
    assert (status, health["status"]) == (200, "healthy")
    assert health["dependencies"]["broker"] == {"status": "healthy"}
    assert health["dependencies"]["workers"]["count"] == 1
    assert health["dependencies"]["workers"]["models"] == ["fake"]
    assert health["uptime_seconds"] >= 0
    assert (health["max_concurrent_streams"], health["max_concurrent_batches"]) == (10, 50)


def test_detailed_health_without_a_worker() -> None:
    """AMI-02: 503 when something is missing."""
    with Pool(workers=[]) as pool:
        status, body = pool.get("/health/detailed")
        assert (status, json.loads(body)["status"]) == (503, "unhealthy")


def test_nothing_to_reset(fake: Pool) -> None:
    """AMI-32: the route exists; only running batches are counted."""
    assert post(fake, b"", RAW, "/admin/reset-batch-count")[:2] == (200, {"status": "ok", "active_batches": 0})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_commands(speech: Pool) -> None:
    """AMI-02, 03, 08: the document's curl lines, except for the port and the file."""
    url = f"http://127.0.0.1:{speech.port}"
    batch = ["-X", "POST", url + BATCH, "-H", f"Content-Type: {RAW}", "--data-binary", f"@{SPEECH}"]
    assert words_in(json.loads(_curl(*batch))["text"]) & WORDS
    assert json.loads(_curl(url + "/health"))["status"] == "healthy"
    assert json.loads(_curl(url + "/health/detailed"))["status"] == "healthy"
    assert "# TYPE" in _curl(url + "/metrics")


def _curl(*args: str) -> str:
    return subprocess.run(["curl", "-sS", *args], capture_output=True, text=True, timeout=60, check=True).stdout
