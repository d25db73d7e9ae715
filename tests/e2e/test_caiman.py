"""CAIMAN-ASR's dialect, `/asr/v0.1/stream`, through real processes and with the clients that people have.

`websockets` stands for the benchmark's client, `websocket-client` for the simple one. Ids are those of the checklist.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import soundfile
from websocket import ABNF, WebSocket, WebSocketConnectionClosedException, create_connection
from websockets.exceptions import InvalidStatus

from asr_dialects.caiman import SUBPROTOCOL
from tests.e2e.clients import CAIMAN, Caiman, Message, cut, expected, noise, said
from tests.e2e.service import ROOT, Pool

FRAME = 1920
"""60 ms."""
CLIP = ROOT / "tests" / "data" / "speechbrain__spk1_snt1.wav"
PATH = "/asr/v0.1/stream"


def conversation(url: str, frames: list[bytes], path: str = CAIMAN) -> Caiman:
    with Caiman(url, path) as client:
        client.send(*frames)
        client.end()
        return client


@contextmanager
def simple_client(url: str, **options: Any) -> Iterator[WebSocket]:
    """A connection of websocket-client, whose `close` leaves the socket open when the server has closed first."""
    client = create_connection(url, timeout=20, **options)
    try:
        yield client
    finally:
        client.shutdown()


# ---- The way in ----


def test_endpoint(fake: Pool) -> None:
    """CAI-18: the path, with no parameters at all; another path is no such dialect."""
    pcm = noise(1.3)
    client = conversation(fake.url, cut(pcm, FRAME), PATH)
    assert client.text == expected(pcm)
    with pytest.raises(InvalidStatus) as refused, Caiman(fake.url, "/asr/v0.1/streams"):
        pass
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/x-raw;format=S16LE;channels=1;rate=16000",
        "audio/x-raw;rate=16000;format=S16LE;channels=1",
        "audio/x-raw;channels=1;rate=16000;format=S16LE",
        "audio%2Fx-raw%3Bformat%3DS16LE%3Bchannels%3D1%3Brate%3D16000",
    ],
)
def test_content_type_with_raw_semicolons(fake: Pool, content_type: str) -> None:
    """CAI-19: `;` and `/` need no escaping, escaped they mean the same, and the order is free."""
    pcm = noise(0.7)
    client = conversation(fake.url, cut(pcm, FRAME), f"{PATH}?content_type={content_type}")
    assert client.text == expected(pcm)


@pytest.mark.parametrize(
    "query",
    [
        "content_type=audio/wav",
        "content_type=audio/x-raw",
        "content_type=audio/x-raw;format=S16LE;channels=1",
        "content_type=audio/x-raw;format=S16BE;channels=1;rate=16000",
        "content_type=audio/x-raw;format=S16LE;channels=2;rate=16000",
        "content_type=audio/x-raw;format=S16LE;channels=1;rate=8000",
        "content_type=audio/x-raw;format=S16LE;channels=1;rate=16000;codec=opus",
        "model=medical",
        "version=v2",
        "lang=de",
        "alternatives=0",
        "alternatives=-1",
        "alternatives=many",
        "alternatives=1000",
    ],
)
def test_parameters_that_are_refused(fake: Pool, query: str) -> None:
    """CAI-19, CAI-20, CAI-21: HTTP 400 before the upgrade, with a reason that names the parameter."""
    with pytest.raises(InvalidStatus) as refused, Caiman(fake.url, f"{PATH}?{query}"):
        pass
    assert refused.value.response.status_code == 400
    body = refused.value.response.body
    assert body is not None
    assert query.partition("=")[0] in body.decode()


@pytest.mark.parametrize(
    "query", ["model=general&version=latest&lang=en&alternatives=1", "version=v1", "alternatives=7"]
)
def test_parameters_and_their_defaults(fake: Pool, query: str) -> None:
    """CAI-21."""
    pcm = noise(0.3)
    client = conversation(fake.url, [pcm], f"{CAIMAN}&{query}")
    assert client.text == expected(pcm)
    assert all(len(response["alternatives"]) == 1 for response in client.heard)


def test_subprotocol(fake: Pool) -> None:
    """CAI-22: echoed when offered, alone or among others; not there when it was not."""
    for offered, echoed in (
        ([SUBPROTOCOL], SUBPROTOCOL),
        (["chat", SUBPROTOCOL], SUBPROTOCOL),
        (["chat"], None),
        (None, None),
    ):
        with Caiman(fake.url, subprotocols=offered) as client:
            assert client.socket.subprotocol == echoed
            client.end()
    with simple_client(fake.url + CAIMAN, subprotocols=[SUBPROTOCOL]) as simple:
        assert simple.getsubprotocol() == SUBPROTOCOL


# ---- The audio ----


@pytest.mark.parametrize(
    "size", [2, 640, FRAME, 3200, 32_000, 1_000_000, 0], ids=lambda size: f"{size or 'random'} bytes"
)
def test_frames_of_any_length_give_the_same_responses(fake: Pool, size: int) -> None:
    """CAI-23, CAI-31: audio is framed anew to 60 ms, so that only latency depends on the client's frames."""
    pcm = noise(0.5 if size == 2 else 4.13, seed=11)
    client = conversation(fake.url, cut(pcm, size))
    assert client.text == expected(pcm)
    intervals = [(response["start"], response["end"]) for response in client.heard]
    samples = len(pcm) // 2
    edges = [min(edge, samples) for edge in range(0, samples + 960, 960)]
    assert intervals[: len(edges) - 1] == [
        (pytest.approx(start / 16000, abs=1e-3), pytest.approx(end / 16000, abs=1e-3))
        for start, end in itertools.pairwise(edges)
    ]


