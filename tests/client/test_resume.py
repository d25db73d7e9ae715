"""Connections that break: what the client sends again, and what the user sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

import asr_client
from asr_client import Ack, ConnectionLost, End, Event, Final, Flushed, GoAway, Reconnected, ServerError, Session
from asr_client import session as session_module
from tests.client.scripted_server import Peer, ScriptedServer, scripted

SECOND = 32_000
PCM = bytes(n % 251 for n in range(4 * SECOND))


async def send_all(session: Session, *pieces: bytes) -> list[Event]:
    """Send all pieces, stop, and return all events."""
    for piece in pieces:
        await session.send(piece)
    await session.stop()
    return [event async for event in session]


def texts(events: list[Event]) -> list[tuple[int, str, float]]:
    return [(event.utterance, event.text, event.start_s) for event in events if isinstance(event, Final)]


def reconnections(events: list[Event]) -> list[bool]:
    return [event.resumed for event in events if isinstance(event, Reconnected)]


async def two_seconds_and_a_break(peer: Peer) -> None:
    """The first connection of most tests: a final of the first second, and audio after it."""
    assert peer.resume is None
    await peer.ready()
    await peer.take(2 * SECOND)
    await peer.final(0, 0.0, 1.0)
    peer.cut()


async def the_rest_from_one_second(peer: Peer) -> None:
    assert peer.resume == {"session": "s-1", "finals": 1}
    await peer.ready(from_sample=16_000)
    await peer.receive("stop")
    assert peer.audio == PCM[SECOND:]
    await peer.final(1, 1.0, 4.0)
    await peer.end()


async def unavailable(peer: Peer) -> None:
    await peer.refuse("resume-unavailable")


def test_a_session_is_resumed() -> None:
    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break, the_rest_from_one_second) as server,
            asr_client.connect(server.url, language="en", partials=False) as session,
        ):
            events = await send_all(session, PCM)
            assert session.ready.from_sample is None
        assert texts(events) == [(0, "word0", 0.0), (1, "word1", 1.0)]
        assert [type(event) for event in events] == [Final, Reconnected, Final, End]
        assert isinstance(events[1], Reconnected)
        assert events[1].resumed and 0 <= events[1].gap_s < 5
        first, second = ({**peer.start, "resume": None} for peer in server.peers)
        assert first == second

    asyncio.run(run())


def test_finals_that_were_under_way_come_again_and_numbers_go_on() -> None:
    async def resumed(peer: Peer) -> None:
        await peer.ready(from_sample=2 * 16_000)
        await peer.send(
            "final", seq=0, utterance=1, text="word1", start_s=1, end_s=2, endpoint="silence", committed=32000
        )
        await peer.send("partial", seq=1, utterance=2, text="wo", start_s=2, end_s=3)
        await peer.receive("stop")
        assert peer.audio == PCM[2 * SECOND :]
        await peer.end()

    async def run() -> None:
        async with scripted(two_seconds_and_a_break, resumed) as server, asr_client.connect(server.url) as session:
            events = await send_all(session, PCM)
        assert texts(events) == [(0, "word0", 0.0), (1, "word1", 1.0)]
        seqs = [event.seq for event in events if isinstance(event, Final | asr_client.Partial)]
        assert seqs == [0, 1, 2]

    asyncio.run(run())


def test_a_session_that_is_lost_begins_anew_with_what_was_not_confirmed() -> None:
    async def anew(peer: Peer) -> None:
        assert peer.resume is None
        await peer.ready("s-2")
        assert await peer.receive("flush") == {"type": "flush", "marker": "after"}
        assert peer.audio == PCM[SECOND : 3 * SECOND]
        await peer.send("ack", samples=32_000, committed=0)
        await peer.final(0, 0.5, 2.0)
        await peer.send("flushed", marker="after")
        await peer.receive("stop")
        assert peer.audio == PCM[SECOND:]
        await peer.end()

    async def first(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("flush")
        await peer.final(0, 0.0, 1.0)
        await peer.send("flushed", marker="before")
        await peer.receive("flush")
        peer.cut()

    async def run() -> None:
        async with scripted(first, unavailable, anew) as server, asr_client.connect(server.url) as session:
            await session.send(PCM[:SECOND])
            await session.flush("before")
            await session.send(PCM[SECOND : 3 * SECOND])
            await session.flush("after")
            events = await send_all(session, PCM[3 * SECOND :])
            assert session.ready.session == "s-1"
        assert texts(events) == [(0, "word0", 0.0), (1, "word0", 1.5)]
        assert [event for event in events if isinstance(event, Flushed)] == [Flushed("before"), Flushed("after")]
        assert Ack(48_000, 16_000) in events
        assert reconnections(events) == [False]

    asyncio.run(run())


def test_a_server_that_does_not_know_resume_begins_anew_by_itself() -> None:
    async def anew(peer: Peer) -> None:
        await peer.ready("s-2")
        await peer.receive("stop")
        assert peer.audio == PCM[SECOND:]
        await peer.end()

    async def run() -> None:
        async with scripted(two_seconds_and_a_break, anew) as server, asr_client.connect(server.url) as session:
            assert reconnections(await send_all(session, PCM)) == [False]

    asyncio.run(run())


def test_a_break_before_ready_is_not_reported() -> None:
    async def at_once(peer: Peer) -> None:
        peer.cut()

    async def whole(peer: Peer) -> None:
        assert peer.resume is None
        await peer.ready()
        await peer.receive("stop")
        assert peer.audio == PCM
        await peer.end()

    async def run() -> None:
        async with scripted(at_once, whole) as server, asr_client.connect(server.url) as session:
            assert await send_all(session, PCM) == [End("stopped")]

    asyncio.run(run())


def test_a_break_while_resuming_is_followed_by_another_try() -> None:
    async def at_once(peer: Peer) -> None:
        assert peer.resume == {"session": "s-1", "finals": 1}
        peer.cut()

    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break, at_once, at_once, the_rest_from_one_second) as server,
            asr_client.connect(server.url) as session,
        ):
            events = await send_all(session, PCM)
        assert len(texts(events)) == 2
        assert reconnections(events) == [True]

    asyncio.run(run())


def test_a_break_after_stop() -> None:
    async def stopped(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("stop")
        await peer.final(0, 0.0, 4.0)
        peer.cut()

    async def again(peer: Peer) -> None:
        assert peer.resume == {"session": "s-1", "finals": 1}
        await peer.ready(from_sample=4 * 16_000)
        await peer.receive("stop")
        assert peer.audio == b""
        await peer.end()

    async def run() -> None:
        async with scripted(stopped, again) as server, asr_client.connect(server.url) as session:
            events = await send_all(session, PCM)
            with pytest.raises(ConnectionLost, match="the session is over"):
                await session.send(PCM)
        assert [type(event) for event in events] == [Final, Reconnected, End]

    asyncio.run(run())


def test_two_breaks_the_second_in_a_session_that_began_anew() -> None:
    async def anew(peer: Peer) -> None:
        await peer.ready("s-2")
        await peer.take(2 * SECOND)
        await peer.final(0, 0.0, 1.0)
        peer.cut()

    async def resumed(peer: Peer) -> None:
        assert peer.resume == {"session": "s-2", "finals": 1}
        await peer.ready("s-2", from_sample=16_000)
        await peer.receive("stop")
        assert peer.audio == PCM[2 * SECOND :]
        await peer.final(1, 1.0, 3.0)
        await peer.end()

    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break, unavailable, anew, resumed) as server,
            asr_client.connect(server.url) as session,
        ):
            events = await send_all(session, PCM)
        assert texts(events) == [(0, "word0", 0.0), (1, "word0", 1.0), (2, "word1", 2.0)]
        assert reconnections(events) == [False, True]

    asyncio.run(run())


def test_methods_wait_for_the_connection_to_come_back() -> None:
    is_back = asyncio.Event()

    async def resumed(peer: Peer) -> None:
        await is_back.wait()
        await peer.ready(from_sample=16_000)
        await peer.receive("stop")
        assert peer.audio == PCM[SECOND:]
        await peer.end()

    async def waits(verb: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(verb)
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
        return task

    async def run() -> None:
        async with scripted(two_seconds_and_a_break, resumed) as server, asr_client.connect(server.url) as session:
            await session.send(PCM[: 2 * SECOND])
            assert isinstance(await session.receive(), Final)
            while len(server.peers) < 2:
                await asyncio.sleep(0)
            tasks = [await waits(verb) for verb in (session.send(PCM[2 * SECOND :]), session.keepalive())]
            is_back.set()
            await asyncio.gather(*tasks)
            assert reconnections(await send_all(session)) == [True]

    asyncio.run(run())


def test_a_send_that_was_cancelled_leaves_no_hole() -> None:
    async def whole(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("stop")
        assert peer.audio == PCM
        await peer.end()

    async def run() -> None:
        async with scripted(whole) as server, asr_client.connect(server.url) as session:
            for start in range(0, len(PCM), SECOND):
                sending = asyncio.create_task(session.send(PCM[start : start + SECOND]))
                await asyncio.sleep(0)
                sending.cancel()
            assert await send_all(session) == [End("stopped")]

    asyncio.run(run())


def test_without_a_server_the_session_is_given_up_in_time() -> None:
    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break) as server,
            asr_client.connect(server.url, resume_s=0.4) as session,
        ):
            server.stop_listening()
            await session.send(PCM[: 2 * SECOND])
            assert texts([await session.receive() or End("")]) == [(0, "word0", 0.0)]
            begun = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionLost, match=r"no server answers .*; it did not come back within 0\.4 s"):
                await session.send(PCM[2 * SECOND :])
            assert 0.2 < asyncio.get_running_loop().time() - begun < 5
            with pytest.raises(ConnectionLost, match="did not come back"):
                await session.receive()
            for verb in (session.stop(), session.flush("m"), session.keepalive(), session.send(b"ab")):
                with pytest.raises(ConnectionLost, match="did not come back"):
                    await verb

    asyncio.run(run())


def test_resuming_can_be_switched_off() -> None:
    async def before_ready(peer: Peer) -> None:
        peer.cut()

    async def run(server: ScriptedServer) -> None:
        async with asr_client.connect(server.url, resume_s=0) as session:
            await send_all(session, PCM[: 2 * SECOND])

    async def both() -> None:
        for script in (two_seconds_and_a_break, before_ready):
            async with scripted(script) as server:
                with pytest.raises(ConnectionLost, match="the connection broke before the session had ended"):
                    await run(server)
                assert len(server.peers) == 1

    asyncio.run(both())


def test_without_resuming_no_audio_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "KEPT_S_MAX", 1.0)

    async def confirming_nothing(peer: Peer) -> None:
        await peer.ready()
        await peer.receive("stop")
        assert peer.audio == PCM
        await peer.end()

    async def run() -> None:
        async with scripted(confirming_nothing) as server, asr_client.connect(server.url, resume_s=0) as session:
            assert await send_all(session, PCM) == [End("stopped")]

    asyncio.run(run())


def test_send_waits_while_too_much_is_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "KEPT_S_MAX", 2.0)
    may_confirm = asyncio.Event()

    async def confirming(peer: Peer) -> None:
        await peer.ready()
        await peer.take(2 * SECOND)
        await may_confirm.wait()
        await peer.send("ack", samples=32_000, committed=32_000)
        await peer.take(4 * SECOND)
        await peer.send("ack", samples=64_000, committed=64_000)
        await peer.receive("stop")
        await peer.end()

    async def run() -> None:
        async with scripted(confirming) as server, asr_client.connect(server.url) as session:
            sending = asyncio.create_task(session.send(PCM))
            done, _ = await asyncio.wait([sending], timeout=0.1)
            assert not done and len(server.peers[0].audio) < 3 * SECOND
            may_confirm.set()
            await sending
            assert len(await send_all(session)) == 3

    asyncio.run(run())


def test_a_server_that_closes_ends_the_session() -> None:
    async def closing(peer: Peer) -> None:
        await peer.ready()
        await peer.close(1001)

    async def run() -> None:
        async with scripted(closing) as server, asr_client.connect(server.url) as session:
            with pytest.raises(ConnectionLost) as caught:
                await session.receive()
        assert caught.value.close_code == 1001
        assert len(server.peers) == 1

    asyncio.run(run())


@pytest.mark.parametrize("says_why", [True, False])
def test_a_server_that_asked_to_leave_and_closes_is_left(says_why: bool) -> None:
    async def leaving(peer: Peer) -> None:
        await peer.ready()
        await peer.take(2 * SECOND)
        await peer.final(0, 0.0, 1.0)
        await peer.send("goaway", time_left_s=0.5)
        if says_why:
            await peer.send("error", code="going-away", message="this server is going away")
        await peer.close(1001)

    async def run() -> None:
        async with (
            scripted(leaving, the_rest_from_one_second) as server,
            asr_client.connect(server.url) as session,
        ):
            events = await send_all(session, PCM)
        assert GoAway(0.5) in events
        assert reconnections(events) == [True]
        assert len(texts(events)) == 2

    asyncio.run(run())


@pytest.mark.parametrize(("code", "is_passing"), [("no-worker", True), ("unknown-model", False)])
def test_a_refusal_is_waited_out_if_it_may_pass(code: str, is_passing: bool) -> None:
    async def refusing(peer: Peer) -> None:
        await peer.refuse(code)

    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break, refusing, the_rest_from_one_second) as server,
            asr_client.connect(server.url) as session,
        ):
            if is_passing:
                assert reconnections(await send_all(session, PCM)) == [True]
            else:
                with pytest.raises(ServerError, match=code):
                    await send_all(session, PCM)

    asyncio.run(run())


def test_a_session_that_breaks_every_connection_is_given_up() -> None:
    async def poisoned(peer: Peer) -> None:
        await peer.ready(from_sample=16_000)
        peer.cut()

    async def run() -> None:
        async with (
            scripted(two_seconds_and_a_break, poisoned) as server,
            asr_client.connect(server.url, resume_s=0.5) as session,
        ):
            with pytest.raises(ConnectionLost, match="did not come back"):
                await send_all(session, PCM)
        assert 2 < len(server.peers) < 8

    asyncio.run(run())


def test_a_connection_without_messages_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SILENT_S", 0.2)

    async def silent(peer: Peer) -> None:
        await peer.ready()
        await peer.take(2 * SECOND)
        await peer.final(0, 0.0, 1.0)
        await peer.closed()

    async def run() -> None:
        async with (
            scripted(silent, the_rest_from_one_second) as server,
            asr_client.connect(server.url) as session,
        ):
            assert reconnections(await send_all(session, PCM)) == [True]

    asyncio.run(run())


def test_closing_during_an_outage_ends_immediately() -> None:
    async def run() -> None:
        async with scripted(two_seconds_and_a_break) as server:
            async with asr_client.connect(server.url) as session:
                server.stop_listening()
                await session.send(PCM[: 2 * SECOND])
                await session.receive()
                begun = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - begun < 1
            with pytest.raises(ConnectionLost, match="the session was closed"):
                await session.receive()

    asyncio.run(run())


def test_the_blocking_session_resumes_too() -> None:
    def blocking(url: str) -> list[Event]:
        with asr_client.connect_sync(url) as session:
            session.send(PCM)
            session.stop()
            return list(session)

    async def run() -> None:
        async with scripted(two_seconds_and_a_break, the_rest_from_one_second) as server:
            events = await asyncio.to_thread(blocking, server.url)
        assert [type(event) for event in events] == [Final, Reconnected, Final, End]

    asyncio.run(run())
