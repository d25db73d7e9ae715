"""Moonshine's dialect, without its transport. Each test names the entry of the inventory that it proves."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from asr_dialects.moonshine import PATH
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.moonshine.codec import SID_MAX, MoonshineCodec
from asr_frontends.servers.webrtc_extra import MISSING, NoPeers, peers
from asr_proto import messages as m
from asr_proto.errors import AsrError, BadRequest, LimitExceeded, OutOfOrder, PeerError, ServiceError
from tests.frontends import golden

INIT = '{"op":"init","sid":"s-1","sr":16000}'
READY = e.Ready("0123abcd", "moonshine", "moonshine-tiny-en", 1024)
SECOND = bytes(32_000)


def fresh() -> MoonshineCodec:
    return MoonshineCodec(Request(PATH))


def opened() -> MoonshineCodec:
    """A codec whose client has said init, and whose session has its slot."""
    codec = fresh()
    assert codec.receive(INIT) == [e.Start()]
    assert said(codec.send(READY)) == {"op": "ready", "sid": "s-1", "max_batch": 32, "model": "moonshine-tiny-en"}
    return codec


def partial(text: str, end: int = 1600) -> m.Partial:
    return m.Partial(1, 0, text, 0, end)


def final(text: str, end: int = 1600) -> m.Final:
    return m.Final(1, 0, text, 0, end, "silence", None, None, m.Commit(end, 1, b""))


def said(frames: Sequence[Frame]) -> dict[str, Any]:
    (frame,) = frames
    assert isinstance(frame, str)
    return dict(json.loads(frame))


def answered(codec: MoonshineCodec, frame: str) -> dict[str, Any]:
    """The reply to a frame that changes nothing else."""
    assert codec.receive(frame) == [e.KeepAlive()]
    reply = said(codec.replies())
    assert codec.replies() == []
    return reply


def ended(codec: MoonshineCodec, error: AsrError) -> dict[str, Any]:
    """The message of an error that ends the conversation."""
    message, close = codec.send(e.Error.of(error))
    assert isinstance(close, Close)
    return said([message])


@pytest.mark.parametrize("path", golden.recordings("moonshine"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """MOO-03 to MOO-07, as conversations."""
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


# ---- Init ----


def test_ready() -> None:
    """MOO-03: init is answered with ready once the session has its slot."""
    opened()


@pytest.mark.parametrize("init", ['{"op":"init"}', '{"op":"init","sid":null}', '{"op":"init","sid":"","sr":16000}'])
def test_a_client_without_a_sid_gets_one(init: str) -> None:
    """MOO-03: the session's own."""
    codec = fresh()
    assert codec.receive(init) == [e.Start()]
    assert said(codec.send(READY))["sid"] == READY.session
    assert said(codec.send(partial("a")))["sid"] == READY.session
    assert codec.takes_audio


@pytest.mark.parametrize("sid", [1, True, ["a"], {"a": 1}, "x" * (SID_MAX + 1), "a\nb", "\ud800"])
def test_a_sid_that_is_none(sid: Any) -> None:
    """MOO-06: bad_json is answered, and the client may try again."""
    codec = fresh()
    assert answered(codec, json.dumps({"op": "init", "sid": sid})) == {"op": "error", "reason": "bad_json"}
    assert codec.receive(INIT) == [e.Start()]


# ---- Errors ----


@pytest.mark.parametrize("frame", ["", "hello", "[]", "null", "1", "{", "[" * 100_000, '"init"'], ids=lambda f: f[:10])
def test_bad_json(frame: str) -> None:
    """MOO-06, decision 5: only answered, before init and after."""
    assert answered(fresh(), frame) == {"op": "error", "reason": "bad_json"}
    assert answered(opened(), frame) == {"op": "error", "reason": "bad_json"}


@pytest.mark.parametrize("frame", ["{}", '{"op":null}', '{"op":"start"}', '{"op":["init"]}', '{"op":{}}'])
def test_unknown_op(frame: str) -> None:
    """MOO-06, decision 5: only answered."""
    assert answered(fresh(), frame) == {"op": "error", "reason": "unknown_op"}
    assert answered(opened(), frame) == {"op": "error", "reason": "unknown_op"}


@pytest.mark.parametrize("rate", [8000, 48000, "16000", None, 0, True])
def test_unsupported_sample_rate(rate: Any) -> None:
    """MOO-06, decision 5: ends the conversation."""
    codec = fresh()
    with pytest.raises(BadRequest) as caught:
        codec.receive(json.dumps({"op": "init", "sr": rate}))
    assert ended(codec, caught.value) == {"op": "error", "reason": "unsupported_sample_rate"}
    assert not codec.takes_audio


@pytest.mark.parametrize("frame", [b"", b"\0\0", '{"op":"close"}', '{"op":"flush"}'], ids=repr)
def test_not_initialized(frame: str | bytes) -> None:
    """MOO-06, decision 5: audio before init, or the end before the beginning."""
    codec = fresh()
    assert not codec.takes_audio
    with pytest.raises(OutOfOrder) as caught:
        codec.receive(frame)
    assert ended(codec, caught.value) == {"op": "error", "reason": "not_initialized"}


