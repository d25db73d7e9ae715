"""One connection: what its client receives and in which order, and when it is read from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from asr_dialects.native import PATH
from asr_frontends import events as e
from asr_frontends.codec import Close, Request
from asr_frontends.dialects.deepgram.codec import DeepgramCodec
from asr_frontends.dialects.native.codec import NativeCodec
from asr_frontends.frontend import Frontend
from asr_frontends.servers import conversation as module
from asr_frontends.servers.conversation import OUTBOX_BYTES_MAX, Conversation, Receiver
from asr_proto import messages as m
from asr_proto.errors import AsrError, BadRequest, LimitExceeded, ServiceError

START = '{"type":"start"}'
AUDIO = b"\1\0" * 320
READY = e.Ready("s", "fake", "fake", 960)


class Transport:
    """A Transport that keeps the written messages and accepts them while it is writable."""

    def __init__(self) -> None:
        self.receiver: Receiver | None = None
        self.writable = True
        self.paused = False
        self.calls: list[str] = []
        self.written: list[str | bytes] = []
        self.closed: Close | None = None
        self.started = asyncio.Event()

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.started.set()

    def pause(self) -> None:
        self.calls.append("pause")
        self.paused = True

    def resume(self) -> None:
        self.calls.append("resume")
        self.paused = False

    def can_write(self) -> bool:
        return self.writable

    def write(self, frame: str | bytes) -> None:
        assert self.writable
        self.written.append(frame)

    async def finish(self, close: Close) -> None:
        self.closed = close

    def types(self) -> list[str]:
        return [json.loads(frame)["type"] for frame in self.written]

    def texts(self) -> list[str]:
        return [json.loads(frame)["text"] for frame in self.written]


class FakeFrontend:
    """Records what a conversation does with its session."""

    def __init__(self) -> None:
        self.listener: Conversation | None = None
        self.refusal: AsrError | None = None
        self.events: list[tuple[str, e.ClientEvent]] = []
        self.failures: list[str] = []

    def open(self, start: e.Start, listener: Conversation) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.listener = listener
        return "s"

    def client(self, id: str, event: e.ClientEvent) -> None:
        self.events.append((id, event))

    def fail(self, id: str, error: AsrError) -> None:
        self.failures.append(error.slug)
        assert self.listener is not None
        self.listener.deliver(e.Error.of(error))


class Served:
    def __init__(self) -> None:
        self.transport, self.frontend = Transport(), FakeFrontend()
        codec = NativeCodec(Request(PATH))
        self.connection = Conversation(codec, cast(Frontend, self.frontend), self.transport)

    def start(self) -> None:
        """The client starts its session, which gets its slot."""
        self.connection.on_frame(START)
        self.connection.deliver(READY)

    def fill(self) -> None:
        """Deliver finals until one more would exceed the limit."""
        self.transport.writable = False
        for utterance in range(OUTBOX_BYTES_MAX // 50_000 + 1):
            self.connection.deliver(final(utterance, "x" * 50_000))


def final(utterance: int, text: str = "text") -> m.Final:
    return m.Final(1, utterance, text, 0, 320, "silence", None, None, m.Commit(320, utterance + 1, b""))


def partial(text: str) -> m.Partial:
    return m.Partial(1, 0, text, 0, 320)


def run(test: Callable[[Served], Awaitable[None]]) -> None:
    """Run a test at the same time as the conversation's `run`, which must end."""

    async def main() -> None:
        served = Served()
        running = asyncio.create_task(served.connection.run())
        await served.transport.started.wait()
        async with asyncio.timeout(30):
            await test(served)
            served.connection.on_gone(broken=False)
            await running

    asyncio.run(main())


def test_the_audio_in_the_codec_is_passed_on_when_the_server_stops() -> None:
    async def main() -> None:
        transport, frontend = Transport(), FakeFrontend()
        codec = DeepgramCodec(Request("/v1/listen", "encoding=linear16&sample_rate=8000"))
        connection = Conversation(codec, cast(Frontend, frontend), transport)
        running = asyncio.create_task(connection.run())
        await transport.started.wait()
        connection.on_frame(bytes(16_000))
        connection.leave()
        assert sum(len(event.pcm) for _, event in frontend.events if isinstance(event, e.Audio)) == 32_000
        connection.on_gone(broken=False)
        await running

    asyncio.run(main())


# ---- Writing ----


def test_a_message_that_can_be_written_is_written_immediately() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.deliver(partial("a"))
        assert served.transport.types() == ["ready", "partial"]
        assert served.connection._outbox == []

    run(test)


