"""Deepgram's live dialect: options, audio in every encoding and cut, control, results."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepgram.listen.v1 import types
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_dialects.deepgram import PATH, refusal
from asr_frontends import events as e
from asr_frontends.audio import ogg_opus
from asr_frontends.audio.g711 import ALAW, MULAW
from asr_frontends.audio.resample import Resampler
from asr_frontends.audio.wav_stream import HEADER_BYTES_MAX
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.deepgram.codec import PIECE_BYTES, DeepgramCodec, UtteranceEnd
from asr_frontends.dialects.deepgram.options import ListenOptions, parse_options
from asr_proto import messages as m
from asr_proto.errors import AudioError, BadRequest, DecodeError, LimitExceeded, PeerError
from tests.frontends import golden
from tests.frontends.golden import codec_for

RAW = "encoding=linear16&sample_rate=16000"
READY = e.Ready("a02c66da", "fake", "fake-en", 960)
needs_opus = pytest.mark.skipif(not ogg_opus.available(), reason="the extra webrtc is not installed")


def codec(query: str = RAW) -> DeepgramCodec:
    it = DeepgramCodec(Request(PATH, query, unix_ms=1_700_000_000_123))
    assert it.send(READY) == []
    return it


def control(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def decoded(frames: Sequence[Frame]) -> dict[str, Any]:
    """The only frame, a JSON object."""
    (frame,) = frames
    assert isinstance(frame, str)
    return dict(json.loads(frame))


def pcm_of(events: Sequence[e.ClientEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, e.Audio))


def converted(query: str, frames: Sequence[bytes]) -> bytes:
    """The session's audio when a client sends these frames and ends."""
    it = codec(query)
    events = [event for frame in frames if frame for event in it.receive(frame)]
    return pcm_of([*events, *it.receive(control("CloseStream"))])


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces that end at these places."""
    ends = [*sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def wav(samples: bytes, rate: int = 16000, channels: int = 1, tag: int = 1, bits: int = 16, **more: Any) -> bytes:
    """A WAV file; `extra` chunks come before the samples, `size` is their size in the header."""
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    fmt += more.get("fmt", b"")
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + more.get("extra", b"")
    body += b"data" + struct.pack("<I", more.get("size", len(samples))) + samples + more.get("after", b"")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def final(text: str, start_s: float, end_s: float, endpoint: m.EndpointKind = "silence") -> m.Final:
    span = (round(start_s * 16000), round(end_s * 16000))
    return m.Final(1, 0, text, *span, endpoint, None, None, m.Commit(span[1], 1, b""))


def partial(text: str, start_s: float, end_s: float) -> m.Partial:
    return m.Partial(1, 0, text, round(start_s * 16000), round(end_s * 16000))


def done(at_s: float) -> e.Progress:
    samples = round(at_s * 16000)
    return e.Progress(samples, samples, samples, 0)


def speech(kind: Any, at_s: float) -> m.Speech:
    return m.Speech(1, kind, round(at_s * 16000))


# ---- Recordings ----


@pytest.mark.parametrize("path", golden.recordings("deepgram"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


def test_there_are_recordings() -> None:
    assert len(golden.recordings("deepgram")) > 15


@pytest.mark.parametrize("path", golden.recordings("deepgram"), ids=lambda path: path.stem)
def test_the_sdk_has_a_type_for_everything_said(path: Path) -> None:
    """Check the SDK's types strictly: the SDK itself accepts any value."""
    for line in golden.read(path):
        if "server" in line:
            message = json.loads(line["server"])
            checked = getattr(types, f"ListenV1{message['type']}").model_validate(message)
            assert checked.type == message["type"]


# ---- The request ----


def test_the_path_is_deepgrams() -> None:
    assert isinstance(codec_for(Request(PATH, RAW)), DeepgramCodec)
    assert codec_for(Request(PATH + "/", RAW)) is None


