"""The asyncio session against a real server, and unit tests of the inbox."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

import asr_client
from asr_client import Ack, End, Final, Flushed, Migrating, Partial
from asr_client.inbox import PENDING_EVENTS_MAX, Inbox
from asr_client.upload import paced
from asr_proto.errors import AsrError, DecodeError
from tests.client.dialect_server import Script, serving

SECOND = bytes(32_000)


async def everything(url: str, *pieces: bytes, **options: object) -> list[asr_client.Event]:
    async with asr_client.connect(url, **options) as session:  # type: ignore[arg-type]
        for piece in pieces:
            await session.send(piece)
        await session.stop()
        return [event async for event in session]


def finals(events: list[asr_client.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


def test_audio_becomes_events_up_to_the_end() -> None:
    script = Script()
    with serving(script) as url:
        events = asyncio.run(everything(url, SECOND, SECOND[:16_001], SECOND[:7_999]))
    assert finals(events) == ["word0", "word1"]
    assert events[0] == Partial(0, 0, "wor", 0.0, 1.0)
    assert events[-1] == End("stopped")
    assert sum(map(len, script.audio)) == 32_000 + 24_000
    assert script.paths == ["/v1/stream"]


def test_start_has_only_the_fields_that_were_given() -> None:
    script = Script()
    with serving(script) as url:
        asyncio.run(everything(url))
        asyncio.run(everything(f"{url}/v1/stream", model="big", language="de", sample_rate=8000, partials=False))
    assert script.starts == [
        {"type": "start", "sample_rate": 16000, "partials": True},
        {"type": "start", "model": "big", "language": "de", "sample_rate": 8000, "partials": False},
    ]


def test_ready_is_known_when_the_session_opens() -> None:
    async def ready(url: str) -> asr_client.Ready:
        async with asr_client.connect(url, model="big", sample_rate=8000) as session:
            return session.ready

    with serving() as url:
        assert asyncio.run(ready(url)) == asr_client.Ready("s-1", "big", "en", 8000, "fake")


def test_flush_and_keepalive() -> None:
    async def run(url: str) -> list[asr_client.Event]:
        async with asr_client.connect(url, partials=False) as session:
            await session.keepalive()
            await session.send(SECOND[:16_000])
            await session.flush("markiert ü")
            answer = []
            async for event in session:
                answer.append(event)
                if isinstance(event, Flushed):
                    return answer
        raise AssertionError("no flushed")

    script = Script()
    with serving(script) as url:
        events = asyncio.run(run(url))
    assert finals(events) == ["word0"]
    assert events[-1] == Flushed("markiert ü")
    assert script.keepalives == 1


def test_long_audio_is_cut_into_frames_and_arrives_whole() -> None:
    script = Script(partials_per_frame=0)
    audio = bytes(range(256)) * 4_000
    with serving(script) as url:
        asyncio.run(everything(url, memoryview(bytearray(audio)).cast("h")))  # type: ignore[arg-type]
    assert b"".join(script.audio) == audio
    assert max(map(len, script.audio)) <= 32_768


def test_an_upload_that_reads_nothing_until_it_has_sent_all_does_not_deadlock() -> None:
    """The server writes 30 partials for each frame, and reads no further until they are sent."""
    script = Script(partials_per_frame=30)
    with serving(script) as url:
        events = asyncio.run(asyncio.wait_for(everything(url, *[SECOND] * 600), 30))
    assert finals(events) == [f"word{n}" for n in range(600)]
    assert len(events) < 600 * 30 * 0.8  # superseded partials were dropped, and nothing else


def test_send_waits_while_the_server_does_not_read() -> None:
    async def run(url: str, script: Script) -> tuple[bool, list[asr_client.Event]]:
        async with asr_client.connect(url, partials=False) as session:
            sending = asyncio.create_task(session.send(bytes(64_000_000)))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            script.take_audio.set()
            await sending
            await session.stop()
            return bool(done), [event async for event in session]

    script = Script()
    script.take_audio.clear()
    with serving(script) as url:
        sent_at_once, events = asyncio.run(run(url, script))
    assert not sent_at_once
    assert len(finals(events)) == 2000


def test_closing_while_the_server_does_not_read_ends_soon() -> None:
    async def run(url: str) -> None:
        async with asr_client.connect(url) as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.send(bytes(64_000_000)), 0.1)

    script = Script()
    script.take_audio.clear()
    with serving(script) as url:
        begun = time.monotonic()
        asyncio.run(run(url))
        assert time.monotonic() - begun < 15


def test_leaving_without_stop_leaves_the_server() -> None:
    async def leave(url: str) -> None:
        async with asr_client.connect(url) as session:
            await session.send(SECOND)

    script = Script()
    with serving(script) as url:
        asyncio.run(leave(url))
        assert script.left.wait(30)


def test_a_refusal_is_raised_from_connect() -> None:
    refusal = {"code": "at-capacity", "message": "every slot is taken", "retry_after_s": 3.0}
    with serving(Script(refuse=refusal)) as url, pytest.raises(asr_client.ServerError) as caught:
        asyncio.run(everything(url))
    assert (caught.value.code, caught.value.retry_after_s) == ("at-capacity", 3.0)
    assert str(caught.value) == "every slot is taken (at-capacity)"


def test_a_lost_session_is_raised_after_the_events_before_it() -> None:
    async def run(url: str) -> tuple[list[asr_client.Event], asr_client.ServerError]:
        events = []
        async with asr_client.connect(url, partials=False) as session:
            await session.send(SECOND)
            with pytest.raises(asr_client.ServerError) as caught:
                async for event in session:
                    events.append(event)
            with pytest.raises(asr_client.ServerError):
                await session.send(SECOND)
        return events, caught.value

    with serving(Script(fail_after_s=1.0)) as url:
        events, error = asyncio.run(run(url))
    assert events == [
        Final(0, 0, "word0", 0.0, 1.0, "silence", (asr_client.Word("word0", 0.0, 1.0),)),
        Ack(16_000, 16_000),
        Migrating(),
    ]
    assert (error.code, error.retry_after_s) == ("session-lost", 2.5)


def test_a_server_that_goes_away_is_a_lost_connection() -> None:
    with serving(Script(vanish_after_s=0.5)) as url, pytest.raises(asr_client.ConnectionLost) as caught:
        asyncio.run(everything(url, *[SECOND] * 2))
    assert caught.value.close_code == 1001
    assert "restarting" in str(caught.value)


def test_a_server_that_is_never_ready_is_not_waited_for() -> None:
    with serving(Script(ready_first=False)) as url, pytest.raises(asr_client.ConnectionLost, match=r"within 0\.1 s"):
        asyncio.run(everything(url, ready_timeout_s=0.1))


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(asr_client.ConnectionFailed) as caught:
        asyncio.run(everything(f"127.0.0.1:{port}"))
    assert str(caught.value) == f"no server answers at ws://127.0.0.1:{port}/v1/stream"


def test_a_server_that_accepts_and_sends_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(asr_client.ConnectionFailed, match="within"):
        asyncio.run(everything(f"127.0.0.1:{silent.getsockname()[1]}", open_timeout_s=0.2))


class _Forbidding(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"go off")

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def forbidding() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Forbidding) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_http_answer_is_a_refusal_with_its_text(forbidding: str) -> None:
    with pytest.raises(asr_client.ServerError) as caught:
        asyncio.run(everything(forbidding))
    assert (caught.value.code, caught.value.message) == ("http-403", "go off")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/stream"),
        ("127.0.0.1:8000", "ws://127.0.0.1:8000/v1/stream"),
        ("localhost", "ws://localhost/v1/stream"),
        ("http://host:1/", "ws://host:1/v1/stream"),
        ("https://host", "wss://host/v1/stream"),
        ("wss://host/speech/v1/stream?tenant=a", "wss://host/speech/v1/stream?tenant=a"),
        ("ws://[::1]:8000", "ws://[::1]:8000/v1/stream"),
    ],
)
def test_urls(given: str, meant: str) -> None:
    assert asr_client.stream_url(given) == meant


@pytest.mark.parametrize("given", ["", "ftp://host", "ws://", "ws://host:port", "ws://host:99999", "ws://[::1"])
def test_invalid_urls(given: str) -> None:
    with pytest.raises(asr_client.InvalidUrl):
        asr_client.stream_url(given)


def test_a_message_of_no_dialect_is_a_decode_error() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def chat(peer: ServerConnection) -> None:
        await peer.recv()
        await peer.send(json.dumps({"type": "ack", "samples": "many"}))
        await peer.wait_closed()

    async def run() -> None:
        async with serve(chat, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await everything(f"127.0.0.1:{port}")

    with pytest.raises(DecodeError):
        asyncio.run(run())


def test_upload_ends_with_the_error_of_its_frames() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield SECOND
        raise asr_client.AudioError("it is damaged")

    async def run(url: str) -> None:
        async with asr_client.connect(url) as session:
            await asr_client.upload(session, frames())

    with serving() as url, pytest.raises(asr_client.AudioError):
        asyncio.run(run(url))


def test_upload_collects_the_finals() -> None:
    seen: list[asr_client.Event] = []

    async def run(url: str) -> asr_client.Transcript:
        async with asr_client.connect(url) as session:
            return await asr_client.upload(session, paced([SECOND] * 3, 1.0, 0), seen.append)

    with serving() as url:
        transcript = asyncio.run(run(url))
    assert transcript.text == "word0 word1 word2"
    assert seen[-1] == End("stopped")


def test_paced_frames_arrive_in_real_time() -> None:
    async def arrivals() -> list[float]:
        clock = asyncio.get_running_loop().time
        begun = clock()
        return [clock() - begun async for _ in paced([b""] * 4, frame_s=0.1, speed=2.0)]

    times = asyncio.run(arrivals())
    assert all(due <= at < due + 0.15 for due, at in zip([0.05, 0.1, 0.15, 0.2], times, strict=True)), times


def test_the_inbox_drops_only_what_is_superseded() -> None:
    async def run() -> list[asr_client.Event]:
        inbox = Inbox()
        for n in range(10 * PENDING_EVENTS_MAX):
            inbox.put(Partial(n, n // 10, "", 0, 0))
            inbox.put(Ack(n, 0))
            if n % 10 == 9:
                inbox.put(Final(n, n // 10, "", 0, 0, "silence"))
        inbox.close()
        assert len(inbox) < 4 * PENDING_EVENTS_MAX
        return [event async for event in _drained(inbox)]

    events = asyncio.run(run())
    assert [e.utterance for e in events if isinstance(e, Final)] == list(range(PENDING_EVENTS_MAX))
    assert [e.samples for e in events if isinstance(e, Ack)][-1] == 10 * PENDING_EVENTS_MAX - 1


async def _drained(inbox: Inbox) -> AsyncIterator[asr_client.Event]:
    while (event := await inbox.get()) is not None:
        yield event


def test_the_first_close_of_an_inbox_counts() -> None:
    inbox = Inbox()
    inbox.put(Migrating())
    inbox.close(AsrError("first"))
    inbox.close()
    assert asyncio.run(inbox.get()) == Migrating()
    for _ in range(2):
        with pytest.raises(AsrError, match="first"):
            asyncio.run(inbox.get())


def test_importing_the_library_stays_light() -> None:
    heavy = {"rich", "soundfile", "soxr", "click", "sounddevice"}
    program = f"import sys, asr_client; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
