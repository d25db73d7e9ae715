"""The test clients' records: what the messages of each dialect's server mean."""

from __future__ import annotations

from typing import Any

import pytest

from asr_dialects.client import NOTHING, Meaning
from asr_dialects.clients import CLIENTS
from asr_proto.errors import DecodeError


def alternatives(text: str) -> dict[str, Any]:
    return {"alternatives": [{"transcript": text}]}


@pytest.mark.parametrize(
    ("dialect", "message", "meaning"),
    [
        ("native", {"type": "ready", "engine": "fake"}, Meaning(ready=True, engine="fake")),
        ("native", {"type": "partial", "text": "one", "end_s": 0.5}, Meaning("one", end_s=0.5)),
        ("native", {"type": "final", "text": "one", "end_s": 0.5}, Meaning("one", final=True)),
        ("native", {"type": "error", "code": "at-capacity"}, Meaning(error="at-capacity")),
        ("native", {"type": "end"}, Meaning(ended=True)),
        ("native", {"type": "ack"}, NOTHING),
        ("caiman", {"end": 0.06, **alternatives("")}, Meaning("", end_s=0.06)),
        ("caiman", {"end": 0.12, **alternatives(" two")}, Meaning(" two", final=True, end_s=0.12)),
        ("caiman", {"end": 0.12, "is_provisional": True, **alternatives("a")}, Meaning("a", end_s=0.12)),
        ("caiman", {"end": 0.12, "alternatives": []}, Meaning(end_s=0.12)),
        ("yap", {"op": "interim", "text": ""}, Meaning("")),
        ("yap", {"op": "interim", "text": "one"}, Meaning("one")),
        ("yap", {"op": "final", "text": "one two"}, Meaning("one two", final=True, ended=True)),
        ("yap", {"op": "error", "reason": "busy"}, Meaning(error="busy", detail="the server reports an error")),
        ("yap", {"op": "pong"}, NOTHING),
        ("moonshine", {"op": "ready", "sid": "s"}, Meaning(ready=True)),
        ("parakeet", {"type": "partial", "text": "one"}, Meaning("one")),
        ("parakeet", {"type": "final", "text": "one two"}, Meaning("one two", final=True, ended=True)),
        ("parakeet", {"type": "reset"}, NOTHING),
        ("amira", {"type": "error", "code": "overloaded", "message": "m"}, Meaning(error="overloaded", detail="m")),
        ("amira", {"type": "final", "text": "one"}, Meaning("one", final=True, ended=True)),
        (
            "deepgram",
            {"type": "Results", "is_final": False, "start": 1.0, "duration": 0.5, "channel": alternatives("one")},
            Meaning("one", end_s=1.5),
        ),
        ("deepgram", {"type": "Results", "is_final": True, "channel": alternatives("one")}, Meaning("one", final=True)),
        ("deepgram", {"type": "Error", "variant": "DATA-0000"}, Meaning(error="DATA-0000")),
        ("deepgram", {"type": "Metadata"}, NOTHING),
    ],
)
def test_what_a_message_means(dialect: str, message: dict[str, Any], meaning: Meaning) -> None:
    assert CLIENTS[dialect].read(message) == meaning


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ("native", {"type": "partial", "text": "one"}),
        ("native", {"type": "partial", "text": 1, "end_s": 0.5}),
        ("caiman", {"end": 0.06}),
        ("caiman", {"end": 0.06, "alternatives": [1]}),
        ("caiman", alternatives("one")),
        ("yap", {"op": "final"}),
        ("amira", {"type": "partial", "text": None}),
        ("deepgram", {"type": "Results", "channel": {}}),
        ("deepgram", {"type": "Results", "start": "0", "channel": alternatives("one")}),
    ],
)
def test_a_message_without_what_it_must_have(dialect: str, message: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        CLIENTS[dialect].read(message)


def test_a_model_is_named_in_the_path_or_in_the_query() -> None:
    assert CLIENTS["amira"].path_for("a b") == "/v2/decode/stream/a%20b"
    assert CLIENTS["amira"].path_for(None) == "/v2/decode/stream/default"
    assert CLIENTS["deepgram"].query_for("nova 3").endswith("&channels=1&interim_results=true&model=nova%203")
    assert "model" not in CLIENTS["deepgram"].query_for(None)