@pytest.mark.parametrize(
    "offered, echoed", [((), None), (("token", "KEY"), "token"), (("chat",), None), (("KEY", "token"), "token")]
)
def test_the_subprotocol_of_a_key_is_echoed(offered: tuple[str, ...], echoed: str | None) -> None:
    assert DeepgramCodec(Request(PATH, RAW, offered)).subprotocol == echoed


@pytest.mark.parametrize(
    "query, options",
    [
        ("", ListenOptions()),
        (RAW, ListenOptions("linear16", 16000)),
        ("sample_rate=44100", ListenOptions("", 44100)),
        ("encoding=mulaw&sample_rate=8000&channels=2", ListenOptions("mulaw", 8000, 2)),
        ("encoding=alaw&sample_rate=8000", ListenOptions("alaw", 8000)),
        ("language=en-US", ListenOptions(language="en-US")),
        ("language=multi", ListenOptions()),
        ("interim_results=true", ListenOptions(interim_results=True)),
        ("interim_results=True", ListenOptions(interim_results=True)),
        ("interim_results=false&vad_events=true", ListenOptions(vad_events=True)),
        ("endpointing=false", ListenOptions(endpointing=False)),
        ("endpointing=true", ListenOptions()),
        ("endpointing=300", ListenOptions()),
        ("endpointing=0", ListenOptions()),
        ("interim_results=true&utterance_end_ms=1000", ListenOptions(interim_results=True, utterance_end_ms=1000)),
        ("multichannel=false", ListenOptions()),
        ("model=nova-3&version=latest", ListenOptions()),
        ("model=anything-at-all", ListenOptions()),
        (
            "keyterm=a&keyterm=b&keywords=c:2&punctuate=true&smart_format=true&diarize=true&x=%00&=&tag=",
            ListenOptions(),
        ),
    ],
)
def test_options(query: str, options: ListenOptions) -> None:
    assert parse_options(query) == options


@pytest.mark.parametrize(
    "query, named",
    [
        ("encoding=amr-nb&sample_rate=8000", "encoding"),
        ("encoding=LINEAR16&sample_rate=8000", "encoding"),
        ("encoding=linear16", "sample_rate"),
        ("encoding=mulaw", "sample_rate"),
        ("sample_rate=", "sample_rate"),
        ("sample_rate=7999", "sample_rate"),
        ("sample_rate=192001", "sample_rate"),
        ("sample_rate=16000.0", "sample_rate"),
        ("sample_rate=-16000", "sample_rate"),
        ("sample_rate=99999999999999999999", "sample_rate"),
        ("sample_rate=%D9%A8%D9%A0%D9%A0%D9%A0", "sample_rate"),
        (RAW + "&channels=0", "channels"),
        (RAW + "&channels=17", "channels"),
        (RAW + "&channels=two", "channels"),
        (RAW + "&multichannel=true", "multichannel"),
        (RAW + "&interim_results=yes", "interim_results"),
        (RAW + "&interim_results=", "interim_results"),
        (RAW + "&vad_events=1", "vad_events"),
        (RAW + "&endpointing=soon", "endpointing"),
        (RAW + "&endpointing=-1", "endpointing"),
        (RAW + "&endpointing=60001", "endpointing"),
        # Digits that a check of the first nine would let through: a rate of 1.9e14 stopped the whole process.
        ("encoding=mulaw&sample_rate=000192000000000000", "sample_rate"),
        (RAW + "&channels=000000001000000000", "channels"),
        (RAW + "&endpointing=" + "9" * 5000, "endpointing"),
        (RAW + "&utterance_end_ms=1000", "interim_results"),
        (RAW + "&interim_results=true&utterance_end_ms=999", "utterance_end_ms"),
        (RAW + "&interim_results=true&utterance_end_ms=5001", "utterance_end_ms"),
        (RAW + "&language=" + "x" * 129, "language"),
        (RAW + "&language=%0A", "language"),
        (RAW + "&callback=https://example.com", "callback"),
    ],
)
def test_refused(query: str, named: str) -> None:
    """The reason names the wrong option."""
    with pytest.raises(BadRequest, match=named) as caught:
        DeepgramCodec(Request(PATH, query))
    assert caught.value.slug == "bad-request"


