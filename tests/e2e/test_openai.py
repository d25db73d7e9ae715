"""OpenAI's REST interface with the unmodified package `openai` pointed at real processes."""

from __future__ import annotations

import io
import json
import socket
import wave
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.clients import expected, noise, websocket
from tests.e2e.service import Pool

DATA = Path(__file__).parents[1] / "data"
SPEECH = DATA / "speechbrain__spk1_snt1.wav"
MP3 = DATA / "commonvoice__common_voice_en_22058267.mp3"
WORDS = {"child", "hurt", "dog"}


def client_of(pool: Pool) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{pool.port}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def client(fake: Pool) -> Iterator[openai.OpenAI]:
    with client_of(fake) as client:
        yield client


@pytest.fixture
def listener(speech: Pool) -> Iterator[openai.OpenAI]:
    """A client of the embedded model."""
    with client_of(speech) as client:
        yield client


def wav(pcm: bytes) -> tuple[str, bytes]:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(pcm)
    return "audio.wav", content.getvalue()


def said(text: str) -> set[str]:
    return set("".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").split())


# ---- Every form ----

PCM = noise(2.5)
TEXT = expected(PCM)
FIRST, SECOND, THIRD = " ".join(TEXT.split()[:4]), " ".join(TEXT.split()[4:8]), " ".join(TEXT.split()[8:])


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "fake"])
def test_json(client: openai.OpenAI, model: str) -> None:
    """Decision 16: the aliases, and the model's own name."""
    transcription = client.audio.transcriptions.create(model=model, file=wav(PCM))
    assert transcription.text == TEXT
    assert transcription.usage is not None
    assert (transcription.usage.type, getattr(transcription.usage, "seconds", None)) == ("duration", 2.5)


def test_text(client: openai.OpenAI) -> None:
    text = client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), response_format="text")
    assert text == TEXT + "\n"


def test_srt(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), response_format="srt") == (
        f"1\n00:00:00,000 --> 00:00:01,000\n{FIRST}\n\n2\n00:00:01,000 --> 00:00:02,000\n{SECOND}\n\n"
        f"3\n00:00:02,000 --> 00:00:02,500\n{THIRD}\n\n"
    )


def test_vtt(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), response_format="vtt") == (
        f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{FIRST}\n\n00:00:01.000 --> 00:00:02.000\n{SECOND}\n\n"
        f"00:00:02.000 --> 00:00:02.500\n{THIRD}\n\n"
    )


def test_verbose_json(client: openai.OpenAI) -> None:
    verbose = client.audio.transcriptions.create(
        model="whisper-1",
        file=wav(PCM),
        response_format="verbose_json",
        language="en",
        prompt="Syllables.",
        temperature=0.0,
        timestamp_granularities=["word", "segment"],
    )
    assert (verbose.text, verbose.duration, verbose.language) == (TEXT, 2.5, "en")
    assert verbose.segments is not None and verbose.words is not None
    assert [(s.id, s.start, s.end, s.text) for s in verbose.segments] == [
        (0, 0.0, 1.0, FIRST),
        (1, 1.0, 2.0, SECOND),
        (2, 2.0, 2.5, THIRD),
    ]
    assert [segment.seek for segment in verbose.segments] == [0, 100, 200]
    assert [word.word for word in verbose.words] == TEXT.split()
    assert (verbose.words[0].start, verbose.words[-1].end) == (0.0, 2.5)


def test_words_alone(client: openai.OpenAI) -> None:
    verbose = client.audio.transcriptions.create(
        model="whisper-1", file=wav(PCM), response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert verbose.segments is None
    assert verbose.words


def test_a_stream(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=wav(PCM), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert events[-1].type == "transcript.text.done"
    assert deltas == events[-1].text == TEXT


def test_a_stream_of_nothing(client: openai.OpenAI, speech: Pool) -> None:
    """Silence: no delta, an empty text, a clean end."""
    with client_of(speech) as listener:
        events = list(listener.audio.transcriptions.create(model="whisper-1", file=wav(bytes(32_000)), stream=True))
    assert [event.type for event in events] == ["transcript.text.done"]


def test_a_client_that_leaves_ends_its_session(fake: Pool) -> None:
    """Nobody would hear the rest of ten minutes: the slot is free again long before."""
    name, content = wav(noise(600.0))
    head = (
        f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x\r\n'
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    ).encode()
    body = head + content + b"\r\n--x--\r\n"
    before = fake.metric("asr_frontend_sessions_requested_total")
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as leaving:
            leaving.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    fake.wait_sessions(0)
    assert fake.metric("asr_frontend_sessions_requested_total") <= before + 2


# ---- Models ----


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == ["fake", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"]
    model = client.models.retrieve("whisper-1")
    assert (model.id, model.object, model.owned_by) == ("whisper-1", "model", "asr-pool")


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(model="gpt-5", file=wav(PCM))
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


# ---- Errors ----


def test_a_wrong_format(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), response_format="xml")  # type: ignore[call-overload]
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "name, content",
    [("a.m4a", b"\0\0\0\x20ftypM4A " + bytes(200)), ("a.webm", b"\x1aE\xdf\xa3" + bytes(200)), ("a.txt", b"hello")],
)
def test_a_file_that_cannot_be_read(client: openai.OpenAI, name: str, content: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=(name, content))
    assert (caught.value.code, caught.value.param) == ("bad_audio", "file")
    assert "convert m4a, mp4 and webm first" in caught.value.message


def test_a_language_that_is_not_spoken(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), language="de")
    assert (caught.value.code, caught.value.param) == ("unsupported_language", "language")


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_is_too_large(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", bytes(26_214_401)),
            stream=stream,  # type: ignore[call-overload]
        )
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_no_file(client: openai.OpenAI, fake: Pool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/audio/transcriptions", cast_to=object, body={"model": "whisper-1"})
    assert caught.value.param == "model"


def test_translations_are_not_offered(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.post("/audio/translations", cast_to=object, body={"model": "whisper-1"})
    assert caught.value.code == "not_offered"


@pytest.mark.parametrize("stream", [False, True])
def test_every_slot_is_taken(stream: bool) -> None:
    """A refusal has its own status, also of a stream that would have begun."""
    with (
        Pool(workers=[["--engine=fake", "--slots=1"]]) as pool,
        websocket(pool.url + "/v1/stream") as taken,
        client_of(pool) as client,
    ):
        taken.send(json.dumps({"type": "start"}))
        pool.wait_sessions(1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.audio.transcriptions.create(model="whisper-1", file=wav(PCM), stream=stream)  # type: ignore[call-overload]
        assert (caught.value.status_code, caught.value.code) == (503, "server_overloaded")
        assert int(caught.value.response.headers["Retry-After"]) >= 1


# ---- Speech ----


@pytest.mark.parametrize("stream", [False, True])
def test_speech(listener: openai.OpenAI, stream: bool) -> None:
    if stream:
        events = list(listener.audio.transcriptions.create(model="whisper-1", file=SPEECH, stream=True))
        assert events[-1].type == "transcript.text.done"
        text = events[-1].text
    else:
        text = listener.audio.transcriptions.create(model="whisper-1", file=SPEECH).text
    assert said(text) & WORDS


def test_an_mp3_with_words(listener: openai.OpenAI) -> None:
    verbose = listener.audio.transcriptions.create(
        model="whisper-1", file=MP3, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert verbose.words
    assert [word.word for word in verbose.words] == verbose.text.split()
    assert all(word.start <= word.end <= verbose.duration + 1 for word in verbose.words)
