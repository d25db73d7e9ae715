"""OpenAI's forms, without a server: the request's fields, the answers, the errors."""

from __future__ import annotations

import json
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_frontends import events as e
from asr_frontends.dialects.openai import forms as openai
from asr_frontends.dialects.openai.forms import BadParameter, TranscriptionOptions, parse_options
from asr_proto import messages as m
from asr_proto.errors import PeerError

MODELS = ("moonshine-tiny-en",)
MODEL = ("model", "whisper-1")
OPTIONS = TranscriptionOptions("", "", "json", words=False, segments=True, stream=False)


def final(text: str, start_s: float, end_s: float, words: tuple[m.Word, ...] | None = None) -> m.Final:
    start, end = round(start_s * 16_000), round(end_s * 16_000)
    return m.Final(1, 0, text, start, end, "silence", None, words, m.Commit(end, 1, b""))


FINALS = [final("The birch canoe.", 0.5, 2.5), final("", 2.5, 3.0), final("Slid <on>\n& on.", 3661.001, 3662.5)]


# ---- Requests ----


def test_the_shortest_request() -> None:
    assert parse_options([MODEL], MODELS) == OPTIONS


@pytest.mark.parametrize("alias", ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"])
def test_aliases(alias: str) -> None:
    """Decision 16: names of the default model."""
    assert parse_options([("model", alias)], MODELS).model == ""


def test_a_model_of_its_own_name() -> None:
    assert parse_options([("model", MODELS[0])], MODELS).model == MODELS[0]


def test_all_fields() -> None:
    fields = [
        MODEL,
        ("language", "en"),
        ("prompt", "Canoes."),
        ("temperature", "0.2"),
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
        ("stream", "false"),
        ("color", "blue"),
    ]
    assert parse_options(fields, MODELS) == TranscriptionOptions(
        "", "en", "verbose_json", words=True, segments=False, stream=False
    )


def test_both_granularities() -> None:
    fields = [MODEL, ("response_format", "verbose_json")]
    both = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    assert parse_options(fields + both, MODELS).segments
    assert parse_options(fields + both, MODELS).words
    assert parse_options(fields, MODELS).segments
    assert not parse_options(fields, MODELS).words


@pytest.mark.parametrize(
    "fields, parameter, message, status, code",
    [
        ([], "model", "you must provide a model parameter", 400, "bad_request"),
        ([("model", "")], "model", "you must provide a model parameter", 400, "bad_request"),
        ([("model", "gpt-5")], "model", "The model `gpt-5` does not exist", 404, "model_not_found"),
        (
            [MODEL, ("response_format", "xml")],
            "response_format",
            "response_format must be one of json, text, srt, verbose_json, vtt",
            400,
            "bad_request",
        ),
        (
            [MODEL, ("response_format", "diarized_json")],
            "response_format",
            "response_format must be one of json, text, srt, verbose_json, vtt",
            400,
            "bad_request",
        ),
        ([MODEL, ("stream", "yes")], "stream", "stream must be one of true, false", 400, "bad_request"),
        (
            [MODEL, ("stream", "true"), ("response_format", "srt")],
            "response_format",
            "a stream needs response_format json or text",
            400,
            "bad_request",
        ),
        (
            [MODEL, ("timestamp_granularities[]", "word")],
            "timestamp_granularities",
            "timestamp_granularities need response_format=verbose_json",
            400,
            "bad_request",
        ),
        (
            [MODEL, ("response_format", "verbose_json"), ("timestamp_granularities[]", "letter")],
            "timestamp_granularities",
            "timestamp_granularities are word, segment or both",
            400,
            "bad_request",
        ),
        ([MODEL, ("temperature", "hot")], "temperature", "temperature is a number from 0 to 1", 400, "bad_request"),
        ([MODEL, ("temperature", "1.5")], "temperature", "temperature is a number from 0 to 1", 400, "bad_request"),
        ([MODEL, ("temperature", "nan")], "temperature", "temperature is a number from 0 to 1", 400, "bad_request"),
        (
            [MODEL, ("include[]", "logprobs")],
            "include",
            "include is not supported: the engines return no log probabilities",
            400,
            "bad_request",
        ),
        ([MODEL, ("language", "ü")], "language", "language is a code such as en", 400, "unsupported_language"),
    ],
)
def test_refused_fields(fields: list[tuple[str, str]], parameter: str, message: str, status: int, code: str) -> None:
    with pytest.raises(BadParameter) as caught:
        parse_options(fields, MODELS)
    event = e.Error.of(caught.value)
    assert openai.status_of(event) == status
    assert openai.body_of(event, openai.parameter_of(caught.value)) == {
        "error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}
    }


NAMES = st.sampled_from(["model", "language", "response_format", "temperature", "stream", "timestamp_granularities[]"])


@given(st.lists(st.tuples(NAMES | st.text(max_size=4), st.text(max_size=6) | st.sampled_from(["true", "whisper-1"]))))
def test_any_fields_are_taken_or_refused(fields: list[tuple[str, str]]) -> None:
    try:
        parse_options(fields, MODELS)
    except PeerError as error:
        assert error.detail


# ---- Answers ----


def test_json() -> None:
    assert openai.json_body(FINALS[:2], 3.0) == {
        "text": "The birch canoe.",
        "usage": {"type": "duration", "seconds": 3.0},
    }


def test_srt() -> None:
    assert openai.srt(FINALS) == (
        "1\n00:00:00,500 --> 00:00:02,500\nThe birch canoe.\n\n2\n01:01:01,001 --> 01:01:02,500\nSlid <on> & on.\n\n"
    )


def test_vtt() -> None:
    assert openai.vtt(FINALS) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.500\nThe birch canoe.\n\n"
        "01:01:01.001 --> 01:01:02.500\nSlid &lt;on&gt; &amp; on.\n\n"
    )