def test_messages_that_cannot_be_written_wait_in_order() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.transport.writable = False
        for utterance, text in enumerate("abc"):
            served.connection.deliver(final(utterance, text))
        assert served.transport.types() == ["ready"]
        served.transport.writable = True
        served.connection.deliver(final(3, "d"))  # it must not overtake those that wait
        served.connection.on_writable()
        assert served.transport.types() == ["ready", "final", "final", "final", "final"]
        assert [json.loads(frame)["text"] for frame in served.transport.written[1:]] == ["a", "b", "c", "d"]
        assert served.connection._outbox_bytes == 0

    run(test)


def test_writing_stops_where_the_transport_is_full_again() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.transport.writable = False
        for utterance in range(3):
            served.connection.deliver(final(utterance))
        served.transport.writable = True
        write = served.transport.write

        def write_one(frame: str | bytes) -> None:
            write(frame)
            served.transport.writable = False

        served.transport.write = write_one  # type: ignore[method-assign]
        served.connection.on_writable()
        assert served.transport.types() == ["ready", "final"]
        assert served.connection._outbox_bytes == sum(len(one.frame) for one in served.connection._outbox) > 0

    run(test)


def test_the_newest_partial_replaces_an_unsent_one() -> None:
    """A final between two partials keeps both; a final is never replaced."""

    async def test(served: Served) -> None:
        served.start()
        served.transport.written.clear()
        served.transport.writable = False
        for event in (partial("a"), partial("b"), final(0, "c"), final(1, "d"), partial("e"), partial("f")):
            served.connection.deliver(event)
        assert served.connection._outbox_bytes == sum(len(one.frame) for one in served.connection._outbox)
        served.transport.writable = True
        served.connection.on_writable()
        assert served.transport.texts() == ["b", "c", "d", "f"]

    run(test)


def test_the_newest_progress_replaces_an_unsent_one_but_no_partial() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.transport.writable = False
        for event in (partial("a"), e.Progress(1, 1, 1, 0), e.Progress(2, 2, 2, 0)):
            served.connection.deliver(event)
        served.transport.writable = True
        served.connection.on_writable()
        assert served.transport.types() == ["ready", "partial", "ack"]

    run(test)


# ---- A client that reads slowly ----


def test_a_slow_reader_is_closed_with_a_reason() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.fill()
        assert served.frontend.failures == [] and not served.connection.is_ending
        served.connection.deliver(final(99))
        assert served.frontend.failures == ["slow-reader"]
        assert served.connection.is_ending
        served.transport.writable = True
        served.connection.on_writable()
        assert served.transport.types() == ["ready", "error"]  # the waiting messages are dropped
        await asyncio.wait_for(served.connection._over, 10)

    run(test)


def test_one_long_text_alone_is_no_slow_reader() -> None:
    """The limit counts the messages that waited before it."""

    async def test(served: Served) -> None:
        served.start()
        served.transport.writable = False
        served.connection.deliver(final(0, "x" * (OUTBOX_BYTES_MAX + 1)))
        assert served.frontend.failures == []

    run(test)


def test_a_slow_reader_whose_session_is_over_is_closed_with_a_reason_too() -> None:
    async def test(served: Served) -> None:
        served.fill()  # no session has begun: the frontend has nothing to fail
        served.connection.deliver(final(99))
        assert served.frontend.failures == [] and served.connection.is_ending
        served.transport.writable = True
        served.connection.on_writable()
        assert served.transport.types() == ["error"]
        assert json.loads(served.transport.written[-1])["code"] == "slow-reader"

    run(test)


# ---- Credit ----


def test_a_client_that_may_not_send_is_not_read_from() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.on_frame(AUDIO)
        assert served.transport.calls == []
        served.connection.pause()
        assert served.transport.calls == ["pause"]
        served.connection.credit()
        assert served.transport.calls == ["pause"]  # a message may be being handed over
        await asyncio.sleep(0)
        assert served.transport.calls == ["pause", "resume"]

    run(test)


def test_a_pause_after_the_credit_of_the_same_turn_wins() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.pause()
        served.connection.credit()
        served.connection.pause()
        await asyncio.sleep(0)
        assert served.transport.paused
        served.connection.credit()
        await asyncio.sleep(0)
        assert not served.transport.paused

    run(test)


# ---- The session ----


def test_a_clients_events_go_to_its_session() -> None:
    async def test(served: Served) -> None:
        served.connection.on_frame(START)
        served.connection.on_frame(AUDIO)
        assert served.frontend.events == [("s", e.Audio(AUDIO))]

    run(test)


