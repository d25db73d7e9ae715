"""The frontend's shell performs the core's commands, here with links that keep the sent messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from asr_frontends import events as e
from asr_frontends import frontend as module
from asr_frontends.frontend import Frontend
from asr_frontends.outbox import BUNDLE_S
from asr_frontends.session import Limits
from asr_process import curve
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import LimitExceeded, ServiceError

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
AUDIO = e.Audio(b"\1\0" * 320)
SECOND = e.Audio(b"\1\0" * 16000)


class KeptLink:
    """A link that keeps the sent messages for its test."""

    def __init__(self, on_message: Callable[[list[bytes]], None], on_change: Callable[[bool], None]) -> None:
        self.on_message, self.on_change = on_message, on_change
        self.sent: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.is_full = False
        self.is_closed = False

    def send(self, parts: list[bytes]) -> bool:
        if not self.is_full:
            self.sent.put_nowait(parts)
        return not self.is_full

    def close(self) -> None:
        self.is_closed = True

    def receive(self, message: m.Message, *frames: m.Frame) -> None:
        self.on_message([wire.encode(message), wire.encode_frames(frames)] if frames else [wire.encode(message)])

    async def next(self, kind: type[m.Message]) -> tuple[m.Message, list[m.Frame]]:
        """The next message of that kind; earlier messages of other kinds are skipped."""
        while not isinstance(message := wire.decode((parts := await self.sent.get())[0]), kind):
            pass
        return message, wire.decode_frames(parts[1]) if isinstance(message, m.Bundle) else []

    def kinds(self) -> list[type]:
        """The types of the messages that were sent and not taken yet."""
        kinds: list[type] = []
        while not self.sent.empty():
            kinds.append(type(wire.decode(self.sent.get_nowait()[0])))
        return kinds


class Client:
    """A listener that keeps what it receives."""

    def __init__(self) -> None:
        self.events: list[e.ServiceEvent] = []
        self.steering: list[str] = []
        self.over = asyncio.Event()

    def deliver(self, event: e.ServiceEvent) -> None:
        self.events.append(event)
        if isinstance(event, e.Error | e.Bye):
            self.over.set()

    def pause(self) -> None:
        self.steering.append("pause")

    def credit(self) -> None:
        self.steering.append("credit")

    def leave(self) -> None:
        self.steering.append("leave")

    def slugs(self) -> list[str]:
        return [event.slug for event in self.events if isinstance(event, e.Error)]


class Served:
    """A frontend that its broker has welcomed."""

    def __init__(self, limits: Limits, brokers: int = 1) -> None:
        self.links: list[KeptLink] = []
        at = [curve.BrokerAt(f"ipc://{number}") for number in range(brokers)]
        self.frontend = Frontend(at, "f", limits, 1 << 24, self._make)
        self.link = self.links[0]
        self.link.receive(m.Welcome(1, 1000.0))
        self.link.receive(m.Pool(1, 2, 2, ("fake",)))
        self._leases = 0

    def _make(
        self, broker: curve.BrokerAt, on_message: Callable[[list[bytes]], None], on_change: Callable[[bool], None]
    ) -> KeptLink:
        self.links.append(KeptLink(on_message, on_change))
        return self.links[-1]

    async def open_session(self, start: e.Start = e.Start()) -> tuple[str, Client]:  # noqa: B008 - immutable
        """A client whose session has its slot."""
        client = Client()
        id = self.frontend.open(start, client)
        await self.link.next(m.Open)
        self._leases += 1
        self.link.receive(m.Pinned(id, 0, self._leases, b"W", SPEC))
        assert client.events == [e.Ready(id, "fake", "fake", 960)]
        client.events.clear()
        return id, client


def run(test: Callable[[Served], Awaitable[None]], limits: Limits | None = None, brokers: int = 1) -> None:
    async def main() -> None:
        served = Served(limits or Limits(), brokers)
        async with asyncio.timeout(30):
            await test(served)
        served.frontend.close()
        assert all(link.is_closed for link in served.links)

    asyncio.run(main())


def test_frames_of_several_sessions_leave_in_one_bundle() -> None:
    async def test(served: Served) -> None:
        one, _ = await served.open_session()
        two, _ = await served.open_session()
        for id in (one, two, one):
            served.frontend.client(id, AUDIO)
        served.frontend.client(one, e.Flush("x"))
        assert served.link.sent.empty()
        assert served.frontend._timer_at <= asyncio.get_running_loop().time() + BUNDLE_S
        bundle, frames = await served.link.next(m.Bundle)
        assert bundle == m.Bundle(b"W", (1, 2))
        assert frames == [m.Audio(1, 0, AUDIO.pcm * 2), m.Audio(2, 0, AUDIO.pcm), m.Flush(1, "x")]

    run(test)


def test_frames_leave_before_a_later_message_to_the_broker() -> None:
    async def test(served: Served) -> None:
        id, _ = await served.open_session(e.Start(resumable=True))
        served.frontend.client(id, AUDIO)
        served.frontend.client(id, e.Detach())
        assert served.link.kinds() == [m.Bundle, m.Detach]

    run(test)


def test_a_bundle_too_large_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLE_BYTES_MAX", 25_000)
    audio = e.Audio(bytes(10_000))

    async def test(served: Served) -> None:
        id, _ = await served.open_session()
        for _ in range(4):
            served.frontend.client(id, audio)
        parts = [(await served.link.next(m.Bundle))[1] for _ in range(2)]
        assert [[frame.first_sample for frame in part if isinstance(frame, m.Audio)] for part in parts] == [
            [0, 5000],
            [10_000, 15_000],
        ]

    run(test)


def test_a_bundle_of_one_frame_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLE_BYTES_MAX", 10)

    async def test(served: Served) -> None:
        id, _ = await served.open_session()
        served.frontend.client(id, AUDIO)
        assert (await served.link.next(m.Bundle))[1] == [m.Audio(1, 0, AUDIO.pcm)]

    run(test)


def test_without_a_leader_frames_are_dropped_and_sent_again_later() -> None:
    """The journal holds them."""

    async def test(served: Served) -> None:
        id, client = await served.open_session()
        served.frontend.client(id, AUDIO)
        served.link.receive(m.Unregistered())
        assert client.events == [e.Notice()]
        await served.link.next(m.RegisterFrontend)
        served.link.receive(m.Welcome(2, 1000.0))
        opening, _ = await served.link.next(m.Open)
        assert isinstance(opening, m.Open) and opening.epoch == 1
        served.link.receive(m.Pinned(id, 1, 9, b"V", SPEC))
        assert await served.link.next(m.Bundle) == (m.Bundle(b"V", (9,)), [m.Audio(9, 0, AUDIO.pcm)])

    run(test)


def test_a_client_is_paused_and_receives_its_credit_again() -> None:
    async def test(served: Served) -> None:
        id, client = await served.open_session()
        served.frontend.client(id, SECOND)
        assert client.steering == ["pause"]
        served.link.receive(m.Bundle(b"F", (1,)), m.Progress(1, 16000, 16000, None))
        assert client.steering == ["pause", "credit"]

    run(test, Limits(credit_s=1.0))


def test_what_a_worker_sends_is_delivered() -> None:
    async def test(served: Served) -> None:
        id, client = await served.open_session()
        served.frontend.client(id, AUDIO)
        await served.link.next(m.Bundle)
        partial = m.Partial(1, 0, "text", 0, 320)
        served.link.receive(m.Bundle(b"F", (1,)), partial, m.Ended(1))
        assert client.events == [partial, e.Bye()]
        assert served.frontend._listeners == {}
        assert m.Close not in served.link.kinds()  # leases can wait for a turn of the loop
        assert (await served.link.next(m.Close))[0] == m.Close(1)
        served.frontend.client(id, AUDIO)
        assert len(served.frontend.sessions) == 0

    run(test)


@pytest.mark.parametrize("parts", [[b"\xc1"], [wire.encode(m.Bundle(b"F", (1,))), b"\xc1"]])
def test_an_undecodable_message_changes_nothing(parts: list[bytes]) -> None:
    async def test(served: Served) -> None:
        _, client = await served.open_session()
        served.link.on_message(parts)
        assert client.events == [] and len(served.frontend.sessions) == 1

    run(test)


def test_a_full_queue_means_that_the_broker_has_dropped_the_sessions() -> None:
    async def test(served: Served) -> None:
        id, client = await served.open_session()
        served.link.kinds()
        served.link.is_full = True
        served.frontend.fail(id, LimitExceeded("why", slug="idle-timeout"))
        assert client.slugs() == ["idle-timeout"]
        other = Client()
        served.frontend.open(e.Start(), other)
        served.link.is_full = False
        await asyncio.sleep(0)  # in the next turn, and not when the broker has been silent for 10 s
        assert not served.frontend.sessions.registered
        await served.link.next(m.RegisterFrontend)

    run(test)


def test_a_connection_that_breaks_and_comes_back() -> None:
    """With two brokers, the sessions move to the one that sends a Welcome."""

    async def test(served: Served) -> None:
        first, second = served.links
        _, client = await served.open_session()
        second.receive(m.Standby(2))
        first.on_change(False)
        assert client.events == [e.Notice()] and not served.frontend.connected()
        second.receive(m.Welcome(2, 1000.0, 2))
        assert isinstance((await second.next(m.Open))[0], m.Open)
        first.kinds()
        first.on_change(True)
        assert first.kinds() == [m.RegisterFrontend]

    run(test, brokers=2)


def test_a_client_that_returns_before_its_old_connection_broke() -> None:
    async def test(served: Served) -> None:
        id, old = await served.open_session(e.Start(resumable=True))
        new = Client()
        assert served.frontend.open(e.Start(resumable=True, resume=e.Resume(id, 0)), new) == id
        assert old.slugs() == ["session-lost"] and new.events == []
        assert served.link.kinds() == [m.Detach, m.Resume]
        served.link.receive(m.Pinned(id, 0, 7, b"W", SPEC, resumed=True))
        served.link.receive(m.Bundle(b"F", (7,)), m.Resumed(7, None))
        assert new.events == [e.Ready(id, "fake", "fake", 960, 0)] and len(old.events) == 1

    run(test)


def test_ready_is_a_free_slot_and_no_drain() -> None:
    async def test(served: Served) -> None:
        assert served.frontend.ready() and served.frontend.connected()
        await served.frontend.drain(1.0)
        assert not served.frontend.ready() and served.frontend.connected()
        with pytest.raises(ServiceError) as error:
            served.frontend.open(e.Start(), Client())
        assert error.value.slug == e.GOING_AWAY

    run(test)


def test_a_drain_waits_for_sessions_that_end_by_themselves() -> None:
    async def test(served: Served) -> None:
        id, client = await served.open_session()
        draining = asyncio.create_task(served.frontend.drain(600.0))
        await asyncio.sleep(0)
        assert client.events == [e.GoAway(600.0)] and not draining.done()
        served.frontend.client(id, e.Abort())
        await draining

    run(test)


def test_a_drain_ends_the_audio_of_those_that_remain_then_fails_them() -> None:
    async def test(served: Served) -> None:
        _, left = await served.open_session()
        _, stays = await served.open_session()
        draining = asyncio.create_task(served.frontend.drain(0.04))
        _, frames = await served.link.next(m.Bundle)
        assert frames == [m.Stop(1), m.Stop(2)]
        assert left.steering == stays.steering == ["leave", "pause"]
        served.link.receive(m.Bundle(b"F", (1,)), m.Ended(1))
        await draining
        assert left.events[-1] == e.Bye(e.GOING_AWAY) and stays.slugs() == [e.GOING_AWAY]

    run(test)


def test_a_drain_waits_to_its_end_for_a_client_that_has_ended_its_audio() -> None:
    """Its texts and its normal end may come until then. A client that can resume is then left to another frontend."""

    async def test(served: Served) -> None:
        ids = [await served.open_session(), await served.open_session(e.Start(resumable=True))]
        for id, _ in ids:
            served.frontend.client(id, e.Stop())
        draining = asyncio.create_task(served.frontend.drain(0.04))
        await served.link.next(m.Bundle)
        served.link.receive(m.Bundle(b"F", (1,)), m.Ended(1))
        await draining
        (_, ended), (_, resumable) = ids
        assert ended.events[-1] == e.Bye() and resumable.events == [e.GoAway(0.0), e.Bye(e.GOING_AWAY)]
        assert m.Detach in served.link.kinds()

    run(test)


def test_a_drain_never_cuts_an_upload_short() -> None:
    """All its audio is here. If its text does not come in time it fails: a part of the text is never its answer."""

    async def test(served: Served) -> None:
        _, upload = await served.open_session(e.Start(whole=True))
        await served.frontend.drain(0.04)
        assert upload.slugs() == [e.GOING_AWAY] and m.Bundle not in served.link.kinds()

    run(test)


def test_a_pool_that_stops_ends_the_audio_of_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that their clients could resume elsewhere, because nobody is left to serve them."""
    monkeypatch.setattr(module, "LAST_AUDIO_S", 0.0)

    async def test(served: Served) -> None:
        _, plain = await served.open_session()
        _, resumable = await served.open_session(e.Start(resumable=True))
        stopping = asyncio.create_task(served.frontend.stop(600.0))
        _, frames = await served.link.next(m.Bundle)
        assert frames == [m.Stop(1), m.Stop(2)]
        for lease, client in ((1, plain), (2, resumable)):
            assert client.events == [e.GoAway(600.0)] and client.steering == ["leave", "pause"]
            served.link.receive(m.Bundle(b"F", (lease,)), m.Ended(lease))
            assert client.events[1:] == [e.Bye(e.GOING_AWAY)]
        await stopping
        assert not served.frontend.ready()

    run(test)