def test_silence() -> None:
    assert openai.srt([]) == ""
    assert openai.vtt([]) == "WEBVTT\n\n"
    assert openai.json_body([], 0.0)["text"] == ""
    assert openai.verbose_body([], 1.0, OPTIONS)["segments"] == []


def test_verbose_json() -> None:
    text = "The birch canoe."
    assert openai.verbose_body(FINALS[:1], 3.0, OPTIONS) == {
        "task": "transcribe",
        "language": "en",
        "duration": 3.0,
        "text": text,
        "usage": {"type": "duration", "seconds": 3.0},
        "segments": [
            {
                "id": 0,
                "seek": 50,
                "start": 0.5,
                "end": 2.5,
                "text": text,
                "compression_ratio": round(len(text) / len(zlib.compress(text.encode())), 4),
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": 0.0,
                "no_speech_prob": 0.0,
            }
        ],
    }


def test_words_of_the_engine() -> None:
    words = (m.Word("Good", 800, 1600, None), m.Word("day.", 2400, 4000, 0.5))
    options = TranscriptionOptions("", "", "verbose_json", words=True, segments=False, stream=False)
    body = openai.verbose_body([final("Good day.", 0.0, 1.0, words)], 1.0, options)
    assert body["words"] == [{"word": "Good", "start": 0.05, "end": 0.1}, {"word": "day.", "start": 0.15, "end": 0.25}]
    assert "segments" not in body


def test_words_without_times() -> None:
    options = TranscriptionOptions("", "", "verbose_json", words=True, segments=True, stream=False)
    body = openai.verbose_body([final("ab cd", 1.0, 2.0)], 2.0, options)
    assert body["words"] == [{"word": "ab", "start": 1.0, "end": 1.5}, {"word": "cd", "start": 1.5, "end": 2.0}]
    assert len(body["segments"]) == 1


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXTS, st.integers(0, 10**9), st.integers(0, 10**6)), max_size=5))
def test_subtitles_are_well_formed(spoken: list[tuple[str, int, int]]) -> None:
    """With any text, empty lines separate the blocks, and no part of the text is taken for a time."""
    finals = [m.Final(1, 0, t, s, s + n, "silence", None, None, m.Commit(0, 1, b"")) for t, s, n in spoken]
    shown = [" ".join(final.text.split()) for final in finals if final.text.strip()]
    blocks = openai.vtt(finals).removeprefix("WEBVTT\n\n").split("\n\n")[:-1]
    assert len(blocks) == len(shown)
    for block in blocks:
        time, _, text = block.partition("\n")
        assert re.fullmatch(r"\d\d+:\d\d:\d\d\.\d{3} --> \d\d+:\d\d:\d\d\.\d{3}", time)
        assert "-->" not in text
    assert openai.srt(finals).count(" --> ") >= len(shown)


# ---- Streams, models, errors ----


def test_events_of_a_stream() -> None:
    assert openai.delta("One\n\n") == 'data: {"type":"transcript.text.delta","delta":"One\\n\\n"}\n\n'
    assert openai.done("One") == 'data: {"type":"transcript.text.done","text":"One"}\n\n'


def test_models() -> None:
    ids = [model["id"] for model in openai.models_body(("a", "whisper-1"))["data"]]
    assert ids == ["a", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"]
    assert openai.model_body("a") == {"id": "a", "object": "model", "created": 0, "owned_by": "asr-pool"}


@pytest.mark.parametrize(
    "slug, status, kind, param, code",
    [
        ("bad-request", 400, "invalid_request_error", None, "bad_request"),
        ("unsupported-language", 400, "invalid_request_error", "language", "unsupported_language"),
        ("audio-too-long", 400, "invalid_request_error", "file", "audio_too_long"),
        ("unknown-model", 404, "invalid_request_error", "model", "model_not_found"),
        ("not-offered", 404, "invalid_request_error", None, "not_offered"),
        ("idle-timeout", 408, "invalid_request_error", None, "idle_timeout"),
        ("request-too-large", 413, "invalid_request_error", "file", "request_too_large"),
        ("rate-limited", 429, "rate_limit_error", None, "rate_limited"),
        ("internal-error", 500, "server_error", None, "internal_error"),
        ("at-capacity", 503, "server_error", None, "server_overloaded"),
        ("no-worker", 503, "server_error", None, "no_worker"),
        ("no-broker", 503, "server_error", None, "no_broker"),
        ("overloaded", 503, "server_error", None, "overloaded"),
        ("session-lost", 503, "server_error", None, "session_lost"),
        ("going-away", 503, "server_error", None, "going_away"),
    ],
)
def test_every_error(slug: str, status: int, kind: str, param: str | None, code: str) -> None:
    event = e.Error(slug, "why")
    assert openai.status_of(event) == status
    assert openai.body_of(event) == {"error": {"message": "why", "type": kind, "param": param, "code": code}}


def test_the_error_for_a_file_without_audio_names_the_readable_formats() -> None:
    message = openai.body_of(e.Error("bad-audio", "it is empty"))["error"]["message"]
    assert message == (
        "the file cannot be transcribed: it is empty "
        "(flac, mp3, ogg, opus and wav can be read; convert m4a, mp4 and webm first)"
    )


def test_an_error_in_a_stream_is_an_event() -> None:
    event = openai.sent(openai.body_of(e.Error("session-lost", "why")))
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "session_lost"