def test_a_refusal_has_deepgrams_form() -> None:
    body = {"err_code": "Bad Request", "err_msg": "no", "request_id": "r1"}
    assert json.loads(refusal("no", "r1")) == body


@pytest.mark.parametrize("encoding", ["opus", "ogg-opus"])
def test_opus_without_its_extra_is_refused_by_its_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ogg_opus, "av", None)
    with pytest.raises(BadRequest, match=r"asr-pool\[webrtc\]"):
        codec(f"encoding={encoding}")
    with pytest.raises(AudioError, match=r"asr-pool\[webrtc\]"):
        codec("").receive(b"OggS and more")


@pytest.mark.parametrize(
    "query, start",
    [
        (RAW, e.Start("", "", False, 16000)),
        (RAW + "&model=nova-2&language=en-GB&interim_results=true", e.Start("", "en-GB", True, 16000)),
        (RAW + "&interim_results=true&utterance_end_ms=2000", e.Start("", "", True, 1600)),
    ],
)
def test_the_connection_starts_the_session(query: str, start: e.Start) -> None:
    assert codec(query).opening() == [start]


@given(st.text(max_size=80))
def test_any_query_is_taken_or_refused(query: str) -> None:
    try:
        parse_options(query)
    except BadRequest as error:
        assert error.detail


# ---- Audio ----


def test_linear16_passes_as_it_is() -> None:
    assert converted(RAW, [noise(6401)]) == noise(6401)[:6400]


def test_channels_are_mixed() -> None:
    pairs = np.array([[100, 200], [-3, -4], [32767, 32767], [-32768, 32767]], "<i2")
    assert np.frombuffer(converted(RAW + "&channels=2", [pairs.tobytes()]), "<i2").tolist() == [150, -4, 32767, 0]


@pytest.mark.parametrize("encoding, table", [("mulaw", MULAW), ("alaw", ALAW)])
def test_telephone_audio_is_resampled(encoding: str, table: Any) -> None:
    data = noise(4000)
    resampler = Resampler(8000)
    expected = resampler.feed(table[list(data)].astype("<i2").tobytes()) + resampler.end()
    assert converted(f"encoding={encoding}&sample_rate=8000", [data]) == expected
    assert len(expected) == 2 * 8000


LAYOUTS = [
    (encoding, rate, channels)
    for encoding in ("linear16", "mulaw", "alaw")
    for rate in (8000, 16000, 44100)
    for channels in (1, 2, 3)
]


@pytest.mark.parametrize("encoding, rate, channels", LAYOUTS)
@settings(max_examples=15)
@given(size=st.integers(0, 3000), at=st.lists(st.integers(0, 3000), max_size=12))
def test_the_cut_of_raw_audio_does_not_matter(
    encoding: str, rate: int, channels: int, size: int, at: list[int]
) -> None:
    query = f"encoding={encoding}&sample_rate={rate}&channels={channels}"
    whole = converted(query, [noise(size)] if size else [])
    assert converted(query, cut(noise(size), at)) == whole
    frames = size // channels // (2 if encoding == "linear16" else 1)
    assert abs(len(whole) // 2 - frames * 16000 / rate) <= 1


@settings(max_examples=60)
@given(
    at=st.lists(st.integers(0, 3000), max_size=12),
    tag_bits=st.sampled_from([(1, 16), (6, 8), (7, 8)]),
    rate=st.sampled_from([8000, 16000, 48000]),
    channels=st.integers(1, 3),
    extra=st.sampled_from([b"", b"LIST\x03\x00\x00\x00abc\x00", b"JUNK\x00\x00\x00\x00"]),
    after=st.sampled_from([b"", b"LIST\x04\x00\x00\x00abcd"]),
)
def test_a_wav_file_says_itself_what_it_is(
    at: list[int], tag_bits: tuple[int, int], rate: int, channels: int, extra: bytes, after: bytes
) -> None:
    samples = noise(1998)
    file = wav(samples, rate, channels, *tag_bits, extra=extra, after=after)
    encoding = {1: "linear16", 6: "alaw", 7: "mulaw"}[tag_bits[0]]
    raw = converted(f"encoding={encoding}&sample_rate={rate}&channels={channels}", [samples])
    assert converted("model=nova-3&sample_rate=11025&channels=7", cut(file, at)) == raw


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 1 << 31])
def test_a_wav_file_that_is_written_while_it_is_sent(size: int) -> None:
    assert converted("", [wav(noise(640), size=size)]) == noise(640)