def test_odd_bytes_are_carried(fake: Pool) -> None:
    """CAI-30."""
    pcm = noise(2.2, seed=12)
    assert conversation(fake.url, cut(pcm, 1919)).text == expected(pcm)
    assert conversation(fake.url, [pcm[:1], pcm[1:2], pcm[2:]]).text == expected(pcm)


def test_an_empty_frame_ends_the_audio_and_the_server_closes(fake: Pool) -> None:
    """CAI-24, CAI-28: the remaining finals come first; the client only waits."""
    pcm = noise(1.9, seed=13)
    with Caiman(fake.url) as client:
        client.send(*cut(pcm, FRAME), b"")
        client.rest()
    assert client.text == expected(pcm)
    assert (client.close_code, client.close_reason) == (1000, "")


def test_no_audio_at_all(fake: Pool) -> None:
    """CAI-28."""
    client = conversation(fake.url, [])
    assert client.heard == []
    assert client.close_code == 1000


def test_text_where_audio_is_due(fake: Pool) -> None:
    """CAI-20: an error after the upgrade is a close frame that says 400."""
    with Caiman(fake.url) as client:
        client.socket.send("hello")
        client.rest()
    assert client.close_code == 4400
    assert client.close_reason.startswith("400 ")


def test_audio_after_its_end(fake: Pool) -> None:
    """CAI-20, CAI-24."""
    with Caiman(fake.url) as client:
        client.send(noise(9.0), b"", noise(0.1))
        client.rest()
    assert client.close_code == 4400
    assert client.close_reason.startswith("400 out-of-order")


# ---- The responses ----


def test_the_schema_of_a_response(fake: Pool) -> None:
    """CAI-25: exactly these fields, `is_provisional` always false, one alternative, and 60 ms each."""
    client = conversation(fake.url, cut(noise(3.0), FRAME))
    for number, response in enumerate(client.heard[:50]):
        assert response.keys() == {"start", "end", "is_provisional", "alternatives"}
        assert response["is_provisional"] is False
        assert response["start"] == pytest.approx(number * 0.06)
        assert response["end"] == pytest.approx(number * 0.06 + 0.06)
        (alternative,) = response["alternatives"]
        assert alternative.keys() == {"transcript", "confidence"}
        assert isinstance(alternative["transcript"], str)
        assert alternative["confidence"] == 1.0


def test_transcripts_are_increments_while_the_client_still_sends(fake: Pool) -> None:
    """CAI-26, CAI-27: text comes before the end of the audio, most responses have none, and together they are all."""
    pcm = noise(5.0, seed=14)
    with Caiman(fake.url) as client:
        client.send(*cut(pcm[:96_000], FRAME))  # three seconds
        for _ in range(50):
            client.hear()
        early = client.text
        client.send(*cut(pcm[96_000:], FRAME))
        client.end()
    assert early
    assert expected(pcm).startswith(early)
    assert client.text == expected(pcm)
    empty = [response for response in client.heard if not response["alternatives"][0]["transcript"]]
    assert len(empty) > len(client.heard) / 2


