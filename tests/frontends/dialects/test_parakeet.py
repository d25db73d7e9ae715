"""Parakeet-TDT's dialect. Each test names the entry of the inventory that it proves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Route

from asr_dialects.parakeet import PATH
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.parakeet.codec import NON_PCM, TEXT_BYTES_MIN, TEXT_FRAME, UNANSWERED_MAX, ParakeetCodec
from asr_frontends.dialects.parakeet.record import status
from asr_proto import messages as m
from asr_proto.errors import BadRequest, LimitExceeded, PeerError, ServiceError
from tests.frontends import golden
from tests.frontends.golden import codec_for

EOS, RESET = b"__CTRL__:EOS", b"__CTRL__:RESET"


def codec(query: str = "") -> ParakeetCodec:
    return ParakeetCodec(Request(PATH, query))


def partial(text: str) -> m.Partial:
    return m.Partial(1, 0, text, 0, 1600)


def final(text: str) -> m.Final:
    return m.Final(1, 0, text, 0, 1600, "silence", None, None, m.Commit(1600, 1, b""))


def flushed(marker: str) -> m.Flushed:
    return m.Flushed(1, marker)


def decoded(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in frames if isinstance(frame, str)]


def control(it: ParakeetCodec, frame: bytes) -> list[dict[str, Any]]:
    """The immediate answers to a control frame, which must be a flush."""
    assert it.receive(frame) == [e.Flush(frame.partition(b":")[2].decode())]
    return decoded(it.replies())


@pytest.mark.parametrize("path", golden.recordings("parakeet"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """PAR-01 to PAR-04, PAR-07 and PAR-08, as conversations."""
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


# ---- The request ----


def test_the_path_is_the_session() -> None:
    """PAR-01: /ws, no handshake: connecting starts the session."""
    it = codec_for(Request("/ws", ""))
    assert isinstance(it, ParakeetCodec)
    assert it.opening() == [e.Start()]
    assert it.subprotocol is None
    assert it.send(e.Ready("s", "fake", "fake", 960)) == []


@pytest.mark.parametrize("query", ["partials=", "partials=cumulative", "partials=delta", "color=green", "%ff&&="])
def test_parameters(query: str) -> None:
    """PAR-04: `partials` is the only one."""
    codec(query)


def test_a_refused_parameter() -> None:
    with pytest.raises(BadRequest):
        codec("partials=none")


def test_status() -> None:
    """PAR-05: GET /status is 200 and the text ok."""
    app = Starlette(routes=[Route("/status", status)])
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": "/status", "raw_path": b"/status", "query_string": b""}
    asyncio.run(app({**scope, "headers": [], "http_version": "1.1", "root_path": ""}, receive, send))
    assert messages[0]["status"] == 200
    assert messages[1]["body"] == b"ok"


# ---- Audio ----


@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_audio_of_any_even_length(samples: int, seed: int) -> None:
    """PAR-01: any chunk size."""
    pcm = np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2").tobytes()
    expected = [e.Audio(pcm)] if pcm else [e.KeepAlive()]
    if not pcm.startswith(b"__CTRL__:") and len(pcm) < TEXT_BYTES_MIN:
        assert codec().receive(pcm) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"\0",
        bytes(639),
        b"x" * TEXT_BYTES_MIN,
        b"x" * 59 + bytes(5),
        json.dumps({"type": "start", "sample_rate": 16000, "language": "en", "model": "parakeet"}).encode() + b" " * 4,
        b"line of text\r\n\t" * 10,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_a_payload_that_is_not_pcm(payload: bytes) -> None:
    """PAR-07, decision 18: odd length, or more than 90 % printable ASCII from 64 bytes on, closes 1003."""
    it = codec()
    with pytest.raises(PeerError) as caught:
        it.receive(payload)
    assert caught.value.slug == NON_PCM
    assert it.send(e.Error.of(caught.value)) == [Close(1003, "Non-PCM payload")]


@pytest.mark.parametrize(
    "payload",
    [
        b"x" * (TEXT_BYTES_MIN - 2),  # below the limit anything even is audio
        b"x" * 90 + bytes(10),  # exactly 90 %
        bytes(640),  # digital silence
        b"\xff\xff" * 320,
        (np.sin(np.arange(1600) / 8) * 8000).astype("<i2").tobytes(),
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_a_payload_that_may_be_pcm(payload: bytes) -> None:
    """PAR-07, decision 18."""
    assert codec().receive(payload) == [e.Audio(payload)]


def test_a_text_frame() -> None:
    """PAR-07: the original crashed; here it is rejected as not PCM."""
    it = codec()
    with pytest.raises(PeerError) as caught:
        it.receive("hello")
    assert caught.value.slug == TEXT_FRAME
    (close,) = it.send(e.Error.of(caught.value))
    assert close == Close(1003, "audio and control are sent in binary frames")


@pytest.mark.parametrize(
    "frame", [b"__CTRL__:", b"__CTRL__:eos", b"__CTRL__:PING", b"__CTRL__:EOS ", b"__CTRL__:" * 99]
)
def test_unknown_control_is_ignored(frame: bytes) -> None:
    """PAR-02: it is not taken for audio, at any length."""
    it = codec()
    assert it.receive(frame) == [e.KeepAlive()]
    assert it.replies() == []


# ---- Partials ----


def test_partials_are_cumulative() -> None:
    """PAR-04, decisions 6 and 17: the whole text, when it has changed."""
    it = codec()
    assert decoded(it.send(partial("one"))) == [{"type": "partial", "text": "one"}]
    assert it.send(partial("one")) == []
    assert decoded(it.send(final("one two"))) == [{"type": "partial", "text": "one two"}]
    assert decoded(it.send(partial("three"))) == [{"type": "partial", "text": "one two three"}]
    assert m.Partial in it.coalesces


def test_deltas() -> None:
    """PAR-04, decision 6: new characters only; after a revision those from the first that differs."""
    it = codec("partials=delta")
    texts = [partial("one"), partial("one two"), final("one two"), partial("three"), partial("thirty"), partial("th")]
    assert [decoded(it.send(text)) for text in texts] == [
        [{"type": "partial", "text": "one"}],
        [{"type": "partial", "text": " two"}],
        [],
        [{"type": "partial", "text": " three"}],
        [{"type": "partial", "text": "irty"}],
        [],
    ]
    assert it.coalesces == frozenset()


@given(st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=8), st.booleans())
def test_deltas_of_a_text_that_only_grows_are_the_text(pieces: list[str], ends: bool) -> None:
    """PAR-04."""
    it = codec("partials=delta")
    received = ""
    for count in range(1, len(pieces) + 1):
        received += "".join(message["text"] for message in decoded(it.send(partial("".join(pieces[:count])))))
    control(it, EOS)
    it.send(final("".join(pieces)))
    assert decoded(it.send(flushed("EOS"))) == [{"type": "final", "text": received}]
    assert decoded(it.send(partial("new"))) == [{"type": "partial", "text": "new"}]


# ---- Control ----


def test_eos() -> None:
    """PAR-02: the final is sent as soon as the flush is answered, and contains all text before it."""
    it = codec()
    it.send(final("one"))
    it.send(partial("tw"))
    assert control(it, EOS) == []
    assert decoded(it.send(final("two"))) == [{"type": "partial", "text": "one two"}]
    assert decoded(it.send(flushed("EOS"))) == [{"type": "final", "text": "one two"}]


def test_the_socket_is_usable_after_eos() -> None:
    """PAR-08: the next final holds only what came after the last."""
    it = codec()
    for word in ("one", "two", ""):
        assert it.receive(bytes(640)) == [e.Audio(bytes(640))]
        control(it, EOS)
        if word:
            assert decoded(it.send(final(word))) == [{"type": "partial", "text": word}]
        assert decoded(it.send(flushed("EOS"))) == [{"type": "final", "text": word}]


def test_reset() -> None:
    """PAR-03: answered immediately; all text of earlier audio is dropped, also text that arrives later."""
    it = codec()
    it.send(partial("old"))
    assert control(it, RESET) == [{"type": "reset"}]
    assert it.send(partial("old words")) == []
    assert it.send(final("old words")) == []
    assert it.send(flushed("RESET")) == []
    assert decoded(it.send(partial("new"))) == [{"type": "partial", "text": "new"}]


def test_a_reset_after_an_eos_waits_for_its_final() -> None:
    """PAR-02, PAR-03: else a client would take the old final for one of its new words."""
    it = codec()
    assert control(it, EOS) == []
    assert control(it, RESET) == []
    assert control(it, RESET) == []
    assert control(it, EOS) == []
    assert control(it, RESET) == []
    it.send(final("one"))
    assert decoded(it.send(flushed("EOS"))) == [{"type": "final", "text": "one"}, {"type": "reset"}, {"type": "reset"}]
    assert it.send(final("dropped")) == []
    assert it.send(flushed("RESET")) == []
    assert it.send(flushed("RESET")) == []
    it.send(final("two"))
    assert decoded(it.send(flushed("EOS"))) == [{"type": "final", "text": "two"}, {"type": "reset"}]
    assert control(it, RESET) == [{"type": "reset"}]


def test_a_flood_of_control() -> None:
    """The number of unanswered control frames is limited."""
    it = codec()
    for _ in range(UNANSWERED_MAX):
        control(it, EOS)
    with pytest.raises(LimitExceeded):
        it.receive(EOS)


def test_a_client_that_leaves() -> None:
    """PAR-09: the codec sends nothing; the session ends with its socket (the Conversation sends Abort)."""
    assert codec().send(e.Bye()) == [Close(1000)]


@pytest.mark.parametrize("event", [e.Progress(1, 1, 1, 1), e.Notice(), m.Speech(1, "start", 0)])
def test_events_for_which_the_dialect_has_no_message(event: e.ServiceEvent) -> None:
    assert codec().send(event) == []


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (ServiceError("all slots are taken", slug="at-capacity"), Close(1013, "at-capacity: all slots are taken")),
        (ServiceError("too much", slug="overloaded"), Close(1013, "overloaded: too much")),
        (ServiceError("bye", slug="going-away"), Close(1001, "going-away: bye")),
        (ServiceError("gone", slug="session-lost"), Close(1011, "session-lost: gone")),
        (ServiceError("none", slug="no-worker"), Close(1011, "no-worker: none")),
        (ServiceError("bug", slug="internal-error"), Close(1011, "internal-error: bug")),
        (ServiceError("bug"), Close(1011, "service-error: bug")),
        (LimitExceeded("silent", slug="idle-timeout"), Close(1008, "idle-timeout: silent")),
        (LimitExceeded("long", slug="session-too-long"), Close(1008, "session-too-long: long")),
        (LimitExceeded("unread", slug="slow-reader"), Close(1008, "slow-reader: unread")),
    ],
    ids=lambda value: getattr(value, "slug", ""),
)
def test_errors(error: PeerError, close: Close) -> None:
    """PAR-07: 1011 for a fault of the service; 1013 for a full service, because trying again later helps."""
    assert codec().send(e.Error.of(error)) == [close]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=100),
            st.text(max_size=10),
            st.sampled_from([EOS, RESET, bytes(640)]),
            st.sampled_from([partial("a"), partial("a b"), final("c"), "answer"]),
        ),
        max_size=30,
    )
)
def test_anything_may_come(steps: list[Any]) -> None:
    """Every EOS is answered by one final and every RESET by one reset, in their order; all else is a PeerError."""
    it = codec()
    due: list[str] = []
    sent: list[str] = []
    received: list[dict[str, Any]] = []
    for step in steps:
        if step == "answer":
            if due:
                received += decoded(it.send(flushed(due.pop(0))))
        elif isinstance(step, m.Partial | m.Final):
            received += decoded(it.send(step))
        else:
            try:
                events = it.receive(step)
            except PeerError as error:
                assert isinstance(it.send(e.Error.of(error))[-1], Close)
                return
            due += [event.marker for event in events if isinstance(event, e.Flush)]
            sent += [event.marker for event in events if isinstance(event, e.Flush)]
            received += decoded(it.replies())
    while due:
        received += decoded(it.send(flushed(due.pop(0))))
    answers = [
        {"final": "EOS", "reset": "RESET"}[message["type"]] for message in received if message["type"] != "partial"
    ]
    assert answers == sent
