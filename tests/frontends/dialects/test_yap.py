"""Yap's dialect. Each test names the entry of the inventory that it proves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_dialects.yap import PATH
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.yap.codec import BAD_INIT, SID_MAX, UNSUPPORTED_RATE, YapCodec
from asr_proto import messages as m
from asr_proto.errors import BadRequest, LimitExceeded, PeerError, ServiceError
from tests.frontends import golden
from tests.frontends.golden import codec_for

UNIX_MS = 1_700_000_000_000
INIT = '{"op":"init","sid":"s-1","sr":16000}'
CLOSE = '{"op":"close","sid":"s-1"}'
SECOND = bytes(32_000)


def opened() -> YapCodec:
    """A codec whose client has sent init."""
    codec = YapCodec(Request(PATH, unix_ms=UNIX_MS))
    assert codec.receive(INIT) == [e.Start()]
    return codec


def partial(text: str) -> m.Partial:
    return m.Partial(1, 0, text, 0, 1600)


def final(text: str) -> m.Final:
    return m.Final(1, 0, text, 0, 1600, "silence", None, None, m.Commit(1600, 1, b""))


def progress() -> e.Progress:
    return e.Progress(0, 0, 0, 0)


def decoded(frames: Sequence[Frame]) -> dict[str, Any]:
    (frame,) = frames
    assert isinstance(frame, str)
    return dict(json.loads(frame))


def refused(*frames: str | bytes) -> tuple[PeerError, list[Frame]]:
    """The error with which the last of these frames is refused, and the frames that the client receives."""
    codec = YapCodec(Request(PATH))
    for frame in frames[:-1]:
        codec.receive(frame)
    with pytest.raises(PeerError) as caught:
        codec.receive(frames[-1])
    return caught.value, codec.send(e.Error.of(caught.value))


@pytest.mark.parametrize("path", golden.recordings("yap"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """YAP-09 to YAP-13 and YAP-25, as conversations."""
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


def test_the_path() -> None:
    """YAP-01: the dialect has a path on the common port."""
    codec = codec_for(Request("/", "anything=goes"))
    assert isinstance(codec, YapCodec)
    assert codec.opening() == []
    assert codec.subprotocol is None


# ---- Init ----


@pytest.mark.parametrize(
    "init",
    [
        {"op": "init", "sid": "a"},
        {"op": "init", "sid": "a", "sr": 16000},
        {"op": "init", "sid": "x" * SID_MAX, "sr": 16000.0},
        {"op": "init", "sid": "é 東京", "color": "unknown fields are ignored"},
    ],
)
def test_init(init: dict[str, Any]) -> None:
    """YAP-09: op, sid and sr, which is 16000 where it is absent."""
    codec = YapCodec(Request(PATH))
    assert codec.receive(json.dumps(init)) == [e.Start()]
    assert codec.send(e.Ready("s", "fake", "fake", 960)) == []
    assert decoded(codec.send(partial("a")))["sid"] == init["sid"]


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\0\0",
        "",
        "hello",
        "[]",
        "null",
        "[" * 100_000,
        "{}",
        CLOSE,
        '{"op":"start","sid":"a"}',
        '{"op":"init"}',
        '{"op":"init","sid":null}',
        '{"op":"init","sid":""}',
        '{"op":"init","sid":1}',
        '{"op":"init","sid":"a\\nb"}',
        '{"op":"init","sid":"\\ud800"}',
        '{"op":"init","sid":"' + "x" * (SID_MAX + 1) + '"}',
    ],
    ids=lambda first: repr(first[:40]),
)
def test_a_bad_init(first: str | bytes) -> None:
    """YAP-25: a first message that is not a valid init closes with 1002 "Bad init"."""
    error, frames = refused(first)
    assert isinstance(error, BadRequest)
    assert error.slug == BAD_INIT
    assert frames == [Close(1002, "Bad init")]


@pytest.mark.parametrize("rate", [8000, 48000, 0, -1, "16000", None, True, [], 1e400])
def test_another_sample_rate(rate: Any) -> None:
    """YAP-09, YAP-25: another sample rate is a bad init, with the reason."""
    error, frames = refused(json.dumps({"op": "init", "sid": "a", "sr": rate}))
    assert error.slug == UNSUPPORTED_RATE
    assert frames == [Close(1002, "Bad init: sr must be 16000")]


@pytest.mark.parametrize(
    "frame", ["", "hello", "[]", "{}", INIT, '{"op":"other"}', "[" * 100_000], ids=lambda f: f[:20]
)
def test_other_text_is_ignored(frame: str) -> None:
    """YAP-25: text that is not JSON is ignored, and so is an unknown op."""
    codec = opened()
    assert codec.receive(frame) == [e.KeepAlive()]
    assert codec.replies() == []


def test_a_sid_is_the_clients_own_label() -> None:
    """Decision 14: connections with the same sid are independent; the sid of a close is ignored."""
    first, second = opened(), opened()
    first.send(partial("mine"))
    assert decoded(second.send(partial("yours")))["text"] == "yours"
    assert second.receive('{"op":"close","sid":"another"}') == [e.Stop()]


# ---- Audio ----


@given(data=st.binary(max_size=300), sizes=st.lists(st.integers(0, 41), max_size=20))
def test_frames_of_any_length(data: bytes, sizes: list[int]) -> None:
    """YAP-10: audio in frames of any length is the same audio; an odd byte waits for the next frame."""
    codec = opened()
    events: list[e.ClientEvent] = []
    start = 0
    for size in [*sizes, len(data)]:
        events += codec.receive(data[start : start + size])
        start += size
    assert all(isinstance(event, e.Audio) and event.pcm for event in events)
    received = b"".join(event.pcm for event in events if isinstance(event, e.Audio))
    assert received == data[: len(data) // 2 * 2]


def test_close() -> None:
    """YAP-11: a close ends the audio; later messages are ignored, as on a closing socket."""
    codec = opened()
    codec.receive(SECOND)
    assert codec.receive(CLOSE) == [e.Stop()]
    assert codec.receive(SECOND) == []
    assert codec.receive(CLOSE) == []


# ---- Interims ----


def test_interims_are_cumulative() -> None:
    """YAP-12, decision 17: all finals and the current partial, when the text has changed."""
    codec = opened()
    codec.receive(SECOND)
    assert decoded(codec.send(partial("Good"))) == {
        "op": "interim",
        "sid": "s-1",
        "text": "Good",
        "final": False,
        "ts": UNIX_MS + 1000,
    }
    assert codec.send(partial("Good")) == []
    assert decoded(codec.send(partial("Good morning")))["text"] == "Good morning"
    assert codec.send(final("Good morning")) == []
    assert decoded(codec.send(partial("all")))["text"] == "Good morning all"


def test_an_interim_a_second_while_audio_flows() -> None:
    """YAP-12, decision 13: progress causes an interim if audio has arrived since the last one, and only then."""
    codec = opened()
    assert codec.send(progress()) == []
    codec.receive(SECOND)
    assert decoded(codec.send(progress()))["text"] == ""
    assert codec.send(progress()) == []
    codec.receive(SECOND)
    codec.send(partial("a"))
    assert codec.send(progress()) == []
    codec.receive(bytes(640))
    assert decoded(codec.send(progress()))["ts"] == UNIX_MS + 2020


def test_progress_is_asked_for_often_enough() -> None:
    """YAP-12: the session sends progress at least once a second (Limits.progress_s), and here no later."""
    assert e.Start().progress_samples <= 16_000


def test_a_pause_does_not_end_the_turn() -> None:
    """YAP-13, decision 17: the dialect has no VAD: an endpoint of the service is an interim like any other."""
    codec = opened()
    for word in ("one", "two", "three"):
        message = decoded(codec.send(final(word)))
        assert (message["op"], message["final"]) == ("interim", False)
    assert message["text"] == "one two three"


def test_the_final_comes_last() -> None:
    """YAP-11, decision 13: after close the final text, then the server closes with 1000."""
    codec = opened()
    codec.receive(SECOND)
    codec.receive(CLOSE)
    codec.send(final("that was all"))
    message, close = codec.send(e.Bye())
    assert decoded([message]) == {
        "op": "final",
        "sid": "s-1",
        "text": "that was all",
        "final": True,
        "ts": UNIX_MS + 1000,
    }
    assert close == Close(1000)


@pytest.mark.parametrize("event", [e.Ready("s", "f", "f", 1), e.Notice(), m.Speech(1, "start", 0), m.Flushed(1, "x")])
def test_events_for_which_the_dialect_has_no_message(event: e.ServiceEvent) -> None:
    assert opened().send(event) == []


# ---- Errors ----


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (ServiceError("all slots are taken", slug="at-capacity"), Close(1013, "at-capacity: all slots are taken")),
        (ServiceError("too much", slug="overloaded"), Close(1013, "overloaded: too much")),
        (ServiceError("bye", slug="going-away"), Close(1001, "going-away: bye")),
        (ServiceError("gone", slug="session-lost"), Close(1011, "session-lost: gone")),
        (ServiceError("none", slug="no-worker"), Close(1011, "no-worker: none")),
        (ServiceError("none", slug="no-broker"), Close(1011, "no-broker: none")),
        (ServiceError("bug", slug="internal-error"), Close(1011, "internal-error: bug")),
        (LimitExceeded("silent", slug="idle-timeout"), Close(1008, "idle-timeout: silent")),
        (LimitExceeded("long", slug="session-too-long"), Close(1008, "session-too-long: long")),
        (LimitExceeded("often", slug="rate-limited"), Close(1008, "rate-limited: often")),
        (LimitExceeded("unread", slug="slow-reader"), Close(1008, "slow-reader: unread")),
    ],
    ids=lambda value: getattr(value, "slug", ""),
)
def test_errors(error: PeerError, close: Close) -> None:
    """YAP-25: the dialect has no message for an error: the close contains it."""
    assert opened().send(e.Error.of(error)) == [close]


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40), st.sampled_from([INIT, CLOSE]))))
def test_anything_may_come(frames: list[str | bytes]) -> None:
    """Every frame of a client is accepted or refused with a PeerError, and every answer can be sent."""
    codec = YapCodec(Request(PATH))
    for frame in frames:
        try:
            codec.receive(frame)
        except PeerError as error:
            (close,) = codec.send(e.Error.of(error))
            assert isinstance(close, Close)
            assert close.reason.startswith("Bad init")
            return
        for text in codec.send(progress()):
            assert isinstance(text, str)
            assert json.loads(text.encode())["op"] == "interim"