def lock_step_websockets(url: str, pcm: bytes) -> tuple[list[Message], list[Message], int | None]:
    """What comes one for one, what comes at the end, and the server's close code."""
    with Caiman(url) as client:
        for frame in cut(pcm, FRAME):
            client.send(frame)
            assert client.hear(timeout_s=60) is not None
        sent = len(client.heard)
        client.end()
        return client.heard[:sent], client.heard[sent:], client.close_code


def lock_step_simple(url: str, pcm: bytes) -> tuple[list[Message], list[Message], int | None]:
    """The same with websocket-client."""
    with simple_client(url + CAIMAN) as client:
        together = []
        for frame in cut(pcm, FRAME):
            client.send_binary(frame)
            together.append(json.loads(client.recv()))
        client.send_binary(b"")
        rest: list[Message] = []
        for opcode, data in _until_closed(client):
            if opcode == ABNF.OPCODE_CLOSE:
                return together, rest, int.from_bytes(data[:2])
            rest.append(json.loads(data))
    return together, rest, None


def _until_closed(client: WebSocket) -> Iterator[tuple[int, bytes]]:
    with suppress(WebSocketConnectionClosedException):
        while True:
            opcode, data = client.recv_data(control_frame=True)
            yield opcode, data
            if opcode == ABNF.OPCODE_CLOSE:
                return


LOCK_STEP = [lock_step_websockets, lock_step_simple]


@pytest.mark.parametrize("lock_step", LOCK_STEP)
def test_a_client_in_lock_step_never_stalls(fake: Pool, lock_step: object) -> None:
    """CAI-26: one frame of 60 ms, one response; here the engine's step is 60 ms."""
    assert callable(lock_step)
    pcm = noise(3.0, seed=15)
    together, rest, code = lock_step(fake.url, pcm)
    assert len(together) == 50
    assert said(together + rest) == expected(pcm)
    assert code == 1000


@pytest.mark.parametrize("lock_step", LOCK_STEP)
def test_a_client_in_lock_step_never_stalls_with_longer_steps(speech: Pool, lock_step: object) -> None:
    """CAI-26: the embedded model's steps are longer than 60 ms."""
    assert callable(lock_step)
    pcm = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    pcm = pcm[: len(pcm) // FRAME * FRAME]
    together, rest, code = lock_step(speech.url, pcm)
    assert len(together) == len(pcm) // FRAME
    assert "child" in said(together + rest).lower()
    assert code == 1000


def test_chunking_does_not_change_what_is_understood(speech: Pool) -> None:
    """CAI-31."""
    pcm = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    texts = {conversation(speech.url, cut(pcm, size)).text for size in (640, FRAME, 32_000, 0)}
    assert len(texts) == 1
    assert "child" in texts.pop().lower()


# ---- A full service, and the old port ----


def test_over_capacity() -> None:
    """CAI-29."""
    with Pool(workers=[["--engine=fake", "--slots=2"]]) as pool, Caiman(pool.url) as first, Caiman(pool.url) as second:
        first.send(bytes(FRAME))
        second.send(bytes(FRAME))
        assert first.hear() and second.hear()
        with Caiman(pool.url) as third:
            assert third.rest() == []
        assert third.close_code == 4503
        assert third.close_reason == "503 maximum number of simultaneous connections reached"
        first.end()
        assert first.close_code == 1000
        pool.wait_sessions(1)
        assert conversation(pool.url, [noise(0.5)]).text == expected(noise(0.5))


def test_the_old_port(fake: Pool) -> None:
    """CAI-07, CAI-18: a frontend on port 3030 says so on its stdout, as clients' scripts wait for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 3030))
        except OSError:
            pytest.skip("port 3030 is taken on this machine")
    frontend, port = fake.add_frontend(listen="127.0.0.1:3030")
    frontend.wait_for("^Server started on port 3030$")
    assert frontend.stdout == ["Server started on port 3030"]
    fake.wait_ready(port)
    pcm = noise(0.8)
    assert conversation("ws://localhost:3030", cut(pcm, FRAME)).text == expected(pcm)
    frontend.process.terminate()
    assert frontend.wait() == 0
    fake.programs.remove(frontend)
    frontend.close()
