"""`/v1/listen` through real processes, with the unmodified package `deepgram-sdk`."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import (
    ListenV1Error,
    ListenV1Finalize,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr_frontends.audio.g711 import MULAW
from asr_frontends.audio.wav_stream import Layout, SampleStream
from tests.e2e.clients import WAIT_S, cut, expected, noise, paced, websocket
from tests.e2e.service import Pool

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    import_module("deepgram.listen.v1.client")  # it takes names that websockets calls deprecated

DATA = Path(__file__).parents[1] / "data"
SPEECH = "speechbrain__spk1_snt1.wav"
WORDS = "the child almost hurt the small dog"


class Heard:
    """One conversation of the SDK: its socket, and everything heard so far by kind."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.errors: list[BaseException] = []
        self.closed = threading.Event()
        self._news = threading.Condition()
        for kind, handler in (
            (EventType.MESSAGE, self._on_message),
            (EventType.ERROR, self.errors.append),
            (EventType.CLOSE, lambda _: self.closed.set()),
        ):
            connection.on(kind, handler)

    def _on_message(self, message: Any) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The condition's first true value, looked at with every message."""
        with self._news:
            value = self._news.wait_for(condition, WAIT_S)
        assert value, f"did not hear {what}: {self.messages[-3:]}"
        return value

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.connection.send_media(frame)

    def finish(self) -> None:
        """CloseStream, up to the server's close."""
        self.connection.send_close_stream()
        assert self.closed.wait(WAIT_S)
        assert not self.errors

    @property
    def finals(self) -> list[Any]:
        return [result for result in self.of(ListenV1Results) if result.is_final]

    @property
    def text(self) -> str:
        return " ".join(text for final in self.finals if (text := final.channel.alternatives[0].transcript))

    @property
    def metadata(self) -> Any:
        assert isinstance(self.messages[-1], ListenV1Metadata)
        return self.messages[-1]


@contextmanager
def listen(url: str, **options: Any) -> Iterator[Heard]:
    """A conversation with `nova-3`, heard in a thread as the SDK's examples do."""
    environment = DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)
    client = DeepgramClient(api_key="any", environment=environment)
    with client.listen.v1.connect(model="nova-3", **options) as connection:
        heard = Heard(connection)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        try:
            yield heard
        finally:
            connection._websocket.close()
            listening.join(WAIT_S)
            assert not listening.is_alive()


def raw(rate: int = 16000, encoding: str = "linear16", **more: Any) -> dict[str, Any]:
    return {"encoding": encoding, "sample_rate": rate, **more}


