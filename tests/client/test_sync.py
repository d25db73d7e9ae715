"""The blocking session."""

from __future__ import annotations

import threading

import pytest

import asr_client
from asr_client import End, Final
from tests.client.dialect_server import Script, serving

SECOND = bytes(32_000)


def test_the_same_verbs_block() -> None:
    script = Script()
    with serving(script) as url, asr_client.connect_sync(url, language="en") as session:
        assert session.ready.language == "en"
        session.keepalive()
        session.send(SECOND)
        session.flush("m")
        session.stop()
        events = list(session)
    assert [event.text for event in events if isinstance(event, Final)] == ["word0"]
    assert events[-1] == End("stopped")
    assert script.keepalives == 1


def test_one_thread_sends_while_another_reads() -> None:
    with serving() as url, asr_client.connect_sync(url) as session:

        def send() -> None:
            for _ in range(20):
                session.send(SECOND)
            session.stop()

        sender = threading.Thread(target=send)
        sender.start()
        texts = [event.text for event in session if isinstance(event, Final)]
        sender.join()
    assert texts == [f"word{n}" for n in range(20)]


def test_errors_come_out_of_the_thread() -> None:
    with serving(Script(fail_after_s=1.0)) as url, asr_client.connect_sync(url) as session:
        session.send(SECOND)
        with pytest.raises(asr_client.ServerError, match="the worker went away"):
            list(session)


def test_a_refusal_leaves_no_thread_behind() -> None:
    refusal = {"code": "unknown-model", "message": "no such model"}
    with serving(Script(refuse=refusal)) as url, pytest.raises(asr_client.ServerError), asr_client.connect_sync(url):
        pass
    assert "asr-client" not in {thread.name for thread in threading.enumerate()}


def test_an_exception_of_the_program_closes_the_session() -> None:
    script = Script()
    with serving(script) as url:
        with pytest.raises(ZeroDivisionError), asr_client.connect_sync(url) as session:
            session.send(SECOND)
            raise ZeroDivisionError
        assert script.left.wait(30)
    assert "asr-client" not in {thread.name for thread in threading.enumerate()}


def test_closing_early_ends_the_iteration() -> None:
    with serving() as url, asr_client.connect_sync(url) as session:
        session.close()
        with pytest.raises(asr_client.ConnectionLost):
            list(session)