def test_an_extensible_wav_file() -> None:
    fmt = struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    assert converted("", [wav(noise(640), tag=0xFFFE, fmt=fmt)]) == noise(640)


@pytest.mark.parametrize(
    "file",
    [
        b"RIFF....AVI fmt ",
        wav(b"", tag=3, bits=32),
        wav(b"", bits=24),
        wav(b"", tag=0xFFFE),
        wav(b"", rate=4000),
        wav(b"", rate=200_000),
        wav(b"", channels=0),
        wav(b"", channels=17),
        b"RIFF\x00\x00\x00\x00WAVEfmt \x04\x00\x00\x00abcd",
        b"RIFF\x00\x00\x00\x00WAVEdata\x04\x00\x00\x00abcd",
        b"RIFF\x00\x00\x00\x00WAVELIST" + struct.pack("<I", HEADER_BYTES_MAX),
        b"RIFF\x00\x00\x00\x00WAVE" + b"JUNK\x00\x00\x00\x00" * (HEADER_BYTES_MAX // 8),
    ],
)
def test_wav_files_that_cannot_be_read(file: bytes) -> None:
    for frames in ([file], cut(file, range(0, len(file), 997))):
        with pytest.raises(AudioError) as caught:
            converted("", frames)
        assert caught.value.slug == "bad-audio"


def test_raw_audio_without_an_encoding_is_linear16_if_there_is_a_rate() -> None:
    assert converted("sample_rate=16000", [noise(3), noise(637)]) == noise(3) + noise(637)
    with pytest.raises(AudioError, match="sample_rate"):
        converted("", [noise(640)])


def test_with_an_encoding_nothing_is_taken_for_a_container() -> None:
    assert converted(RAW, [wav(noise(640))]) == wav(noise(640))


def test_long_messages_become_pieces() -> None:
    events = codec("encoding=mulaw&sample_rate=8000").receive(noise(1_048_576))
    assert all(isinstance(event, e.Audio) and 0 < len(event.pcm) <= PIECE_BYTES for event in events)
    assert 4_190_000 < len(pcm_of(events)) <= 4_194_304


# ---- Opus ----


def opus_file(seconds: float, layout: str = "mono") -> bytes:
    """A tone of 440 Hz in Ogg."""
    import av

    tone = (np.sin(2 * np.pi * 440 * np.arange(int(seconds * 48000)) / 48000) * 9000).astype("<i2")
    channels = 1 if layout == "mono" else 2
    frame = av.AudioFrame.from_ndarray(np.repeat(tone, channels)[None], format="s16", layout=layout)
    frame.rate = 48000
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout=layout)
        for source in (frame, None):
            container.mux(stream.encode(source))
    return file.getvalue()


@needs_opus
@pytest.mark.parametrize("query", ["", "encoding=opus", "encoding=ogg-opus&sample_rate=48000"])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_opus(query: str, layout: str) -> None:
    samples = np.frombuffer(converted(query, [opus_file(1.0, layout)]), "<i2")
    assert 16000 <= len(samples) <= 16000 + 640
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.corrcoef(samples[:15000], tone[:15000])[0, 1] > 0.999


@needs_opus
@settings(max_examples=15)
@given(at=st.lists(st.integers(0, 20_000), max_size=12))
def test_the_cut_of_opus_does_not_matter(at: list[int]) -> None:
    file = opus_file(0.3)
    assert converted("", cut(file, at)) == converted("", [file])


@needs_opus
def test_opus_files_one_after_the_other_are_one_audio() -> None:
    assert len(converted("", [opus_file(0.5) * 2])) == pytest.approx(2 * 16000 * 1.0, abs=4000)


