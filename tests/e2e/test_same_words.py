"""The same speech gives the same words through every dialect: finals are a pure function of the samples."""

from __future__ import annotations

import asyncio
import functools
import http.client
import importlib.util
import io
import json
from collections.abc import Callable

import pytest
import soundfile

from asr_client.dialects import DIALECTS
from tests.e2e.clients import WAIT_S, converse, cut
from tests.e2e.service import ROOT, Pool

DATA = ROOT / "tests" / "data"
CLIPS = ["speechbrain__spk1_snt1.wav", "speechbrain__spk2_snt5.wav"]
PAUSE = bytes(48_000)
"""Long enough to end an utterance."""
FRAME_BYTES = 3200
HAS_WEBRTC = importlib.util.find_spec("aiortc") is not None


@functools.cache
def speech_of(clips: tuple[str, ...]) -> bytes:
    """PCM16LE of the clips, 16 kHz, with pauses between them."""
    sounds = []
    for name in clips:
        samples, rate = soundfile.read(DATA / name, dtype="int16")
        assert rate == 16000
        sounds.append(samples.tobytes())
    return PAUSE.join(sounds)


@functools.cache
def expected(url: str, clips: tuple[str, ...]) -> tuple[str, int]:
    """The words and the number of utterances on `/v1/stream`, as a plain client receives them."""
    client = converse(url, cut(speech_of(clips), FRAME_BYTES), partials=False)
    return client.text, len(client.of("final"))


# ---- The ways to send it ----


def stream(pool: Pool, pcm: bytes, dialect: str) -> str:
    """The whole text of all frames, sent as fast as the server reads them."""
    spoken = DIALECTS[dialect]
    session = spoken.run_session(spoken.url(f"127.0.0.1:{pool.port}"), cut(pcm, FRAME_BYTES), pace=0)
    return asyncio.run(session).said[-1].text


def post(pool: Pool, path: str, body: bytes, content_type: str) -> str:
    """The text in the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", pool.port, timeout=WAIT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    assert response.status == 200, answer
    return str(json.loads(answer)["text"])


def amira_batch(pool: Pool, pcm: bytes) -> str:
    return post(pool, "/v2/decode/batch/amira", pcm, "application/octet-stream")


def openai(pool: Pool, pcm: bytes) -> str:
    """A form with a WAV file, written out."""
    wav = io.BytesIO()
    soundfile.write(wav, memoryview(pcm).cast("h"), 16_000, format="WAV", subtype="PCM_16")
    head = b"--part\r\nContent-Disposition: form-data; "
    model = head + b'name="model"\r\n\r\nwhisper-1\r\n'
    file = head + b'name="file"; filename="speech.wav"\r\nContent-Type: audio/wav\r\n\r\n' + wav.getvalue() + b"\r\n"
    body = model + file + b"--part--\r\n"
    return post(pool, "/v1/audio/transcriptions", body, "multipart/form-data; boundary=part")


WAYS: dict[str, Callable[[Pool, bytes], str]] = {
    **{name: functools.partial(stream, dialect=name) for name in DIALECTS},
    "amira batch": amira_batch,
    "openai": openai,
}


@pytest.mark.parametrize("clips", [CLIPS[:1], CLIPS], ids=["a clip", "two clips and a pause"])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_words(speech: Pool, way: str, clips: list[str]) -> None:
    if way == "moonshine" and not HAS_WEBRTC:
        pytest.skip("needs the extra webrtc")
    text, utterances = expected(speech.url, tuple(clips))
    assert utterances == len(clips)
    assert len(text.split()) >= 7 * len(clips)
    assert WAYS[way](speech, speech_of(tuple(clips))).split() == text.split()
