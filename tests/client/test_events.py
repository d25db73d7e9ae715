"""The parser of the server's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asr_client import Ack, End, Final, Flushed, GoAway, Migrating, Partial, Ready, ServerError, Word, parse
from asr_proto.errors import DecodeError

HYPOTHESIS = {"seq": 3, "utterance": 1, "text": "go on", "start_s": 1, "end_s": 2.5}


def parsed(kind: Any, **fields: Any) -> Any:
    return parse(json.dumps({"type": kind, **fields}))


@pytest.mark.parametrize(
    ("kind", "fields", "event"),
    [
        (
            "ready",
            {"session": "s", "model": "m", "language": "en", "sample_rate": 8000, "engine": "fake"},
            Ready("s", "m", "en", 8000, "fake"),
        ),
        (
            "ready",
            {
                "session": "s",
                "model": "m",
                "language": "en",
                "sample_rate": 8000,
                "engine": "fake",
                "resumed": True,
                "from_sample": 400,
            },
            Ready("s", "m", "en", 8000, "fake", 400),
        ),
        ("partial", HYPOTHESIS, Partial(3, 1, "go on", 1.0, 2.5)),
        ("partial", HYPOTHESIS | {"stable": 2}, Partial(3, 1, "go on", 1.0, 2.5, stable=2)),
        ("final", {**HYPOTHESIS, "endpoint": "silence"}, Final(3, 1, "go on", 1.0, 2.5, "silence")),
        (
            "final",
            {**HYPOTHESIS, "endpoint": "silence", "committed": 40_000},
            Final(3, 1, "go on", 1.0, 2.5, "silence", committed=40_000),
        ),
        (
            "final",
            {
                **HYPOTHESIS,
                "endpoint": "flush",
                "confidence": 0.5,
                "words": [
                    {"word": "go", "start_s": 1, "end_s": 2, "confidence": 1},
                    {"word": "on", "start_s": 2, "end_s": 2.5},
                ],
            },
            Final(
                3,
                1,
                "go on",
                1.0,
                2.5,
                "flush",
                words=(Word("go", 1.0, 2.0, 1.0), Word("on", 2.0, 2.5)),
                confidence=0.5,
            ),
        ),
        ("flushed", {"marker": "m"}, Flushed("m")),
        ("ack", {"samples": 320, "committed": 160}, Ack(320, 160)),
        ("migrating", {}, Migrating()),
        ("goaway", {"time_left_s": 4}, GoAway(4.0)),
        ("end", {"reason": "stopped"}, End("stopped")),
    ],
)
def test_each_message_becomes_its_event(kind: str, fields: dict[str, Any], event: object) -> None:
    assert parsed(kind, **fields) == event
    assert parsed(kind, **fields, added_later={"a": 1}) == event


def test_an_error_is_a_server_error_with_its_hint() -> None:
    error = parsed("error", code="at-capacity", message="every slot is taken", retry_after_s=2)
    assert isinstance(error, ServerError)
    assert (error.code, error.slug, error.message, error.retry_after_s) == (
        "at-capacity",
        "at-capacity",
        "every slot is taken",
        2.0,
    )
    assert parsed("error", code="session-lost", message="gone").retry_after_s is None


@pytest.mark.parametrize("kind", ["weather", None, 7, ["final"], {}])
def test_unknown_types_are_skipped(kind: Any) -> None:
    assert parsed(kind) is None


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "7",
        "[" * 100_000,
        b"\xff\xfe\xfd",
        '{"type": "ack", "samples": 1}',
        '{"type": "ack", "samples": "1", "committed": 0}',
        '{"type": "ack", "samples": true, "committed": 0}',
        '{"type": "ack", "samples": 1.5, "committed": 0}',
        '{"type": "flushed", "marker": null}',
        '{"type": "error"}',
        '{"type": "partial", "seq": 0, "utterance": 0, "text": "a", "start_s": 0, "end_s": 1, "words": [1]}',
        '{"type": "partial", "seq": 0, "utterance": 0, "text": "a", "start_s": 0, "end_s": 1, "words": [{}]}',
    ],
)
def test_an_invalid_message_is_a_decode_error(message: str | bytes) -> None:
    with pytest.raises(DecodeError):
        parse(message)