def ogg_page(packets: Sequence[bytes], flags: int) -> bytes:
    lacing = b"".join(bytes([255] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    return struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, 1, 0, 0, len(lacing)) + lacing + b"".join(packets)


ENDLESS = ogg_page([], 1)[:26] + b"\xff" * 256 + bytes(65025)
"""A page whose packet began before it and does not end in it."""
OPUS_HEAD = b"OpusHead" + struct.pack("<BBHIHB", 1, 1, 312, 48000, 0, 0)


@needs_opus
@pytest.mark.parametrize(
    "data",
    [
        b"Oggs",
        b"OggSno page at all, but long enough for one".ljust(400, b"\xff") * 2,
        ogg_page([b"OpusTags"], 0),
        ogg_page([b"\x01vorbis" + bytes(23)], 2),
        ogg_page([OPUS_HEAD[:12]], 2),
        ogg_page([OPUS_HEAD[:9] + b"\x09" + OPUS_HEAD[10:]], 2),
        ogg_page([OPUS_HEAD[:18] + b"\x01"], 2),
        ogg_page([OPUS_HEAD], 2) + ogg_page([b"OpusTags"], 0) + b"RIFF",
        ogg_page([OPUS_HEAD], 2) + ogg_page([b"OpusTags"], 0) + ogg_page([b"\xff\xff\xff\xff"], 0),
        ogg_page([OPUS_HEAD], 2) + ogg_page([], 0)[:26] + b"\xff" * 256 + bytes(65025) + ENDLESS * 2,
    ],
)
def test_opus_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(AudioError):
        converted("encoding=opus", [data])


@needs_opus
def test_a_few_bytes_of_opus_cannot_become_hours() -> None:
    page = ogg_page([b"\x1b\x02"] * 200, 0)
    with pytest.raises(LimitExceeded):
        converted("", [ogg_page([OPUS_HEAD], 2) + ogg_page([b"OpusTags"], 0) + page * 20])


# ---- Any bytes ----

FIRST = st.sampled_from([b"", b"RIFF", wav(b"")[:36], b"OggS", ogg_page([OPUS_HEAD], 2), b"OggS\0\2" + bytes(21)])


@settings(max_examples=300)
@given(
    query=st.sampled_from(["", RAW, "sample_rate=8000", "encoding=alaw&sample_rate=44100&channels=3", "encoding=opus"]),
    first=FIRST,
    data=st.binary(max_size=300),
    at=st.lists(st.integers(0, 400), max_size=6),
    texts=st.lists(st.text(max_size=20) | st.sampled_from([control("Finalize"), control("KeepAlive")]), max_size=2),
)
def test_any_bytes_raise_only_errors_of_the_peer(
    query: str, first: bytes, data: bytes, at: list[int], texts: list[str]
) -> None:
    if query == "encoding=opus" and not ogg_opus.available():
        return
    it = codec(query)
    for frame in (*cut(first + data, at), *texts, control("CloseStream")):
        try:
            it.receive(frame)
        except PeerError as error:
            frames = it.send(e.Error.of(error))
            assert isinstance(frames[-1], Close) and frames[-1].code == 1008
            return
        it.replies()
    assert decoded(it.send(e.Bye())[:1])["type"] == "Metadata"


# ---- Control ----


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "hello",
        "[]",
        "1",
        "null",
        "{}",
        '{"type":1}',
        '{"type":null}',
        control("keepalive"),
        control("Start"),
        "[" * 9000,
    ],
)
def test_text_that_is_no_message(frame: str) -> None:
    with pytest.raises(DecodeError):
        codec().receive(frame)


def test_keepalive() -> None:
    assert codec().receive(control("KeepAlive")) == [e.KeepAlive()]


def test_a_configure_is_answered_though_nothing_can_be_configured() -> None:
    it = codec()
    assert it.receive(control("Configure", keyterms=["a"])) == [e.KeepAlive()]
    assert decoded(it.replies())["type"] == "ConfigureFailure"
    assert it.replies() == []


