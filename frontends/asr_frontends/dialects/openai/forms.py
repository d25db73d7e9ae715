"""The bodies of OpenAI's transcription endpoint: the request's fields, the forms of answers, the errors. Pure.

The published types require some numbers that no engine here measures. Each of them is a constant with a comment.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_frontends.events import Error
from asr_frontends.words import spread
from asr_proto.audio import SAMPLE_RATE, seconds
from asr_proto.errors import BadRequest, PeerError
from asr_proto.messages import Final

ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""Names that mean the default model (decision 16)."""
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
READABLE = "flac, mp3, ogg, opus and wav can be read; convert m4a, mp4 and webm first"
SEEK_PER_S = 100
"""Units of `seek` in a second: Whisper counts frames of 10 ms."""
NOT_MEASURED = {"tokens": [], "temperature": 0.0, "avg_logprob": 0.0, "no_speech_prob": 0.0}
"""Constants: the engines return neither tokens nor probabilities, and decode greedily."""
CREATED = 0
"""Unix time at which a model was made; it is not known for any model."""
OWNER = "asr-pool"

STATUS = {
    "unknown-model": 404,
    "not-offered": 404,
    "request-too-large": 413,
    "rate-limited": 429,
    "idle-timeout": 408,
    "key-revoked": 401,
    "internal-error": 500,
    "service-error": 500,
}
"""Other slugs are 503 when the service is at fault, 400 when the client is."""
CODES = {"unknown-model": "model_not_found", "at-capacity": "server_overloaded"}
PARAMETERS = {
    "unknown-model": "model",
    "unsupported-language": "language",
    "bad-audio": "file",
    "audio-too-long": "file",
    "request-too-large": "file",
}


class BadParameter(BadRequest):
    """A field of the request has an invalid value."""

    def __init__(self, parameter: str, detail: str, *, slug: str | None = None) -> None:
        super().__init__(detail, slug=slug)
        self.parameter = parameter


# ---- Requests ----


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """A request's fields without its file. An empty model means the default."""

    model: str
    language: str
    response_format: str
    words: bool
    segments: bool
    stream: bool


def parse_options(fields: Iterable[tuple[str, str]], models: Sequence[str]) -> TranscriptionOptions:
    """Parse the form's text fields. Raises BadParameter. `prompt` and unknown fields have no effect."""
    values = list(fields)
    single = dict(values)
    response_format = _choice(single, "response_format", FORMATS, "json")
    granularities = _granularities([value for name, value in values if name.startswith("timestamp_granularities")])
    if granularities and response_format != "verbose_json":
        raise BadParameter("timestamp_granularities", "timestamp_granularities need response_format=verbose_json")
    if any(name.startswith("include") for name in single):
        raise BadParameter("include", "include is not supported: the engines return no log probabilities")
    _check_temperature(single.get("temperature", ""))
    stream = _choice(single, "stream", ("true", "false"), "false") == "true"
    if stream and response_format not in ("json", "text"):
        raise BadParameter("response_format", "a stream needs response_format json or text")
    return TranscriptionOptions(
        model=_model(single.get("model", ""), models),
        language=_language(single.get("language", "")),
        response_format=response_format,
        words="word" in granularities,
        segments=not granularities or "segment" in granularities,
        stream=stream,
    )


def _choice(fields: dict[str, str], name: str, choices: Sequence[str], default: str) -> str:
    value = fields.get(name) or default
    if value not in choices:
        raise BadParameter(name, f"{name} must be one of {', '.join(choices)}")
    return value


def _granularities(values: Sequence[str]) -> set[str]:
    if not set(values) <= set(GRANULARITIES):
        raise BadParameter("timestamp_granularities", "timestamp_granularities are word, segment or both")
    return set(values)


def _check_temperature(value: str) -> None:
    """Check the temperature, which has no effect on greedy decoding. Raises BadParameter."""
    try:
        is_valid = 0.0 <= float(value or 0) <= 1.0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise BadParameter("temperature", "temperature is a number from 0 to 1")


def _language(value: str) -> str:
    if len(value) > 35 or not (value.isascii() and value.isprintable()):
        raise BadParameter("language", "language is a code such as en", slug="unsupported-language")
    return value


def _model(name: str, models: Sequence[str]) -> str:
    """The model's name for the session; empty for the default. Raises BadParameter."""
    if not name:
        raise BadParameter("model", "you must provide a model parameter")
    check_model(name, models)
    return "" if name in ALIASES else name