def test_a_pool_that_stops_reads_what_was_on_its_way() -> None:
    async def test(served: Served) -> None:
        id, _ = await served.open_session()
        stopping = asyncio.create_task(served.frontend.stop(600.0))
        await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="going away"):
            served.frontend.open(e.Start(), Client())
        served.frontend.client(id, AUDIO)
        _, frames = await served.link.next(m.Bundle)
        assert frames == [m.Audio(1, 0, AUDIO.pcm)]
        _, frames = await served.link.next(m.Bundle)
        assert frames == [m.Stop(1)]
        served.link.receive(m.Bundle(b"F", (1,)), m.Ended(1))
        await stopping

    run(test)


def test_a_pool_that_stops_gives_up_what_does_not_end_in_time() -> None:
    async def test(served: Served) -> None:
        _, client = await served.open_session()
        await served.frontend.stop(0.02)
        assert client.slugs() == [e.GOING_AWAY]

    run(test)


def test_a_session_without_an_answer_is_given_up_by_the_timer() -> None:
    async def test(served: Served) -> None:
        client = Client()
        served.frontend.open(e.Start(), client)
        await client.over.wait()
        assert client.slugs() == ["no-broker"]

    run(test, Limits(open_s=0.01))


def test_what_waits_is_sent_when_the_frontend_closes() -> None:
    async def main() -> None:
        served = Served(Limits())
        one, _ = await served.open_session()
        two, _ = await served.open_session()
        served.frontend.client(two, e.Abort())
        served.frontend.client(one, AUDIO)
        served.frontend.close()
        assert served.link.kinds() == [m.Bundle, m.Close]
        served.frontend.client(one, e.Abort())
        await asyncio.sleep(0)  # leases are closed in the next turn
        assert served.link.kinds() == []

    asyncio.run(main())