@pytest.mark.parametrize("end", [b"", control("CloseStream")])
def test_the_end_of_the_stream_and_silence_after_it(end: str | bytes) -> None:
    it = codec()
    assert it.receive(end) == [e.Stop()]
    for frame in (b"", b"more", control("CloseStream"), control("Finalize"), control("KeepAlive"), "noise"):
        assert it.receive(frame) == []


def test_finalize_is_a_flush_after_all_audio_before_it() -> None:
    it = codec("encoding=linear16&sample_rate=8000")
    before = it.receive(noise(3200))
    *tail, flush = it.receive(control("Finalize"))
    assert flush == e.Flush("1")
    assert len(pcm_of([*before, *tail])) == 6400
    assert it.receive(control("Finalize"))[-1] == e.Flush("2")


def test_every_finalize_is_answered_once_with_or_without_words() -> None:
    it = codec()
    for _ in range(3):
        it.receive(noise(16000))
        it.receive(control("Finalize"))
    silence, flush = it.send(final("one", 0, 0.2)), it.send(final("two", 0.2, 0.5, "flush"))
    assert (decoded(silence)["from_finalize"], decoded(silence)["speech_final"]) == (False, True)
    assert (decoded(flush)["from_finalize"], decoded(flush)["speech_final"]) == (True, True)
    assert it.send(m.Flushed(1, "1")) == []
    empty = decoded(it.send(m.Flushed(1, "2")))
    assert (empty["from_finalize"], empty["is_final"], empty["speech_final"]) == (True, True, True)
    assert (empty["start"], empty["duration"]) == (1.0, 0.0)
    assert empty["channel"]["alternatives"] == [{"transcript": "", "confidence": 0.0, "words": []}]
    it.receive(control("CloseStream"))
    assert decoded(it.send(final("three", 1.0, 1.5, "flush")))["from_finalize"] is True
    assert it.send(m.Flushed(1, "3")) == []
    assert decoded(it.send(final("four", 1.5, 1.6, "flush")))["from_finalize"] is False


# ---- Results ----


@pytest.mark.parametrize(
    "query, endpoint, speech_final",
    [
        (RAW, "silence", True),
        (RAW, "flush", True),
        (RAW, "length", False),
        (RAW + "&endpointing=false", "silence", False),
        (RAW + "&endpointing=false", "flush", True),
    ],
)
def test_speech_final(query: str, endpoint: m.EndpointKind, speech_final: bool) -> None:
    result = decoded(codec(query).send(final("yes", 0, 1, endpoint)))
    assert (result["is_final"], result["speech_final"]) == (True, speech_final)


def test_a_partial_is_an_interim_result() -> None:
    result = decoded(codec(RAW + "&interim_results=true").send(partial("Hello, wor", 0.5, 1.25)))
    assert (result["is_final"], result["speech_final"], result["from_finalize"]) == (False, False, False)
    assert (result["start"], result["duration"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    "text, plain",
    [("Hello,", "hello"), ("O'Neill's", "o'neill's"), ("“Why?”", "why"), ("—", "—"), ("3.5", "3.5"), ("¿Qué?", "qué")],
)
def test_a_word_has_a_plain_and_a_punctuated_form(text: str, plain: str) -> None:
    (word,) = decoded(codec().send(final(text, 0, 1)))["channel"]["alternatives"][0]["words"]
    assert (word["word"], word["punctuated_word"]) == (plain, text)


def test_times_of_words_are_within_their_utterance_and_in_order() -> None:
    words = decoded(codec().send(final("so be it then", 1.0, 2.0)))["channel"]["alternatives"][0]["words"]
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (1.0, 2.0)


def test_a_silent_final_has_no_words() -> None:
    alternative = decoded(codec().send(final("", 0, 1)))["channel"]["alternatives"][0]
    assert alternative == {"transcript": "", "confidence": 0.0, "words": []}


def test_speech_started_only_when_asked_for() -> None:
    it = codec(RAW + "&vad_events=true")
    assert decoded(it.send(speech("start", 9.54))) == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 9.54}
    assert it.send(speech("end", 10.0)) == []
    assert codec().send(speech("start", 9.54)) == []


