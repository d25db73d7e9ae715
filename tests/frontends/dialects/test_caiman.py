"""CAIMAN-ASR's dialect. Each test names the entry of the inventory that it proves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_dialects.caiman import PATH, SUBPROTOCOL
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.caiman.codec import ALTERNATIVES_MAX, FRAME_SAMPLES, CaimanCodec
from asr_proto import messages as m
from asr_proto.errors import BadRequest, OutOfOrder, PeerError
from tests.frontends import golden
from tests.frontends.golden import codec_for

CONTENT_TYPE = "audio/x-raw;format=S16LE;channels=1;rate=16000"
SHORT_STEPS = e.Ready("s1", "fake", "fake", FRAME_SAMPLES)
LONG_STEPS = e.Ready("s1", "moonshine", "moonshine-tiny-en", 1024)
FRAME = bytes(2 * FRAME_SAMPLES)


def codec(query: str = "", *subprotocols: str) -> CaimanCodec:
    return CaimanCodec(Request(PATH, query, subprotocols))


def listening(ready: e.Ready = SHORT_STEPS) -> CaimanCodec:
    """A codec whose session has its slot."""
    it = codec()
    assert it.send(ready) == []
    return it


def done(samples: int) -> e.Progress:
    return e.Progress(samples, samples, samples, 0)


def final(text: str) -> m.Final:
    return m.Final(1, 0, text, 0, 1, "silence", None, None, m.Commit(1, 1, b""))


def responses(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in frames if isinstance(frame, str)]


def transcript(frames: Sequence[Frame]) -> str:
    return "".join(response["alternatives"][0]["transcript"] for response in responses(frames))


# ---- Recordings ----


@pytest.mark.parametrize("path", golden.recordings("caiman"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """CAI-18 to CAI-31, as conversations."""
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


def test_there_are_recordings() -> None:
    """CAI-26, CAI-29: the conversations that old clients have."""
    names = {path.stem for path in golden.recordings("caiman")}
    assert names >= {"caiman-lockstep", "caiman-long-chunks", "caiman-capacity"}


# ---- The request ----


def test_the_path() -> None:
    """CAI-18: the endpoint is /asr/v0.1/stream."""
    assert PATH == "/asr/v0.1/stream"
    assert isinstance(codec_for(Request(PATH, "")), CaimanCodec)
    for path in ("/asr/v0.2/stream", "/asr/v0.1/stream/", "/asr/v0x1/stream", PATH + "\n", PATH[1:]):
        assert codec_for(Request(path)) is None


@pytest.mark.parametrize(
    "query",
    [
        f"content_type={CONTENT_TYPE}",
        f"content_type={CONTENT_TYPE}&model=general",
        f"model=general&content_type={CONTENT_TYPE}&lang=en",
        f"content_type={quote(CONTENT_TYPE, safe='')}",
        f"content_type={quote(CONTENT_TYPE, safe=';=')}",
        f"content_type={quote_plus(CONTENT_TYPE.replace(';', '; '))}",
        "content_type=audio/x-raw;rate=16000;channels=1;format=S16LE",
        "content_type=audio/x-raw;%20format=S16LE;+channels=1;%20rate=16000;",
        "content_type=%61udio/x-raw;form%61t=S16LE;channels=1;rate=16000",
    ],
)
def test_content_type(query: str) -> None:
    """CAI-19: the raw `;` and `/` are part of the value; percent-encoding and any order too."""
    codec(query)


def test_content_type_may_be_absent() -> None:
    """CAI-19: without a content type, the audio has the only supported format (decision 10)."""
    codec("")
    codec("model=general&version=v1&lang=en&alternatives=1")


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/x-raw",
        "audio/wav;format=S16LE;channels=1;rate=16000",
        "AUDIO/X-RAW;format=S16LE;channels=1;rate=16000",
        "x;format=S16LE;channels=1;rate=16000",
        ";format=S16LE;channels=1;rate=16000",
        "audio/x-raw;channels=1;rate=16000",
        "audio/x-raw;format=S16LE;rate=16000",
        "audio/x-raw;format=S16LE;channels=1",
        "audio/x-raw;format=S16BE;channels=1;rate=16000",
        "audio/x-raw;format=s16le;channels=1;rate=16000",
        "audio/x-raw;format=F32LE;channels=1;rate=16000",
        "audio/x-raw;format=;channels=1;rate=16000",
        "audio/x-raw;format;channels=1;rate=16000",
        "audio/x-raw;format=S16LE;channels=2;rate=16000",
        "audio/x-raw;format=S16LE;channels=01;rate=16000",
        "audio/x-raw;format=S16LE;channels=\u0661;rate=16000",
        "audio/x-raw;format=S16LE;channels=1;rate=8000",
        "audio/x-raw;format=S16LE;channels=1;rate=16000.0",
        "audio/x-raw;format=S16LE;channels=1;rate=16000;layout=interleaved",
        "audio/x-raw;format=S16LE;channels=1;rate=16000;=",
        "audio/x-raw,format=S16LE,channels=1,rate=16000",
    ],
)
@pytest.mark.parametrize("encode", [str, lambda value: quote(value, safe="")], ids=["raw", "encoded"])
def test_wrong_content_types(content_type: str, encode: Any) -> None:
    """CAI-19, CAI-20: every attribute is validated; refused before the upgrade."""
    with pytest.raises(BadRequest) as caught:
        codec_for(Request(PATH, f"content_type={encode(content_type)}"))
    assert caught.value.slug == "bad-request"
    assert caught.value.detail.encode()


@pytest.mark.parametrize("attribute", ["format=F32LE", "channels=2", "rate=8000"])
def test_attributes_that_contradict_each_other(attribute: str) -> None:
    """CAI-19: a second, different value of an attribute is refused, in any position."""
    head, _, tail = CONTENT_TYPE.partition(";")
    for content_type in (f"{head};{attribute};{tail}", f"{CONTENT_TYPE};{attribute}"):
        with pytest.raises(BadRequest):
            codec(f"content_type={content_type}")


@pytest.mark.parametrize(
    "query",
    [
        "model=general",
        "version=latest",
        "version=v1",
        "lang=en",
        "alternatives=1",
        "model=general&version=v1&lang=en&alternatives=5",
        "model=general&model=general",
        "%6dodel=gener%61l",
        "color=blue",
        "&&",
        "=",
    ],
)
def test_parameters(query: str) -> None:
    """CAI-21: defaults, allowed values, and unknown names."""
    codec(query)


@pytest.mark.parametrize(
    "query",
    [
        "model=large",
        "model=",
        "model",
        "model=General",
        "version=v2",
        "version=1",
        "version=",
        "lang=de",
        "lang=en-GB",
        "lang=EN",
        "lang=",
        "lang=%ff",
        "lang=en;model=x",
        "alternatives=",
        "content_type=" + CONTENT_TYPE + "&lang=fr",
    ],
)
def test_wrong_parameters(query: str) -> None:
    """CAI-20, CAI-21: an unsupported value is refused before the upgrade."""
    with pytest.raises(BadRequest) as caught:
        codec(query)
    assert caught.value.detail.encode()


@pytest.mark.parametrize(
    "good, bad",
    [
        ("model=general", "model=large"),
        ("version=v1", "version=v2"),
        ("lang=en", "lang=de"),
        ("alternatives=1", "alternatives=0"),
        (f"content_type={CONTENT_TYPE}", "content_type=audio/wav"),
    ],
)
def test_parameters_given_twice(good: str, bad: str) -> None:
    """CAI-21: an unsupported value is refused in any position."""
    codec(f"{good}&{good}")
    for query in (f"{good}&{bad}", f"{bad}&{good}"):
        with pytest.raises(BadRequest):
            codec(query)


@pytest.mark.parametrize("alternatives", ["1", "5", "100", "01", str(ALTERNATIVES_MAX)])
def test_alternatives(alternatives: str) -> None:
    """CAI-21: a client may request several alternatives; greedy decoding returns one."""
    it = codec(f"alternatives={alternatives}")
    it.send(SHORT_STEPS)
    it.receive(FRAME)
    (response,) = responses(it.send(done(FRAME_SAMPLES)))
    assert len(response["alternatives"]) == 1


@pytest.mark.parametrize(
    "alternatives", ["0", "-1", "+1", "x", "\u0661", "1.0", "1e1", " 1", "²", "101", "9" * 5000, "0x1"]
)
def test_wrong_alternatives(alternatives: str) -> None:
    """CAI-20, CAI-21: a count in plain digits, within bounds."""
    with pytest.raises(BadRequest):
        codec(f"alternatives={quote(alternatives)}")


@settings(max_examples=200)
@given(query=st.text() | st.lists(st.sampled_from([*"&;=%+cz0", "content_type=", "lang=en"])).map("".join))
def test_any_query_is_taken_or_refused(query: str) -> None:
    """CAI-20: every query is accepted or refused with BadRequest, and the reason can be sent."""
    try:
        codec(query)
    except BadRequest as error:
        error.detail.encode()


@pytest.mark.parametrize(
    "offered, echoed",
    [
        ((), None),
        ((SUBPROTOCOL,), SUBPROTOCOL),
        (("chat", SUBPROTOCOL), SUBPROTOCOL),
        (("chat",), None),
        ((SUBPROTOCOL.upper(),), None),
    ],
)
def test_the_subprotocol(offered: tuple[str, ...], echoed: str | None) -> None:
    """CAI-22: stream.asr.api.myrtle.ai is echoed when it is offered."""
    assert SUBPROTOCOL == "stream.asr.api.myrtle.ai"
    assert codec("", *offered).subprotocol == echoed


# ---- Receiving ----


def test_the_connection_starts_the_session() -> None:
    """CAI-26: progress is requested every 60 ms, also of received audio; partials only from text that grows."""
    assert codec().opening() == [e.Start(partials=False, appends=True, progress_samples=960, progress_taken=True)]


def partial(text: str) -> m.Partial:
    return m.Partial(1, 0, text, 0, 1)


def test_text_that_only_grows_is_sent_as_it_grows() -> None:
    """CAI-26, CAI-27: also in the middle of a word, and only once, even if a move repeats it."""
    it = listening()
    hypotheses = [
        partial("ze"),
        partial("zero o"),
        partial("ze"),
        partial("zero"),
        partial("zero one"),
        final("zero one"),
    ]
    received = []
    for number, event in enumerate([*hypotheses, partial("two"), final("two")], 1):
        it.send(event)
        received.append(transcript(it.send(done(number * FRAME_SAMPLES))))
    assert received == ["ze", "ro o", "", "", "ne", "", " two", ""]


def test_nothing_is_missing_behind_what_was_taken_back() -> None:
    it = listening()
    for event in (partial("zero"), partial(""), final("one two")):
        it.send(event)
    assert transcript(it.send(done(FRAME_SAMPLES))) == "zero one two"


@given(data=st.binary(max_size=400), at=st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_audio(data: bytes, at: list[int]) -> None:
    """CAI-23, CAI-30: frames of any length; half a sample waits for its other half."""
    it = codec()
    ends = [*sorted({place % (len(data) + 1) for place in at} - {0, len(data)}), len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if end > begin]
    events = [event for piece in pieces for event in it.receive(piece)]
    pcm = b"".join(event.pcm for event in events if isinstance(event, e.Audio))
    assert pcm == data[: len(data) // 2 * 2]
    assert all(isinstance(event, e.Audio) and event.pcm for event in events)
    assert it.receive(b"") == [e.Stop()]


def test_an_empty_frame_ends_the_audio() -> None:
    """CAI-24; later frames are refused."""
    for frame in (b"", FRAME, "x"):
        it = codec()
        assert it.receive(b"") == [e.Stop()]
        with pytest.raises(PeerError):
            it.receive(frame)


def test_a_frame_after_the_end_is_out_of_order() -> None:
    """CAI-24."""
    it = codec()
    it.receive(b"")
    with pytest.raises(OutOfOrder):
        it.receive(FRAME)


@pytest.mark.parametrize("frame", ["", "EOS", "{}", "\0"])
def test_text_frames_are_refused(frame: str) -> None:
    """CAI-20: samples come in binary frames."""
    with pytest.raises(BadRequest) as caught:
        codec().receive(frame)
    (close,) = codec().send(e.Error.of(caught.value))
    assert close == Close(4400, "400 bad-request: audio is sent in binary frames")


# ---- Responses ----


def test_the_form_of_a_response() -> None:
    """CAI-25."""
    it = listening()
    it.receive(FRAME)
    it.send(final("Good morning."))
    assert responses(it.send(done(FRAME_SAMPLES))) == [
        {
            "start": 0.0,
            "end": 0.06,
            "is_provisional": False,
            "alternatives": [{"transcript": "Good morning.", "confidence": 1.0}],
        }
    ]


def test_lock_step() -> None:
    """CAI-26: one frame of 60 ms, one response, text or none."""
    it = listening()
    for turn in range(1, 50):
        it.receive(FRAME)
        assert len(it.send(done(turn * FRAME_SAMPLES))) == 1


def test_lock_step_with_longer_steps() -> None:
    """CAI-26, decision 15: the response is sent when the worker has the audio, else the client would wait for ever."""
    it = listening(LONG_STEPS)
    for turn in range(1, 50):
        it.receive(FRAME)
        taken = turn * FRAME_SAMPLES
        assert len(it.send(e.Progress(taken, taken, 0, 0))) == 1


def test_short_steps_answer_after_the_step() -> None:
    """CAI-26, decision 15."""
    it = listening()
    it.receive(FRAME)
    assert it.send(e.Progress(960, 960, 0, 0)) == []
    assert it.send(e.Progress(960, 960, 959, 0)) == []
    assert len(it.send(e.Progress(960, 960, 960, 0))) == 1
    assert it.send(e.Progress(960, 960, 960, 0)) == []


def test_small_frames_wait_and_large_ones_give_more_responses() -> None:
    """CAI-31: 10 ms, then 150 ms."""
    it = listening()
    for turn in range(1, 7):
        it.receive(bytes(320))
        assert len(it.send(done(turn * 160))) == (turn == 6)
    it.receive(bytes(4800))
    assert len(it.send(done(960 + 2400))) == 2


def test_increments() -> None:
    """CAI-27: transcripts are not cumulative; spaces included, their concatenation is the text."""
    it = listening()
    frames: list[Frame] = []
    for turn, texts in enumerate([["One,"], [], ["two,", "three."], [], ["Four."]], 1):
        it.receive(FRAME)
        for text in texts:
            assert it.send(final(text)) == []
        frames += it.send(done(turn * FRAME_SAMPLES))
    texts = [response["alternatives"][0]["transcript"] for response in responses(frames)]
    assert texts == ["One,", "", " two, three.", "", " Four."]


@pytest.mark.parametrize(
    "event", [m.Partial(1, 0, "x", 0, 1), m.Speech(1, "end", 0), e.Notice(), m.Flushed(1, "x")], ids=repr
)
def test_what_the_dialect_has_no_word_for(event: e.ServiceEvent) -> None:
    """CAI-27: no provisional responses, and no messages except responses."""
    assert listening().send(event) == []


def test_the_end() -> None:
    """CAI-28: the remaining responses, then the server closes."""
    it = listening()
    it.receive(bytes(2 * 2000))
    it.receive(b"")
    it.send(done(960))
    it.send(final("Yes."))
    *rest, close = it.send(e.Bye())
    assert [(r["start"], r["end"]) for r in responses(rest)] == [(0.06, 0.12), (0.12, 0.125)]
    assert transcript(rest) == "Yes."
    assert close == Close(1000)


def test_text_after_the_last_interval() -> None:
    """CAI-28: a final after the last response causes one more response."""
    it = listening()
    it.receive(FRAME)
    it.receive(b"")
    it.send(done(FRAME_SAMPLES))
    it.send(final("Yes."))
    response, close = it.send(e.Bye())
    assert isinstance(response, str)
    assert (json.loads(response)["start"], json.loads(response)["end"]) == (0.06, 0.06)
    assert transcript([response]) == "Yes."
    assert close == Close(1000)


def test_a_silent_end() -> None:
    """CAI-28: without audio there is only the close."""
    it = listening()
    it.receive(b"")
    assert it.send(e.Bye()) == [Close(1000)]


def test_at_capacity() -> None:
    """CAI-29: the old clients look for this sentence."""
    (close,) = codec().send(e.Error("at-capacity", "all 8 slots are taken", 1.0))
    assert close == Close(4503, "503 maximum number of simultaneous connections reached")


@pytest.mark.parametrize(
    "slug, code",
    [
        ("bad-request", 4400),
        ("out-of-order", 4400),
        ("idle-timeout", 4400),
        ("session-too-long", 4400),
        ("rate-limited", 4400),
        ("slow-reader", 4400),
        ("limit-exceeded", 4400),
        ("no-worker", 4503),
        ("no-broker", 4503),
        ("overloaded", 4503),
        ("session-lost", 4503),
        ("going-away", 4503),
    ],
)
def test_errors(slug: str, code: int) -> None:
    """CAI-20: the reason begins with 400 or 503."""
    assert listening().send(e.Error(slug, "why")) == [Close(code, f"{code - 4000} {slug}: why")]
    (close,) = listening().send(e.Error(slug, "🎙" * 100))
    assert isinstance(close, Close)
    assert len(close.reason.encode()) <= 123


# ---- Any order ----

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5).filter(str.strip)


@settings(max_examples=200)
@given(
    samples=st.integers(0, 12_000),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.lists(WORDS, max_size=2)), max_size=12),
    last=st.lists(WORDS, max_size=2),
    ready=st.sampled_from([SHORT_STEPS, LONG_STEPS]),
)
def test_one_response_per_60_ms(
    samples: int, steps: list[tuple[int, list[str]]], last: list[str], ready: e.Ready
) -> None:
    """CAI-26, CAI-27, CAI-31: with chunks of any size, one response per 60 ms, and the whole text."""
    it = listening(ready)
    it.receive(bytes(2 * samples) or bytes(1))
    frames: list[Frame] = []
    at = 0
    texts: list[str] = []
    for advance, spoken in steps:
        at = min(samples, at + advance)
        for text in spoken:
            texts.append(text)
            frames += it.send(final(text))
        behind = max(0, at - 700)
        progress = e.Progress(samples, at, behind, 0) if ready is LONG_STEPS else e.Progress(samples, samples, at, 0)
        frames += it.send(progress)
        assert len(frames) == at // FRAME_SAMPLES
    it.receive(b"")
    for text in last:
        texts.append(text)
        assert it.send(final(text)) == []
    *rest, close = it.send(e.Bye())
    frames += rest
    assert close == Close(1000)
    extra = len(frames) - -(-samples // FRAME_SAMPLES)
    assert extra == 0 or (extra == 1 and transcript(frames[-1:]))
    assert transcript(frames) == " ".join(texts)
    spans = [(response["start"], response["end"]) for response in responses(frames)]
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert not spans or (spans[0][0], spans[-1][1]) == (0.0, round(samples / 16_000, 3))


def test_a_move_to_another_worker_repeats_no_response() -> None:
    """CAI-26: the new worker's progress begins before the old one's ended."""
    it = listening()
    it.receive(bytes(2 * 4800))
    counts = [len(it.send(done(samples))) for samples in (960, 1920, 2880, 960, 1920, 2880, 3840)]
    assert counts == [1, 1, 1, 0, 0, 0, 1]


@settings(max_examples=100)
@given(frames=st.lists(st.text() | st.binary(max_size=10), max_size=8))
def test_anything_a_client_sends_raises_only_peer_errors(frames: list[str | bytes]) -> None:
    """CAI-20: every error can be sent."""
    it = listening()
    for frame in frames:
        try:
            it.receive(frame)
        except PeerError as error:
            (close,) = it.send(e.Error.of(error))
            assert isinstance(close, Close)
            assert close.reason.startswith("400 ")
            return
