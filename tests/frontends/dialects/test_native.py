"""The project's own dialect: every message, every refusal, and audio in pieces of any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_dialects.native import PATH
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.native.codec import MARKER_MAX, NAME_MAX, NativeCodec
from asr_frontends.journal import Budget
from asr_frontends.outbox import Outbox, SendBundle
from asr_frontends.session import Limits, Session
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import AtCapacity, BadRequest, DecodeError, OutOfOrder, PeerError
from tests.frontends import golden
from tests.frontends.golden import codec_for

READY = e.Ready("s1", "moonshine", "moonshine-tiny-en", 1024)
COMMIT = m.Commit(16000, 1, b"")
MESSAGE_BYTES_MAX = 1_048_576


def start(**fields: Any) -> NativeCodec:
    """A codec whose client has started."""
    codec = NativeCodec(Request(PATH, ""))
    codec.receive(text("start", **fields))
    return codec


def text(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def pcm_of(events: Sequence[e.ClientEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, e.Audio))


def decoded(frames: Sequence[Frame]) -> dict[str, Any]:
    """The only frame, a JSON object."""
    (frame,) = frames
    assert isinstance(frame, str)
    return dict(json.loads(frame))


def noise(samples: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2").tobytes()


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces that end at these places."""
    ends = [*sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


# ---- Recordings ----


@pytest.mark.parametrize("path", golden.recordings("native"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


def test_there_are_recordings() -> None:
    names = [path.name for path in golden.recordings("native")]
    assert "native-conversation.jsonl" in names
    assert len(names) > 10


# ---- Start ----


def test_the_path_is_ours() -> None:
    codec = codec_for(Request(PATH, "anything=goes", ("chat",)))
    assert isinstance(codec, NativeCodec)
    assert codec.subprotocol is None
    assert codec.opening() == []
    for path in (PATH + "/", PATH[1:], "/V1/stream", PATH + "\n", "/v1/streams"):
        assert codec_for(Request(path)) is None


@pytest.mark.parametrize(
    "fields, event",
    [
        ({}, e.Start("", "", True, resumable=True)),
        ({"model": "fast", "language": "en-GB"}, e.Start("fast", "en-GB", True, resumable=True)),
        ({"partials": False}, e.Start("", "", False, resumable=True)),
        ({"look_ahead_ms": 480}, e.Start("", "", look_ahead_ms=480, resumable=True)),
        ({"model": None, "language": None, "resume": None}, e.Start("", "", True, resumable=True)),
        (
            {"model": "m" * NAME_MAX, "language": "l" * NAME_MAX},
            e.Start("m" * NAME_MAX, "l" * NAME_MAX, True, resumable=True),
        ),
        ({"color": ["unknown", "fields", {"are": "ignored"}]}, e.Start("", "", True, resumable=True)),
        ({"sample_rate": 8000}, e.Start("", "", True, resumable=True)),
        ({"sample_rate": 192_000}, e.Start("", "", True, resumable=True)),
    ],
)
def test_start(fields: dict[str, Any], event: e.Start) -> None:
    assert NativeCodec(Request(PATH, "")).receive(text("start", **fields)) == [event]


@pytest.mark.parametrize("rate", [7999, 192_001, 0, -16000, 16000.0, "16000", True, None, [16000], {}, 1e400, 10**30])
def test_a_sample_rate_is_an_integer_in_bounds(rate: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        start(sample_rate=rate)
    assert caught.value.slug == "unsupported-sample-rate"


@pytest.mark.parametrize("value", [0, 1, "true", None, [], 0.5])
def test_partials_is_a_boolean(value: Any) -> None:
    with pytest.raises(DecodeError):
        start(partials=value)


@pytest.mark.parametrize("value", [-1, 80.0, "80", True, 60_001, [80]])
def test_a_look_ahead_is_an_integer_in_bounds(value: Any) -> None:
    with pytest.raises(DecodeError):
        start(look_ahead_ms=value)


@pytest.mark.parametrize("field", ["model", "language"])
@pytest.mark.parametrize("value", [1, True, [], {}, "x" * (NAME_MAX + 1), "a\nb", "\0", "\ud800", "\u202e"])
def test_names_are_short_and_printable(field: str, value: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        start(**{field: value})
    assert caught.value.slug == "bad-message"


@pytest.mark.parametrize(
    "value", ["s1", "", 0, False, {}, {"session": "s1"}, {"session": "s1", "finals": -1}, {"session": 1, "finals": 0}]
)
def test_a_resume_names_the_session_and_counts_its_finals(value: Any) -> None:
    with pytest.raises(DecodeError):
        start(resume=value)


def test_a_resumed_session_goes_on_where_the_worker_says() -> None:
    codec = NativeCodec(Request(PATH, ""))
    (event,) = codec.receive(text("start", sample_rate=8000, resume={"session": "abc1", "finals": 3}))
    assert event == e.Start("", "", True, resumable=True, resume=e.Resume("abc1", 3))
    (ready,) = codec.send(e.Ready("abc1", "fake", "fake", 960, from_sample=32_000))
    assert isinstance(ready, str)
    fields = json.loads(ready)
    assert (fields["resumed"], fields["from_sample"]) == (True, 16_000)
    codec.receive(bytes(1600))
    (ack,) = codec.send(e.Progress(0, 0, 0, 32_000))
    assert isinstance(ack, str)
    assert json.loads(ack) == {"type": "ack", "samples": 16_800, "committed": 16_000}


# ---- Text frames ----


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "start",
        "{",
        "[]",
        "null",
        "1",
        '"start"',
        "{}",
        '{"type":null}',
        '{"type":1}',
        '{"type":["start"]}',
        '{"type":"START"}',
        '{"type":""}',
        '{"type":"\\ud800"}',
        '{"type":"ready"}',
        '{"Type":"start"}',
        "[" * 400_000,
        '{"type":' * 100_000,
        '{"type":"start","sample_rate":' + "1" * 100_000 + "}",
        '{"type":"' + "x" * 900_000 + '"}',
        "\ufeff" + '{"type":"start"}',
    ],
    ids=lambda frame: repr(frame[:30]),
)
def test_text_that_is_no_message(frame: str) -> None:
    with pytest.raises(DecodeError) as caught:
        NativeCodec(Request(PATH, "")).receive(frame)
    assert caught.value.slug == "bad-message"
    encodable(NativeCodec(Request(PATH, "")).send(e.Error.of(caught.value)))


def test_a_flush() -> None:
    codec = start()
    for marker in ("", "x", "a b", "é東🎙", "m" * MARKER_MAX):
        assert codec.receive(text("flush", marker=marker)) == [e.Flush(marker)]


@pytest.mark.parametrize("marker", [None, 1, True, [], {}, "m" * (MARKER_MAX + 1), "a\tb", "\x7f", "\udfff", "\u2028"])
def test_a_marker_is_short_and_printable(marker: Any) -> None:
    with pytest.raises(DecodeError):
        start().receive(text("flush", marker=marker))


def test_a_flush_without_marker() -> None:
    with pytest.raises(DecodeError):
        start().receive('{"type":"flush"}')


def test_the_longest_marker_passes_the_wire() -> None:
    """Both the codec and the wire count characters, not bytes."""
    marker = "🎙" * MARKER_MAX
    assert start().receive(text("flush", marker=marker)) == [e.Flush(marker)]
    frame = m.Flush(1, marker)
    assert wire.decode_frames(wire.encode_frames([frame])) == [frame]


def test_keepalive_at_any_time() -> None:
    codec = NativeCodec(Request(PATH, ""))
    assert codec.receive(text("keepalive")) == [e.KeepAlive()]
    codec.receive(text("start"))
    assert codec.receive(text("keepalive")) == [e.KeepAlive()]
    codec.receive(text("stop"))
    assert codec.receive(text("keepalive")) == [e.KeepAlive()]


@pytest.mark.parametrize("frame", [b"\0\0", b"", text("flush", marker="x"), text("stop")], ids=repr)
def test_nothing_before_start_nor_after_stop(frame: str | bytes) -> None:
    with pytest.raises(OutOfOrder):
        NativeCodec(Request(PATH, "")).receive(frame)
    codec = start()
    assert codec.receive(text("stop")) == [e.Stop()]
    with pytest.raises(OutOfOrder):
        codec.receive(frame)


def test_start_is_once() -> None:
    codec = start()
    with pytest.raises(OutOfOrder):
        codec.receive(text("start"))
    codec.receive(text("stop"))
    with pytest.raises(OutOfOrder):
        codec.receive(text("start"))


def test_a_refused_start_can_not_be_followed_by_audio() -> None:
    codec = NativeCodec(Request(PATH, ""))
    with pytest.raises(BadRequest):
        codec.receive(text("start", sample_rate=1))
    with pytest.raises(OutOfOrder):
        codec.receive(b"\0\0")


# ---- Audio ----


@given(data=st.binary(max_size=400), at=st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_audio(data: bytes, at: list[int]) -> None:
    codec = start()
    events = [event for piece in cut(data, at) for event in codec.receive(piece)]
    assert pcm_of(events) == data[: len(data) // 2 * 2]
    assert all(isinstance(event, e.Audio) and event.pcm and len(event.pcm) % 2 == 0 for event in events)
    assert decoded(codec.send(e.Progress(0, 0, 0, 0)))["samples"] == len(data) // 2


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@settings(max_examples=25)
@given(at=st.lists(st.integers(0, 40_000), max_size=12), samples=st.integers(0, 20_000))
def test_any_cut_gives_the_same_resampled_audio(rate: int, at: list[int], samples: int) -> None:
    def converted(pieces: list[bytes]) -> bytes:
        codec = start(sample_rate=rate)
        frames: list[str | bytes] = [*pieces, text("stop")]
        return pcm_of([event for frame in frames for event in codec.receive(frame)])

    data = noise(samples)
    assert converted(cut(data, at)) == converted([data])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192_000])
def test_resampling_keeps_the_duration(rate: int) -> None:
    codec = start(sample_rate=rate)
    events = [*codec.receive(noise(2 * rate)), *codec.receive(text("stop"))]
    assert abs(len(pcm_of(events)) // 2 - 32_000) <= 1
    assert events[-1] == e.Stop()


def test_resampling_keeps_the_tone() -> None:
    rate, tone_hz = 48_000, 440.0
    tone = (8000 * np.sin(2 * np.pi * tone_hz * np.arange(rate) / rate)).astype("<i2").tobytes()
    codec = start(sample_rate=rate)
    received = np.frombuffer(pcm_of([*codec.receive(tone), *codec.receive(text("stop"))]), "<i2")
    expected = 8000 * np.sin(2 * np.pi * tone_hz * np.arange(len(received)) / 16_000)
    assert np.abs(received - expected)[200:-200].max() < 40


def test_a_flush_gives_what_was_in_the_filter_first() -> None:
    codec = start(sample_rate=48_000)
    before = codec.receive(noise(4800))
    rest = codec.receive(text("flush", marker="x"))
    assert [type(event) for event in rest] == [e.Audio, e.Flush]
    assert len(pcm_of([*before, *rest])) // 2 == 1600
    assert codec.receive(text("flush", marker="y")) == [e.Flush("y")]
    after = [*codec.receive(noise(4800)), *codec.receive(text("stop"))]
    assert len(pcm_of(after)) // 2 == 1600


def test_the_longest_message_passes_the_wire_at_every_rate() -> None:
    """If the worker could not decode one frame, it would lose the whole bundle."""
    codec = start(sample_rate=8000)
    outbox = Outbox()
    session = Session("s1", e.Start(), Limits(credit_s=600.0, journal_s=600.0), Budget(10**9), outbox, 0.0)
    session.on_pinned(m.Pinned("s1", 0, 1, b"W", m.Spec("fake", "fake", ("en",), 1, 960, 1.0, "none")), 0.0)
    frames = [bytes(6001), bytes(MESSAGE_BYTES_MAX), bytes(MESSAGE_BYTES_MAX)]
    events = [event for frame in frames for event in codec.receive(frame)]
    for event in events:
        session.client(event, 0.0)
    outbox.seal()
    posted = [frame for command in outbox.take() if isinstance(command, SendBundle) for frame in command.frames]
    assert posted
    for frame in posted:
        assert wire.decode_frames(wire.encode_frames([frame])) == [frame]


# ---- Sending ----


def test_ready() -> None:
    assert decoded(start().send(READY)) == {
        "type": "ready",
        "session": "s1",
        "model": "moonshine-tiny-en",
        "language": "en",
        "sample_rate": 16000,
        "engine": "moonshine",
    }
    ready = decoded(start(language="en-GB", sample_rate=44100).send(READY))
    assert (ready["language"], ready["sample_rate"]) == ("en-GB", 44100)


def test_texts_are_counted_from_0() -> None:
    codec = start()
    final = m.Final(1, 0, "a", 0, 24_001, "silence", None, None, COMMIT)
    first = decoded(codec.send(m.Partial(1, 0, "a", 0, 1600)))
    assert first == {"type": "partial", "seq": 0, "utterance": 0, "text": "a", "start_s": 0.0, "end_s": 0.1}
    second = decoded(codec.send(final))
    assert second.pop("end_s") == 1.5
    assert (second.pop("endpoint"), second.pop("committed")) == ("silence", 0)
    assert second == {"type": "final", "seq": 1, "utterance": 0, "text": "a", "start_s": 0.0}
    assert [decoded(codec.send(final))["seq"] for _ in range(3)] == [2, 3, 4]


@pytest.mark.parametrize("endpoint", ["silence", "length", "flush"])
def test_why_an_utterance_ended(endpoint: m.EndpointKind) -> None:
    assert decoded(start().send(m.Final(1, 3, "a", 0, 16, endpoint, None, None, COMMIT)))["endpoint"] == endpoint


def test_words_and_confidence_only_where_measured() -> None:
    words = (m.Word("so", 0, 8000, 0.98765), m.Word("be", 8000, 16000, None))
    final = decoded(start().send(m.Final(1, 0, "so be", 0, 16000, "length", 0.0, words, COMMIT)))
    assert final["confidence"] == 0.0
    assert final["words"] == [
        {"word": "so", "start_s": 0.0, "end_s": 0.5, "confidence": 0.9877},
        {"word": "be", "start_s": 0.5, "end_s": 1.0},
    ]
    assert decoded(start().send(m.Final(1, 0, "", 0, 1, "length", None, (), COMMIT)))["words"] == []


def test_the_rest_of_what_is_said() -> None:
    codec = start()
    assert decoded(codec.send(m.Flushed(1, "x"))) == {"type": "flushed", "marker": "x"}
    assert decoded(codec.send(e.Notice())) == {"type": "migrating"}
    assert decoded(codec.send(e.GoAway(4.5))) == {"type": "goaway", "time_left_s": 4.5}
    going, close = codec.send(e.Bye(e.GOING_AWAY))
    assert isinstance(going, str) and json.loads(going)["code"] == "going-away"
    assert isinstance(close, Close) and close.code == 1001
    assert codec.send(m.Speech(1, "start", 0)) == []
    assert codec.replies() == []
    end, close = codec.send(e.Bye())
    assert end == '{"type":"end","reason":"stopped"}'
    assert close == Close(1000)


@given(
    rate=st.integers(8000, 192_000),
    frames=st.lists(st.integers(0, 3000), max_size=8),
    committed=st.integers(0, 2**40),
)
def test_an_ack_never_promises_what_was_not_sent(rate: int, frames: list[int], committed: int) -> None:
    codec = start(sample_rate=rate)
    for count in frames:
        codec.receive(bytes(count))
    ack = decoded(codec.send(e.Progress(committed, committed, committed, committed)))
    assert ack["samples"] == sum(frames) // 2
    assert 0 <= ack["committed"] <= ack["samples"]
    assert ack["committed"] <= committed * rate / 16_000


# ---- Errors ----


@pytest.mark.parametrize(
    "slug, code",
    [
        ("bad-message", 4400),
        ("bad-request", 4400),
        ("out-of-order", 4400),
        ("unknown-model", 4400),
        ("unsupported-language", 4400),
        ("unsupported-sample-rate", 4400),
        ("resume-unavailable", 4400),
        ("idle-timeout", 4400),
        ("session-too-long", 4400),
        ("rate-limited", 4400),
        ("slow-reader", 4400),
        ("limit-exceeded", 4400),
        ("at-capacity", 4503),
        ("no-worker", 4503),
        ("no-broker", 4503),
        ("overloaded", 4503),
        ("session-lost", 4503),
        ("going-away", 1001),
    ],
)
def test_every_documented_error(slug: str, code: int) -> None:
    frame, close = start().send(e.Error(slug, "why"))
    assert isinstance(frame, str)
    assert json.loads(frame) == {"type": "error", "code": slug, "message": "why"}
    assert close == Close(code, f"{slug}: why")


def test_an_error_without_a_sentence() -> None:
    frame, _ = start().send(e.Error("no-worker", ""))
    assert isinstance(frame, str)
    assert json.loads(frame)["message"] == "no-worker"


def test_when_to_try_again() -> None:
    frame, _ = start().send(e.Error.of(AtCapacity("full", retry_after_s=2.5)))
    assert isinstance(frame, str)
    assert json.loads(frame)["retry_after_s"] == 2.5


@pytest.mark.parametrize("detail", ["x" * 500, "é" * 100, "🎙" * 60, "x" * 110 + "🎙🎙🎙"])
def test_a_close_reason_has_at_most_123_bytes(detail: str) -> None:
    _, close = start().send(e.Error("bad-message", detail))
    assert isinstance(close, Close)
    assert len(close.reason.encode()) <= 123
    assert f"bad-message: {detail}".startswith(close.reason)


# ---- Anything at all ----


def encodable(frames: Sequence[Frame]) -> None:
    for frame in frames:
        if isinstance(frame, Close):
            assert len(frame.reason.encode()) <= 123
        elif isinstance(frame, str):
            frame.encode()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["\ud800", "x\udfff", "start", "m" * 257]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["model", "language", "sample_rate", "partials", "look_ahead_ms", "resume", "marker"]
MESSAGES = st.builds(
    lambda kind, fields: json.dumps({"type": kind, **fields}),
    st.sampled_from(["start", "flush", "stop", "keepalive", "ready", "\ud800"]) | st.text(),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
VALID = st.sampled_from([text("start"), text("stop"), text("flush", marker="x")])
FRAMES = VALID | MESSAGES | JSON.map(json.dumps) | st.text() | st.binary(max_size=40)


@settings(max_examples=400)
@given(frames=st.lists(FRAMES, max_size=10))
def test_anything_a_client_sends_raises_only_peer_errors(frames: list[str | bytes]) -> None:
    codec = NativeCodec(Request(PATH, ""))
    started = False
    for frame in frames:
        try:
            events = codec.receive(frame)
        except PeerError as error:
            encodable(codec.send(e.Error.of(error)))
            return
        if any(isinstance(event, e.Start) for event in events):
            started = True
            encodable(codec.send(READY))
        for event in events:
            assert started or isinstance(event, e.KeepAlive)
            if isinstance(event, e.Flush):
                encodable(codec.send(m.Flushed(1, event.marker)))