def test_metadata() -> None:
    it = codec("encoding=linear16&sample_rate=8000&channels=2")
    for frame in cut(noise(32002), (7, 1000)):
        it.receive(frame)
    it.receive(control("CloseStream"))
    text, close = it.send(e.Bye())
    metadata = decoded([text])
    (model_uuid,) = metadata.pop("models")
    assert metadata.pop("model_info") == {model_uuid: {"name": "fake-en", "version": "", "arch": "fake"}}
    assert metadata == {
        "type": "Metadata",
        "transaction_key": "deprecated",
        "request_id": "a02c66da",
        "sha256": hashlib.sha256(noise(32002)).hexdigest(),
        "created": "2023-11-14T22:13:20.123Z",
        "duration": 1.0,
        "channels": 2,
    }
    assert close == Close(1000)


@pytest.mark.parametrize(
    "slug, code, name",
    [
        ("bad-message", 1008, "DATA-0000"),
        ("bad-audio", 1008, "DATA-0000"),
        ("unsupported-language", 1008, "DATA-0000"),
        ("session-too-long", 1008, "DATA-0000"),
        ("idle-timeout", 1011, "NET-0001"),
        ("at-capacity", 1011, "NET-0000"),
        ("session-lost", 1011, "NET-0000"),
        ("going-away", 1011, "NET-0000"),
    ],
)
def test_errors(slug: str, code: int, name: str) -> None:
    text, close = codec().send(e.Error(slug, "x" * 200))
    assert decoded([text])["type"] == "Error"
    assert isinstance(close, Close) and close.code == code
    assert close.reason.startswith(f"{name}: {slug}: x") and len(close.reason.encode()) == 123


# ---- A server that stops ----


def test_no_audio_stays_in_the_resampler_when_the_server_stops() -> None:
    """Of telephony's 8 kHz it holds 66 ms, after which the text of the last word can differ."""
    pcm, query = noise(8000), "encoding=linear16&sample_rate=8000"
    it = codec(query)
    assert pcm_of([*it.receive(pcm), *it.tail()]) == converted(query, [pcm])


def test_nothing_follows_the_end_of_the_audio_when_the_server_stops() -> None:
    it = codec("encoding=linear16&sample_rate=8000")
    it.receive(noise(8000))
    it.receive(control("CloseStream"))
    assert it.tail() == []


# ---- UtteranceEnd ----


@pytest.mark.parametrize(
    "story, ends",
    [
        ([done(9)], []),
        ([final("a", 0, 1), done(1.9), done(2.0), done(5)], [(2, 1.0)]),
        ([done(3), final("a", 0, 1)], [(1, 1.0)]),
        ([final("", 0, 1), done(5)], []),
        ([final("a", 0, 1), partial("b", 1.2, 1.5), done(5)], []),
        ([final("a", 0, 1), partial("b", 1.2, 1.5), done(2.1), partial("", 1.2, 1.5), done(2.2)], [(3, 1.0)]),
        ([final("a", 0, 1), final("b", 1, 1.5), done(2.4), done(2.5)], [(3, 1.5)]),
        ([final("a", 0, 1), speech("start", 1.5), done(2.1), final("b", 1.5, 2), done(5)], []),
        ([final("a", 0, 1), speech("start", 1.5), done(2.1), speech("end", 2), done(2.2)], [(3, 1.0)]),
        ([speech("start", 0), speech("end", 1), final("a", 0, 1), done(2)], [(3, 1.0)]),
    ],
)
def test_utterance_end(story: list[Any], ends: list[tuple[int, float]]) -> None:
    """The number of each event that is answered, with the end of the word in the answer."""
    watch = UtteranceEnd(1000)
    answers = [(number, watch.update(event)) for number, event in enumerate(story)]
    assert [answer for answer in answers if answer[1] is not None] == ends
    silent = UtteranceEnd(0)
    assert [silent.update(event) for event in story] == [None] * len(story)