def check_model(name: str, models: Sequence[str]) -> None:
    """Raises BadParameter for a model that is not served."""
    if name not in (*ALIASES, *models):
        raise BadParameter("model", f"The model `{name[:100]}` does not exist", slug="unknown-model")


# ---- Answers ----


def joined(finals: Sequence[Final]) -> str:
    """The whole text of a recording."""
    return " ".join(final.text for final in _spoken(finals))


def json_body(finals: Sequence[Final], duration_s: float) -> dict[str, Any]:
    """`response_format=json`."""
    return {"text": joined(finals), "usage": {"type": "duration", "seconds": duration_s}}


def verbose_body(finals: Sequence[Final], duration_s: float, options: TranscriptionOptions) -> dict[str, Any]:
    """`response_format=verbose_json`. Without a requested language it contains the default, en."""
    body = {
        "task": "transcribe",
        "language": options.language or "en",
        "duration": duration_s,
        **json_body(finals, duration_s),
    }
    if options.segments:
        body["segments"] = [_segment(id, final) for id, final in enumerate(_spoken(finals))]
    if options.words:
        body["words"] = [word for final in _spoken(finals) for word in _words(final)]
    return body


def _spoken(finals: Sequence[Final]) -> list[Final]:
    return [final for final in finals if final.text.strip()]


def _segment(id: int, final: Final) -> dict[str, Any]:
    return {
        "id": id,
        "seek": final.start_sample * SEEK_PER_S // SAMPLE_RATE,
        "start": seconds(final.start_sample),
        "end": seconds(final.end_sample),
        "text": final.text,
        "compression_ratio": _compression_ratio(final.text),
        **NOT_MEASURED,
    }


def _compression_ratio(text: str) -> float:
    """Whisper's compression ratio (openai/whisper, `utils.compression_ratio`): high for text that repeats itself."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 4)


def _words(final: Final) -> list[dict[str, Any]]:
    """The words with the engine's times; without these, the utterance's time is divided among its words."""
    if final.words is None:
        times = spread(final.text, seconds(final.start_sample), seconds(final.end_sample))
    else:
        times = [(word.text, seconds(word.start_sample), seconds(word.end_sample)) for word in final.words]
    return [{"word": word, "start": start, "end": end} for word, start, end in times]


def srt(finals: Sequence[Final]) -> str:
    """`response_format=srt`: SubRip subtitles, one per utterance."""
    return "".join(
        f"{number}\n{_span(final, ',')}\n{_line(final.text)}\n\n" for number, final in enumerate(_spoken(finals), 1)
    )


def vtt(finals: Sequence[Final]) -> str:
    """`response_format=vtt`: WebVTT subtitles, one per utterance."""
    return "WEBVTT\n\n" + "".join(f"{_span(final, '.')}\n{_escaped(final.text)}\n\n" for final in _spoken(finals))


def _span(final: Final, point: str) -> str:
    return f"{_clock(final.start_sample, point)} --> {_clock(final.end_sample, point)}"


def _clock(samples: int, point: str) -> str:
    ms = round(seconds(samples) * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _line(text: str) -> str:
    """The text on one line: an empty line would end the subtitle."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---- Streams ----


def delta(text: str) -> str:
    """A server-sent event with text that became final."""
    return sent({"type": "transcript.text.delta", "delta": text})


def done(text: str) -> str:
    """The last server-sent event, with the whole text."""
    return sent({"type": "transcript.text.done", "text": text})


def sent(body: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


# ---- Models ----


def model_body(id: str) -> dict[str, Any]:
    """The description of one model."""
    return {"id": id, "object": "model", "created": CREATED, "owned_by": OWNER}


def models_body(models: Sequence[str]) -> dict[str, Any]:
    """The list of all models, with the aliases of the default one."""
    return {"object": "list", "data": [model_body(id) for id in dict.fromkeys((*models, *ALIASES))]}


# ---- Errors ----


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of every error. The field `type` follows from the status."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(event: Error) -> int:
    """HTTP status of an error."""
    return STATUS.get(event.slug, 503 if event.is_service else 400)


def body_of(event: Error, parameter: str | None = None) -> dict[str, Any]:
    """The body for an error of a session or a request."""
    message = event.detail or event.slug
    if event.slug == "bad-audio":
        message = f"the file cannot be transcribed: {message} ({READABLE})"
    code = CODES.get(event.slug, event.slug.replace("-", "_"))
    return error_body(status_of(event), message, parameter or PARAMETERS.get(event.slug), code)


def parameter_of(error: PeerError) -> str | None:
    """The field that caused an error; None if unknown."""
    return error.parameter if isinstance(error, BadParameter) else None