def test_already_initialized() -> None:
    """MOO-06, decision 5."""
    codec = opened()
    with pytest.raises(OutOfOrder) as caught:
        codec.receive(INIT)
    assert ended(codec, caught.value) == {"op": "error", "reason": "already_initialized"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ServiceError("bug"), "inference_failed"),
        (ServiceError("bug", slug="internal-error"), "inference_failed"),
        (ServiceError("gone", slug="session-lost"), "inference_failed"),
        (ServiceError("full", slug="at-capacity"), "at_capacity"),
        (ServiceError("none", slug="no-worker"), "no_worker"),
        (ServiceError("none", slug="no-broker"), "no_broker"),
        (ServiceError("bye", slug="going-away"), "going_away"),
        (LimitExceeded("silent", slug="idle-timeout"), "idle_timeout"),
        (LimitExceeded("fast", slug="too-far-ahead"), "too_far_ahead"),
        (LimitExceeded("long", slug="session-too-long"), "session_too_long"),
        (LimitExceeded("unread", slug="slow-reader"), "slow_reader"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_ends_the_conversation(error: AsrError, reason: str) -> None:
    """MOO-06, MOO-23: one error message, then the end; the idle timeout is one of them."""
    assert ended(opened(), error) == {"op": "error", "reason": reason}


# ---- Audio ----


@given(data=st.binary(max_size=300), sizes=st.lists(st.integers(0, 41), max_size=20))
def test_messages_of_any_length(data: bytes, sizes: list[int]) -> None:
    """MOO-02: an odd byte waits for the next message."""
    codec = opened()
    events: list[e.ClientEvent] = []
    start = 0
    for size in [*sizes, len(data)]:
        events += codec.receive(data[start : start + size])
        start += size
    heard = b"".join(event.pcm for event in events if isinstance(event, e.Audio))
    assert heard == data[: len(data) // 2 * 2]


def test_all_audio_is_kept() -> None:
    """MOO-24, decision 19: no oldest audio is dropped: the credit of the session slows the client down."""
    codec = opened()
    events = [event for _ in range(180) for event in codec.receive(SECOND)]
    assert sum(len(event.pcm) for event in events if isinstance(event, e.Audio)) == 180 * len(SECOND)


def test_ping() -> None:
    """MOO-07: answered at any time, and it keeps a silent session open."""
    codec = fresh()
    assert answered(codec, '{"op":"ping"}') == {"op": "pong"}
    codec.receive(INIT)
    assert answered(codec, '{"op":"ping"}') == {"op": "pong"}
    codec.receive('{"op":"close"}')
    assert answered(codec, '{"op":"ping"}') == {"op": "pong"}


# ---- Text ----


def test_interims() -> None:
    """MOO-05, decision 17: cumulative, only when the text has changed."""
    codec = opened()
    codec.receive(SECOND)
    interim = said(codec.send(partial("Good", 8000)))
    assert interim == {"op": "interim", "sid": "s-1", "text": "Good", "final": False, "inference_ms": 500}
    assert codec.send(partial("Good", 12_000)) == []
    assert codec.send(final("Good", 12_000)) == []
    assert said(codec.send(partial("day", 14_000)))["text"] == "Good day"


def test_inference_ms_is_how_far_the_text_is_behind() -> None:
    """MOO-05: never below nothing, and in silence the model's progress counts."""
    codec = opened()
    codec.receive(SECOND)
    codec.send(e.Progress(16_000, 16_000, 15_840, 0))
    assert said(codec.send(partial("a", 1600)))["inference_ms"] == 10
    assert said(codec.send(partial("b", 99_999)))["inference_ms"] == 0


@pytest.mark.parametrize("op", ["close", "flush"])
def test_the_final_is_the_last_message(op: str) -> None:
    """MOO-04, MOO-05: close and flush both ask for it."""
    codec = opened()
    codec.receive(SECOND)
    assert codec.receive(json.dumps({"op": op})) == [e.Stop()]
    assert not codec.takes_audio
    assert codec.receive(SECOND) == []
    assert codec.receive('{"op":"close"}') == []
    codec.send(final("that was all"))
    message, close = codec.send(e.Bye())
    assert said([message]) == {
        "op": "final",
        "sid": "s-1",
        "text": "that was all",
        "final": True,
        "inference_ms": 0,
    }
    assert close == Close(1000)


@pytest.mark.parametrize("event", [e.Progress(1, 1, 1, 1), e.Notice(), m.Speech(1, "start", 0), m.Flushed(1, "x")])
def test_what_the_dialect_has_no_words_for(event: e.ServiceEvent) -> None:
    assert opened().send(event) == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """MOO-01: where aiortc is not installed, an offer is answered with 501 and a sentence that names the extra."""
    monkeypatch.setitem(sys.modules, "aiortc", None)
    missing = peers(None, None, MoonshineCodec)  # type: ignore[arg-type]
    assert isinstance(missing, NoPeers)
    assert "asr-pool[webrtc]" in MISSING
    messages: list[Any] = []

    async def ask() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b""}
        app = Starlette(routes=missing.routes(PATH))
        await app({**scope, "headers": [], "http_version": "1.1", "root_path": ""}, receive, send)
        await missing.close_all()

    asyncio.run(ask())
    assert messages[0]["status"] == 501
    assert messages[1]["body"] == MISSING.encode()


OPS = ["init", "close", "flush", "ping", "other"]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.text(max_size=40),
            st.builds(lambda op: json.dumps({"op": op}), st.sampled_from(OPS)),
            st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
                lambda v: json.dumps({"op": v, "sid": v})
            ),
        )
    )
)
def test_anything_may_come(frames: list[str | bytes]) -> None:
    """Whatever a client sends is taken, answered or refused in the dialect's words."""
    codec = fresh()
    for frame in frames:
        try:
            codec.receive(frame)
        except PeerError as error:
            assert ended(codec, error)["reason"] in ("not_initialized", "already_initialized")
            return
        for reply in codec.replies():
            assert isinstance(reply, str)
            assert json.loads(reply.encode())["op"] in ("pong", "error")
