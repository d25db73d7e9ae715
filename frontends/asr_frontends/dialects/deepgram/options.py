"""The options in the query of a request for `/v1/listen`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from asr_frontends.audio import ogg_opus
from asr_frontends.audio.wav_stream import CHANNELS_MAX, ENCODINGS, RATE_MAX, RATE_MIN
from asr_proto.errors import BadRequest

OPUS = ("opus", "ogg-opus")
LANGUAGE_MAX = 128
UTTERANCE_END_MS_MIN, UTTERANCE_END_MS_MAX = 1000, 5000
ENDPOINTING_MS_MAX = 60_000


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """The options that have an effect here."""

    encoding: str = ""
    """Encoding of raw audio; empty to recognize it from the first bytes."""
    rate: int = 0
    """Sample rate in Hz; 0 if not given."""
    channels: int = 1
    language: str = ""
    """Language tag; empty for the default."""
    interim_results: bool = False
    endpointing: bool = True
    """Whether an end by silence is reported as `speech_final`."""
    utterance_end_ms: int = 0
    """Length of the gap that is reported as UtteranceEnd; 0 for no reports."""
    vad_events: bool = False


def parse_options(query: str) -> ListenOptions:
    """Parse the query. Raises BadRequest. Every model name means the default; unknown options are ignored."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if "callback" in given:
        raise BadRequest("callback is not supported: results are sent on this connection")
    if _boolean(given, "multichannel", False):
        raise BadRequest("multichannel is not supported: channels are mixed into one")
    options = ListenOptions(
        _encoding(given),
        _integer(given, "sample_rate", RATE_MIN, RATE_MAX, 0),
        _integer(given, "channels", 1, CHANNELS_MAX, 1),
        _language(given),
        _boolean(given, "interim_results", False),
        _endpointing(given),
        _integer(given, "utterance_end_ms", UTTERANCE_END_MS_MIN, UTTERANCE_END_MS_MAX, 0),
        _boolean(given, "vad_events", False),
    )
    if options.encoding in ENCODINGS and not options.rate:
        raise BadRequest(f"encoding={options.encoding} needs a sample_rate")
    if options.utterance_end_ms and not options.interim_results:
        raise BadRequest("utterance_end_ms needs interim_results=true")
    return options


def _encoding(given: dict[str, str]) -> str:
    encoding = given.get("encoding", "")
    if encoding in OPUS and not ogg_opus.available():
        raise BadRequest(ogg_opus.MISSING)
    if encoding and encoding not in ENCODINGS and encoding not in OPUS:
        raise BadRequest(f"encoding must be {', '.join(ENCODINGS)} or ogg-opus; leave it out for a WAV file")
    return encoding


def _language(given: dict[str, str]) -> str:
    """The language. `multi` (a model of many languages) means the default."""
    language = given.get("language", "")
    if len(language) > LANGUAGE_MAX or not language.isprintable():
        raise BadRequest("language is a language tag")
    return "" if language == "multi" else language


def _endpointing(given: dict[str, str]) -> bool:
    """Whether silence is reported as the end of speech. The engine decides how long the silence must be."""
    if given.get("endpointing", "").lower() in ("true", "false"):
        return _boolean(given, "endpointing", True)
    _integer(given, "endpointing", 0, ENDPOINTING_MS_MAX, 0)
    return True


def _boolean(given: dict[str, str], name: str, default: bool) -> bool:
    value = given.get(name, str(default)).lower()
    if value not in ("true", "false"):
        raise BadRequest(f"{name} must be true or false")
    return value == "true"


def _integer(given: dict[str, str], name: str, least: int, most: int, default: int) -> int:
    if name not in given:
        return default
    value = given[name]
    if len(value) > 9 or not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise BadRequest(f"{name} is an integer from {least} to {most}")
    return int(value)