def test_a_session_that_cannot_be_opened_is_an_error_for_the_client() -> None:
    async def test(served: Served) -> None:
        served.frontend.refusal = ServiceError("none", slug="no-broker")
        served.connection.on_frame(START)
        assert served.transport.types() == ["error"]
        assert served.connection.is_ending

    run(test)


def test_a_client_that_breaks_its_dialect_fails_its_session() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.on_frame("no message")
        assert served.frontend.failures == ["bad-message"]
        assert served.transport.types() == ["ready", "error"]

    run(test)


def test_without_a_session_the_client_receives_the_error_itself() -> None:
    async def test(served: Served) -> None:
        served.connection.on_frame("no message")
        assert served.frontend.failures == []
        assert served.transport.types() == ["error"]
        served.connection.on_frame(START)
        assert served.frontend.listener is None  # nothing begins after the close

    run(test)


def test_a_slow_reader_whose_frontend_has_ended_its_session_receives_the_error_too() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.frontend.fail = lambda id, error: None  # type: ignore[method-assign, assignment, misc]
        served.fill()
        served.connection.deliver(final(99))
        served.transport.writable = True
        served.connection.on_writable()
        assert served.transport.types() == ["ready", "error"]

    run(test)


@pytest.mark.parametrize("last", [e.Bye(), e.Error("idle-timeout", "why")])
def test_nothing_is_sent_or_read_after_the_close(last: e.ServiceEvent) -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.deliver(last)
        count = len(served.transport.written)
        served.connection.deliver(final(0))
        served.connection.deliver(e.Error("idle-timeout", "again"))
        served.connection.on_frame(AUDIO)
        assert len(served.transport.written) == count
        assert served.frontend.events == []

    run(test)


def test_the_transport_is_finished_with_the_close_once_all_is_written() -> None:
    async def main() -> None:
        served = Served()
        running = asyncio.create_task(served.connection.run())
        await served.transport.started.wait()
        served.start()
        served.transport.writable = False
        served.connection.deliver(final(0))
        served.connection.deliver(e.Bye())
        await asyncio.sleep(0)
        assert served.transport.closed is None and not running.done()
        served.transport.writable = True
        served.connection.on_writable()
        await asyncio.wait_for(running, 10)
        assert served.transport.types() == ["ready", "final", "end"]
        assert served.transport.closed == Close(1000)
        assert served.frontend.events == []  # the session was over

    asyncio.run(main())


def test_the_wait_for_a_client_that_does_not_read_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.01)

    async def main() -> None:
        served = Served()
        running = asyncio.create_task(served.connection.run())
        await served.transport.started.wait()
        served.start()
        served.transport.writable = False
        served.connection.deliver(e.Bye())
        await asyncio.wait_for(running, 10)
        assert served.transport.closed is None

    asyncio.run(main())


@pytest.mark.parametrize(("broken", "event"), [(True, e.Detach()), (False, e.Abort())])
def test_the_session_of_a_client_that_is_gone(broken: bool, event: e.ClientEvent) -> None:
    """The first report counts: a close frame is followed by the end of the socket."""

    async def main() -> None:
        served = Served()
        running = asyncio.create_task(served.connection.run())
        await served.transport.started.wait()
        served.start()
        served.connection.on_gone(broken=broken)
        served.connection.on_gone(broken=not broken)
        await asyncio.wait_for(running, 10)
        assert served.frontend.events == [("s", event)]

    asyncio.run(main())


def test_a_client_that_starts_no_session_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S_MAX", 0.01)

    async def main() -> None:
        served = Served()
        await asyncio.wait_for(served.connection.run(), 10)
        assert json.loads(served.transport.written[0])["code"] == "idle-timeout"

    asyncio.run(main())


def test_a_client_that_has_started_its_session_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection._on_no_start()
        assert served.frontend.failures == [] and served.transport.types() == ["ready"]

    run(test)


def test_a_refused_client_receives_the_reason() -> None:
    async def main() -> None:
        served = Served()
        await asyncio.wait_for(served.connection.refuse(BadRequest("no")), 10)
        message: dict[str, Any] = json.loads(served.transport.written[0])
        assert (message["type"], message["code"]) == ("error", BadRequest("no").slug)
        assert served.transport.closed is not None and served.frontend.listener is None

    asyncio.run(main())


def test_an_error_of_the_server_ends_the_session() -> None:
    async def test(served: Served) -> None:
        served.start()
        served.connection.fail(LimitExceeded("too much", slug="idle-timeout"))
        assert served.frontend.failures == ["idle-timeout"]

    run(test)
