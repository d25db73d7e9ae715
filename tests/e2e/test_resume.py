"""Connections that break during speech: the client library and the service together lose and repeat no word."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import asr_client
from asr_client import End, Event, Final, Flushed, GoAway, Reconnected, SyncSession
from asr_process.settings import frontends_endpoint
from tests.e2e.clients import cut, expected, noise
from tests.e2e.proxy import Proxy
from tests.e2e.service import Pool, Serve, eventually


class Talk:
    """A session through the client library, and all its events."""

    def __init__(self, session: SyncSession) -> None:
        self._session = session
        self.shown: list[Event] = []

    def send(self, pcm: bytes) -> None:
        for frame in cut(pcm, 640):
            self._session.send(frame)

    def flush(self, marker: str) -> None:
        self._session.flush(marker)

    def until(self, kind: type[Event]) -> Event:
        for event in self._session:
            self.shown.append(event)
            if isinstance(event, kind):
                return event
        raise AssertionError(f"over before {kind}: {self.shown[-5:]}")

    def stop(self) -> None:
        """End the audio and receive the remaining events."""
        self._session.stop()
        self.rest()

    def rest(self) -> None:
        self.shown.extend(self._session)

    def check(self, text: str, resumed: list[bool]) -> None:
        """Check that the events are those of an undisturbed session: each final once, in order, exact text, one end."""
        finals = [event for event in self.shown if isinstance(event, Final)]
        assert [one.utterance for one in finals] == list(range(len(finals)))
        assert " ".join(one.text for one in finals) == text
        assert [one.seq for one in finals] == sorted({one.seq for one in finals})
        assert all(earlier.end_s == later.start_s for earlier, later in itertools.pairwise(finals))
        assert [event for event in self.shown if isinstance(event, End)] == [End("stopped")]
        assert [event.resumed for event in self.shown if isinstance(event, Reconnected)] == resumed


@pytest.fixture
def proxy(fake: Pool) -> Iterator[Proxy]:
    with Proxy(fake.port) as proxy:
        yield proxy


def test_a_connection_that_is_cut_in_mid_speech(proxy: Proxy) -> None:
    pcm = noise(8.4, seed=41)
    with asr_client.connect_sync(proxy.url) as session:
        talk = Talk(session)
        talk.send(pcm[:112_000])
        talk.until(Final)
        proxy.link.cut()
        talk.send(pcm[112_000:])
        talk.stop()
    talk.check(expected(pcm), [True])


def test_a_connection_that_is_cut_again_and_again(proxy: Proxy) -> None:
    pcm = noise(12.3, seed=42)
    pieces = cut(pcm, 48_000)
    with asr_client.connect_sync(proxy.url) as session:
        talk = Talk(session)
        for piece in pieces[:-1]:
            talk.send(piece)
            talk.until(Final)
            proxy.link.cut()
            talk.until(Reconnected)
        talk.send(pieces[-1])
        talk.stop()
    talk.check(expected(pcm), [True] * (len(pieces) - 1))


def test_finals_and_answers_that_were_under_way_come_once(proxy: Proxy) -> None:
    """The client receives no message about its audio until it has another connection."""
    first, second = noise(3.3, seed=43), noise(2.6, seed=44)
    with asr_client.connect_sync(proxy.url) as session:
        talk = Talk(session)
        talk.send(first)
        talk.until(Final)
        proxy.link.mute()
        talk.flush("between")
        talk.send(second)
        proxy.link.cut()
        talk.stop()
    talk.check(f"{expected(first)} {expected(second)}", [True])
    answer = talk.shown.index(Flushed("between"))
    assert talk.shown.count(Flushed("between")) == 1
    assert " ".join(e.text for e in talk.shown[:answer] if isinstance(e, Final)) == expected(first)


def test_a_connection_that_is_cut_after_stop_while_the_service_still_works() -> None:
    pcm = noise(6.2, seed=45)
    with Pool(workers=[["--engine=fake", "--step-ms=18"]]) as pool:
        with Proxy(pool.port) as proxy, asr_client.connect_sync(proxy.url) as session:
            talk = Talk(session)
            talk.send(pcm)
            session.stop()
            proxy.link.cut()
            talk.rest()
        talk.check(expected(pcm), [True])
        pool.wait_sessions(0)


def test_a_connection_that_is_cut_after_the_service_has_ended_the_session(fake: Pool, proxy: Proxy) -> None:
    """No session is left to resume: the client sends its unconfirmed audio again in a new one."""
    pcm = noise(3.2, seed=46)
    with asr_client.connect_sync(proxy.url) as session:
        talk = Talk(session)
        talk.send(pcm[:64_000])
        talk.until(Final)
        proxy.link.mute()
        talk.send(pcm[64_000:])
        session.stop()
        fake.wait_sessions(0)
        proxy.link.cut()
        talk.rest()
    talk.check(expected(pcm), [False])


def test_a_frontend_that_is_killed_hands_its_session_to_the_other_one() -> None:
    pcm = noise(8.4, seed=47)
    with Serve("--frontends=2") as serve:
        eventually(lambda: (status := serve.status()) and len(status.frontends) == 2, serve.story)
        with asr_client.connect_sync(serve.url) as session:
            talk = Talk(session)
            talk.send(pcm[:112_000])
            talk.until(Final)
            status = serve.status()
            assert status is not None
            (victim,) = [frontend.name for frontend in status.frontends if frontend.sessions]
            before = serve.kill(victim)
            talk.send(pcm[112_000:])
            talk.stop()
        talk.check(expected(pcm), [True])
        serve.wait_replaced(victim, before)
        serve.wait_sessions(0)


def test_the_session_of_a_frontend_that_is_terminated_is_resumed_on_another_host(tmp_path: Path) -> None:
    """With another run directory, as on another host, it cannot hand the connection over."""
    pcm = noise(8.4, seed=50)
    with Pool(frontend=["--drain-s=1"]) as pool:
        _, port = pool.add_frontend(f"--run-dir={tmp_path}", f"--broker={frontends_endpoint(pool.run_dir)}")
        pool.wait_ready(port)
        with Proxy(pool.port) as proxy, asr_client.connect_sync(proxy.url) as session:
            talk = Talk(session)
            talk.send(pcm[:112_000])
            talk.until(Final)
            proxy.port = port
            pool.frontend.process.terminate()
            talk.until(GoAway)
            talk.until(Reconnected)
            talk.send(pcm[112_000:])
            talk.stop()
        talk.check(expected(pcm), [True])
        pool.wait_sessions(0)


def test_a_session_whose_worker_dies_with_the_connection_begins_anew() -> None:
    pcm = noise(8.4, seed=48)
    with Serve() as serve:
        with Proxy(serve.port) as proxy, asr_client.connect_sync(proxy.url) as session:
            talk = Talk(session)
            talk.send(pcm[:112_000])
            talk.until(Final)
            serve.kill("worker-1")
            proxy.link.cut()
            talk.send(pcm[112_000:])
            talk.stop()
        talk.check(expected(pcm), [False])
        serve.wait_whole()
        serve.wait_sessions(0)


@pytest.mark.parametrize("where", ["to the same frontend", "to another frontend"])
def test_a_client_that_returns_before_the_break_of_its_connection_is_noticed(where: str) -> None:
    """The old connection ends with an error, and the session holds one slot."""
    pcm = noise(8.4, seed=49)
    with Pool() as pool:
        with Proxy(pool.port) as proxy, asr_client.connect_sync(proxy.url) as session:
            talk = Talk(session)
            talk.send(pcm[:112_000])
            talk.until(Final)
            old = proxy.link
            if where == "to another frontend":
                _, proxy.port = pool.add_frontend()
                pool.wait_ready(proxy.port)
            old.strand()
            talk.until(Reconnected)
            pool.wait_sessions(1)
            eventually(lambda: b'"code":"session-lost"' in old.unheard, "the old connection is told off")
            talk.send(pcm[112_000:])
            talk.stop()
        talk.check(expected(pcm), [True])
        pool.wait_sessions(0)