def words_of(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def speech_pcm(name: str = SPEECH, rate: int = 16000) -> Any:
    """int16 [samples] of a file at this rate."""
    samples, its_rate = soundfile.read(DATA / name, dtype="int16")
    return samples if its_rate == rate else soxr.resample(samples, its_rate, rate)


def mulaw(samples: Any) -> bytes:
    """The nearest codes: as a telephone exchange would have sent them."""
    order = np.argsort(MULAW, kind="stable")
    edges = (MULAW[order].astype(int)[:-1] + MULAW[order].astype(int)[1:]) // 2
    return bytes(order[np.searchsorted(edges, samples.astype(int), side="left")].astype(np.uint8))


# ---- The fake engine: every sample counts ----


@pytest.mark.parametrize("size", [640, 0], ids=["20 ms", "random"])
def test_the_text_is_that_of_the_samples(fake: Pool, size: int) -> None:
    pcm = noise(3.3, seed=3)
    before = datetime.now(UTC)
    with listen(fake.url, **raw()) as heard:
        heard.send(*cut(pcm, size))
        heard.finish()
    assert heard.text == expected(pcm)
    assert [final.speech_final for final in heard.finals] == [False, False, False, True]
    assert not [result for result in heard.of(ListenV1Results) if not result.is_final]
    metadata = heard.metadata
    assert (metadata.duration, metadata.channels) == (3.3, 1)
    assert metadata.sha256 == hashlib.sha256(pcm).hexdigest()
    assert metadata.request_id == heard.finals[0].metadata.request_id != ""
    assert heard.finals[0].metadata.model_info.name == "fake"
    created = datetime.fromisoformat(metadata.created)
    assert abs((created - before).total_seconds()) < WAIT_S


def test_interim_results_grow_into_their_final(fake: Pool) -> None:
    pcm = noise(2.0, seed=4)
    with listen(fake.url, **raw(), interim_results=True) as heard:
        heard.send(*paced(cut(pcm, 3200), 0.1))
        heard.finish()
    assert heard.text == expected(pcm)
    finals = {final.start: final.channel.alternatives[0].transcript for final in heard.finals}
    interims = [result for result in heard.of(ListenV1Results) if not result.is_final]
    assert interims
    for interim in interims:
        assert finals[interim.start].startswith(interim.channel.alternatives[0].transcript)
    for final in heard.finals:
        words = final.channel.alternatives[0].words
        assert " ".join(word.punctuated_word for word in words) == final.channel.alternatives[0].transcript
        assert words[0].start == final.start
        assert words[-1].end == pytest.approx(final.start + final.duration)
        assert all(earlier.end <= later.start for earlier, later in itertools.pairwise(words))


def test_finalize_is_always_answered(fake: Pool) -> None:
    first, second = noise(0.6, seed=5), noise(0.4, seed=6)

    def answers() -> list[Any]:
        return [final for final in heard.finals if final.from_finalize]

    with listen(fake.url, **raw()) as heard:
        for number, pcm in enumerate((first, b"", second), 1):
            heard.send(*([pcm] if pcm else []))
            heard.connection.send_finalize(ListenV1Finalize(type="Finalize"))
            heard.wait(lambda number=number: len(answers()) == number, f"answer {number}")
        heard.finish()
    texts = [answer.channel.alternatives[0].transcript for answer in answers()]
    assert texts == [expected(first), "", expected(second)]
    assert [answer.start for answer in answers()] == [0.0, 0.6, 0.6]
    assert len(heard.finals) == 3


@pytest.mark.parametrize(
    "encoding, rate, channels, sample_bytes",
    [("linear16", 48000, 2, 2), ("linear16", 8000, 1, 2), ("mulaw", 8000, 1, 1), ("alaw", 8000, 2, 1)],
)
def test_every_encoding(fake: Pool, encoding: str, rate: int, channels: int, sample_bytes: int) -> None:
    data = noise(rate * channels * sample_bytes / 16000, seed=7)
    stream = SampleStream(Layout(encoding, rate, channels))
    pcm = stream.feed(data) + stream.end()
    with listen(fake.url, **raw(rate, encoding), channels=channels) as heard:
        heard.send(*cut(data, 0))
        heard.finish()
    assert heard.text == expected(pcm)
    assert (heard.metadata.duration, heard.metadata.channels) == (2.0, channels)


def test_a_wav_file_as_it_is(fake: Pool) -> None:
    file = (DATA / SPEECH).read_bytes()
    with listen(fake.url) as heard:
        heard.send(*cut(file, 4096))
        heard.finish()
    assert heard.text == expected(speech_pcm().tobytes())


def test_an_empty_frame_ends_the_stream(fake: Pool) -> None:
    pcm = noise(0.5, seed=8)
    with listen(fake.url, **raw()) as heard:
        heard.send(pcm, b"")
        assert heard.closed.wait(WAIT_S)
    assert heard.text == expected(pcm)
    assert heard.metadata.duration == 0.5


def test_keepalive_keeps_a_silent_stream_open(fake: Pool, impatient: str) -> None:
    pcm = noise(0.5, seed=9)
    with listen(impatient, **raw()) as heard:
        heard.send(pcm[:8000])
        silent_until = time.monotonic() + 4.5
        while time.monotonic() < silent_until:
            heard.connection.send_keep_alive()
            assert not heard.closed.wait(0.3)
        heard.send(pcm[8000:])
        heard.finish()
    assert heard.text == expected(pcm)


def test_a_silent_stream_is_closed_as_deepgram_does(fake: Pool, impatient: str) -> None:
    with listen(impatient, **raw()) as heard:
        assert heard.closed.wait(WAIT_S)
    (error,) = heard.errors
    assert isinstance(error, ConnectionClosed) and error.rcvd is not None
    assert error.rcvd.code == 1011
    assert error.rcvd.reason.startswith("NET-0001")
    assert [message.variant for message in heard.of(ListenV1Error)] == ["idle-timeout"]


def test_what_is_no_audio_is_data_0000(fake: Pool) -> None:
    with listen(fake.url) as heard:
        heard.send(noise(0.1))
        assert heard.closed.wait(WAIT_S)
    (error,) = heard.errors
    assert isinstance(error, ConnectionClosed) and error.rcvd is not None
    assert (error.rcvd.code, error.rcvd.reason[:9]) == (1008, "DATA-0000")


@pytest.mark.parametrize(
    "options", [{"callback": "https://example.com"}, {"multichannel": True}, {"utterance_end_ms": 1000}]
)
def test_refused_before_the_upgrade(fake: Pool, options: dict[str, Any]) -> None:
    with pytest.raises((ApiError, InvalidStatus)) as caught, listen(fake.url, **raw(), **options):
        pass
    error = caught.value
    assert (error.status_code if isinstance(error, ApiError) else error.response.status_code) == 400


def test_a_browser_shows_its_key_as_a_subprotocol(fake: Pool) -> None:
    url = f"{fake.url}/v1/listen?encoding=linear16&sample_rate=16000"
    with websocket(url, subprotocols=["token", "any"]) as socket:
        assert socket.subprotocol == "token"
        socket.send('{"type":"CloseStream"}')
        assert '"Metadata"' in socket.recv(WAIT_S)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(WAIT_S)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000


# ---- Speech ----


def test_speech(speech: Pool) -> None:
    """Words, when speech begins, and when nobody has spoken for a second."""
    pause = np.zeros(3 * 16000, np.int16)
    pcm = np.concatenate([speech_pcm(), pause]).tobytes()
    options = {"interim_results": True, "vad_events": True, "utterance_end_ms": 1000, "endpointing": 300}
    with listen(speech.url, **raw(), **options, language="en-US", smart_format=True) as heard:
        heard.send(*paced(cut(pcm, 3200), 0.1))
        (ended,) = heard.wait(lambda: heard.of(ListenV1UtteranceEnd), "the end of the utterance")
        heard.finish()
    assert words_of(heard.text) == WORDS
    (final,) = heard.finals
    assert final.speech_final and not final.from_finalize
    assert ended.last_word_end == pytest.approx(final.channel.alternatives[0].words[-1].end)
    (started,) = heard.of(ListenV1SpeechStarted)
    assert 0.0 <= started.timestamp < 1.0
    assert [result for result in heard.of(ListenV1Results) if not result.is_final]
    kinds = [type(message) for message in heard.messages]
    assert kinds.index(ListenV1SpeechStarted) < kinds.index(ListenV1Results) < kinds.index(ListenV1UtteranceEnd)


def test_speech_ends_with_finalize(speech: Pool) -> None:
    with listen(speech.url, **raw()) as heard:
        heard.send(*cut(speech_pcm().tobytes(), 3200))
        heard.connection.send_finalize()
        heard.wait(lambda: [final for final in heard.finals if final.from_finalize], "the answer to Finalize")
        assert words_of(heard.text) == WORDS
        heard.finish()


def test_telephone_speech(speech: Pool) -> None:
    """8 kHz mu-law, as a telephone provider streams it: 20 ms a frame."""
    data = mulaw(speech_pcm(rate=8000))
    with listen(speech.url, **raw(8000, "mulaw")) as heard:
        heard.send(*cut(data, 160))
        heard.finish()
    assert word_errors(words_of(heard.text), WORDS) <= 1
    assert heard.metadata.duration == pytest.approx(len(data) / 8000)


def word_errors(heard: str, said: str) -> int:
    """Words that must be changed, added or left out."""
    previous: Sequence[int] = range(len(said.split()) + 1)
    for number, word in enumerate(heard.split(), 1):
        row = [number]
        for at, other in enumerate(said.split()):
            row.append(min(row[-1] + 1, previous[at + 1] + 1, previous[at] + (word != other)))
        previous = row
    return previous[-1]
