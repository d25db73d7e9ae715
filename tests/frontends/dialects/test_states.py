"""Every codec continues in another process: the state of one restores another, and the client sees no difference."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_frontends import events as e
from asr_frontends.audio import ogg_opus
from asr_frontends.codec import Codec, Request
from asr_frontends.dialects.registry import DIALECTS
from asr_proto.audio import to_int16
from asr_proto.errors import DecodeError, PeerError
from tests.frontends.golden import Between, Line, codec_for, read, recordings, replay

RECORDINGS = sorted(path for dialect in DIALECTS for path in recordings(dialect.name))
REQUESTS = [
    Request("/v1/stream"),
    Request("/asr/v0.1/stream"),
    Request("/"),
    Request("/ws"),
    Request("/v2/decode/stream/x"),
    Request("/v1/listen", "encoding=mulaw&sample_rate=8000"),
    Request("/v1/listen"),
]


def new(request: Request) -> Codec:
    codec = codec_for(request)
    assert codec is not None
    return codec


def passed_on(codec: Codec, request: Request) -> Codec:
    """The codec in another process."""
    state = codec.state()
    assert state is not None
    other = new(request)
    other.restore(state)
    return other


def sometimes(numbers: set[int]) -> Between:
    """Pass the codec on before the lines with these numbers."""
    line = count()
    return lambda codec, request: passed_on(codec, request) if next(line) in numbers else codec


def comparable(lines: list[Line]) -> str:
    """The lines without Deepgram's hash of the audio, which cannot be continued in another process."""
    return re.sub(r'\\"sha256\\":\\"[0-9a-f]*\\"', "", json.dumps(lines))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_conversation_goes_on_after_any_line(path: Path) -> None:
    recording = read(path)
    for at in range(len(recording)):
        assert comparable(replay(recording, sometimes({at}))) == comparable(recording)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_conversation_that_is_passed_on_before_every_line(path: Path) -> None:
    recording = read(path)
    assert comparable(replay(recording, passed_on)) == comparable(recording)


@settings(max_examples=30, deadline=None)
@given(
    query=st.sampled_from(["mulaw&sample_rate=8000", "linear16&sample_rate=44100&channels=2", "wav"]),
    sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=8),
    moves=st.sets(st.integers(0, 60), max_size=5),
)
def test_audio_goes_on_within_a_sample(query: str, sizes: list[int], moves: set[int]) -> None:
    """Raw bytes that are cut anywhere, also within a WAV header."""
    is_wav = query == "wav"
    request = Request("/v1/listen", "" if is_wav else f"encoding={query}")
    data = np.random.default_rng(7).integers(0, 255, 40_000, dtype=np.uint8).tobytes()
    if is_wav:
        header = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + (22_050).to_bytes(4, "little")
        data = header + (44_100).to_bytes(4, "little") + b"\2\0\x10\0data\0\0\0\0" + data
    there, moved = new(request), new(request)
    expected, got, at = b"", b"", 0
    for number in count():
        if at >= len(data):
            break
        frame = data[at : at + sizes[number % len(sizes)]]
        at += len(frame)
        if number in moves:
            moved = passed_on(moved, request)
        expected += pcm(there.receive(frame))
        got += pcm(moved.receive(frame))
    expected += pcm(there.receive('{"type":"CloseStream"}'))
    got += pcm(moved.receive('{"type":"CloseStream"}'))
    assert len(got) == len(expected)
    assert abs(to_int16(got).astype(int) - to_int16(expected)).max(initial=0) <= 1


def pcm(events: list[e.ClientEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, e.Audio))


@pytest.mark.skipif(not ogg_opus.available(), reason="needs the extra webrtc")
def test_opus_cannot_be_passed_on() -> None:
    assert new(Request("/v1/listen", "encoding=opus")).state() is None


@given(request=st.sampled_from(REQUESTS), state=st.binary(max_size=200))
def test_a_state_of_another_release_is_refused(request: Request, state: bytes) -> None:
    codec = new(request)
    with pytest.raises(DecodeError):
        codec.restore(b"\x9f" + state)
    try:
        codec.restore(state)
    except PeerError as error:
        assert isinstance(error, DecodeError)
