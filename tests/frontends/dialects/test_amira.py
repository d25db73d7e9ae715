"""AMIRA's dialect. Each test names the entry of the inventory that it proves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_dialects.amira import to_json
from asr_frontends import events as e
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.amira import forms
from asr_frontends.dialects.amira.codec import AmiraCodec
from asr_frontends.dialects.amira.forms import parse_batch
from asr_proto import messages as m
from asr_proto.errors import BadRequest, PeerError
from tests.frontends import golden
from tests.frontends.golden import codec_for

PATH = "/v2/decode/stream/amira"
NO_AUDIO = "there is no audio"


def codec(query: str = "", path: str = PATH) -> AmiraCodec:
    return AmiraCodec(Request(path, query))


def final(text: str, confidence: float | None = None) -> m.Final:
    return m.Final(1, 0, text, 0, 1, "silence", confidence, None, m.Commit(1, 1, b""))


def partial(text: str) -> m.Partial:
    return m.Partial(1, 0, text, 0, 1)


def messages(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in frames if isinstance(frame, str)]


# ---- Recordings ----


@pytest.mark.parametrize("path", golden.recordings("amira"), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """AMI-05, 06, 07, 13, 28, as conversations."""
    recorded = golden.read(path)
    assert golden.replay(recorded) == recorded


def test_there_are_recordings() -> None:
    """AMI-05."""
    assert len(golden.recordings("amira")) >= 17


# ---- The request ----


@pytest.mark.parametrize("model", ["amira", "whisper-1", "any thing", "%", "ü"])
def test_any_model_is_taken(model: str) -> None:
    """AMI-05, decision 16."""
    it = codec_for(Request(f"/v2/decode/stream/{model}"))
    assert isinstance(it, AmiraCodec)
    assert it.opening() == [e.Start(messages_per_s_max=100)]


@pytest.mark.parametrize(
    "path", ["/v2/decode/stream/", "/v2/decode/stream", "/v2/decode/stream/a/b", "/v2/decode/batch/a"]
)
def test_other_paths(path: str) -> None:
    """AMI-05."""
    assert codec_for(Request(path)) is None


@pytest.mark.parametrize("query", ["schema=v2", "schema=V1", "schema=v1&schema=x", "schema=%ff"])
def test_unknown_schemas(query: str) -> None:
    """AMI-07, decision 7: refused before the upgrade."""
    with pytest.raises(BadRequest) as caught:
        codec(query)
    assert caught.value.detail == "schema must be v1, or absent"


@pytest.mark.parametrize("query", ["", "schema=", "schema=v1", "x=y", "&&"])
def test_known_schemas(query: str) -> None:
    """AMI-07."""
    codec(query)


# ---- Receiving ----


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda half: half + half), max_size=8))
def test_audio(frames: list[bytes]) -> None:
    """AMI-05: whole samples pass as they came, in order."""
    it = codec()
    assert [event for frame in frames for event in it.receive(frame)] == [e.Audio(frame) for frame in frames]


def test_control_bytes() -> None:
    """AMI-06, decision 9: keepalive, then the end."""
    it = codec()
    assert it.receive(b"\x01") == [e.KeepAlive()]
    assert it.receive(b"\x00") == [e.Stop()]


@pytest.mark.parametrize(
    "frame, slug, message",
    [
        (b"", "bad-message", NO_AUDIO),
        (b"\x02", "bad-message", "Unknown control byte 0x02"),
        (b"\xff", "bad-message", "Unknown control byte 0xff"),
        (bytes(3), "bad-message", "3 bytes are no whole number of 16-bit samples"),
        (bytes(1_048_575), "bad-message", "1048575 bytes are no whole number of 16-bit samples"),
        (bytes(1_048_577), "limit-exceeded", "an audio frame has at most 1048576 bytes"),
        (bytes(1_048_578), "limit-exceeded", "an audio frame has at most 1048576 bytes"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else "",
)
def test_refused_frames(frame: bytes, slug: str, message: str) -> None:
    """AMI-28: odd length, length, unknown control byte, empty; said, then closed."""
    it = codec()
    with pytest.raises(PeerError) as caught:
        it.receive(frame)
    assert (caught.value.slug, caught.value.detail) == (slug, message)
    said, close = it.send(e.Error.of(caught.value))
    assert messages([said]) == [
        {"type": "error", "text": "", "tokens": [], "confidence": None, "code": slug, "message": message}
    ]
    assert close == Close(4400, f"{slug}: {message}")


def test_the_largest_frame() -> None:
    """AMI-28: exactly 1 MiB is taken."""
    assert codec().receive(bytes(1_048_576)) == [e.Audio(bytes(1_048_576))]


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x01", bytes(4)])
def test_after_the_end(frame: bytes) -> None:
    """AMI-06."""
    it = codec()
    it.receive(b"\x00")
    with pytest.raises(PeerError) as caught:
        it.receive(frame)
    assert (caught.value.slug, caught.value.detail) == ("out-of-order", "a frame after the end of the stream")


@pytest.mark.parametrize("text", ["", "\0", '{"type":"stop"}', "EOS"])
def test_text_is_ignored(text: str) -> None:
    """AMI-05: binary only, as in the original; also after the end."""
    it = codec()
    assert it.receive(text) == []
    it.receive(b"\x00")
    assert it.receive(text) == []


# ---- Sending ----


def test_cumulative_text_and_one_final() -> None:
    """AMI-06, AMI-07, decisions 9 and 17: an endpoint of the service ends nothing."""
    it = codec()
    frames = [*it.send(partial("One")), *it.send(final("One.")), *it.send(partial("two")), *it.send(final("Two."))]
    assert [(said["type"], said["text"]) for said in messages(frames)] == [
        ("partial", "One"),
        ("partial", "One."),
        ("partial", "One. two"),
        ("partial", "One. Two."),
    ]
    it.receive(b"\x00")
    last, close = it.send(e.Bye())
    assert messages([last]) == [{"type": "final", "text": "One. Two.", "tokens": [], "confidence": None}]
    assert close == Close(1000)


def test_what_changes_nothing_is_not_said() -> None:
    """AMI-07."""
    it = codec()
    it.send(partial("One"))
    for event in (partial("One"), final("One"), e.Notice(), m.Speech(1, "start", 0), e.Progress(1, 1, 1, 1)):
        assert it.send(event) == []


@pytest.mark.parametrize(
    "confidences, confidence",
    [((0.5,), 0.5), ((0.25, 0.75), 0.5), ((0.5, None), None), ((None,), None), ((), None)],
)
def test_confidence(confidences: Sequence[float | None], confidence: float | None) -> None:
    """AMI-07: of the whole text, and only where the engine measured all of it."""
    it = codec()
    for value in confidences:
        it.send(final("abc", value))
    assert messages(it.send(e.Bye()))[0]["confidence"] == confidence


def test_the_form_of_the_code() -> None:
    """AMI-07, decision 7: `?schema=v1`."""
    it = codec("schema=v1")
    it.receive(bytes(3200))
    (active,) = it.send(partial("One"))
    metadata = {"audio_length_seconds": 0.1, "processing_time_ms": None}
    assert messages([active]) == [{"transcription": "One", "status": "ACTIVE", "metadata": metadata}]
    it.send(final("One."))
    complete, close = it.send(e.Bye())
    assert messages([complete]) == [{"transcription": "One.", "status": "COMPLETE", "metadata": metadata}]
    assert close == Close(1000)


def test_one_pause() -> None:
    """AMI-06, decision 9: any number of keepalives is one PAUSED, and audio resumes."""
    it = codec("schema=v1")
    said: list[str] = []
    for frame in (b"\x01", b"\x01", bytes(2), b"\x01", b"\x01", "x", b"\x00"):
        it.receive(frame)
        said += [message["status"] for message in messages(it.replies())]
    assert said == ["PAUSED", "PAUSED"]


def test_a_pause_has_no_word_in_the_document() -> None:
    """AMI-06."""
    it = codec()
    it.receive(b"\x01")
    assert it.replies() == []


@pytest.mark.parametrize(
    "slug, code, status",
    [
        ("bad-message", 4400, 400),
        ("bad-request", 4400, 400),
        ("bad-audio", 4400, 400),
        ("audio-too-long", 4400, 400),
        ("request-too-large", 4400, 400),
        ("limit-exceeded", 4400, 400),
        ("unsupported-language", 4400, 400),
        ("rate-limited", 4400, 429),
        ("idle-timeout", 4400, 408),
        ("at-capacity", 4503, 503),
        ("no-worker", 4503, 503),
        ("no-broker", 4503, 503),
        ("overloaded", 4503, 503),
        ("going-away", 1001, 503),
        ("session-lost", 4503, 502),
        ("worker-lost", 4503, 502),
        ("broker-lost", 4503, 502),
        ("lease-expired", 4503, 502),
        ("internal-error", 4503, 500),
        ("service-error", 4503, 500),
    ],
)
def test_every_error(slug: str, code: int, status: int) -> None:
    """AMI-13, AMI-28, AMI-29: in both forms, over WebSocket and HTTP."""
    event = e.Error(slug, "why", 2.0)
    reason = "Stream timeout: why" if slug == "idle-timeout" else "why"
    said, close = codec().send(event)
    assert messages([said])[0] == {
        "type": "error",
        "text": "",
        "tokens": [],
        "confidence": None,
        "code": slug,
        "message": reason,
        "retry_after_s": 2.0,
    }
    assert close == Close(code, f"{slug}: {reason}")
    (v1, _) = codec("schema=v1").send(event)
    assert (messages([v1])[0]["status"], messages([v1])[0]["message"]) == ("ERROR", reason)
    assert forms.status_of(event) == status
    assert forms.error_body(event, "") == {"error": reason, "code": slug}
    assert forms.error_body(event, "v1") == {"transcription": "", "status": "ERROR", "message": reason}


@settings(max_examples=200)
@given(
    frames=st.lists(st.text(max_size=5) | st.binary(max_size=6), max_size=8),
    query=st.sampled_from(["", "schema=v1"]),
)
def test_anything_a_client_sends_raises_only_peer_errors(frames: list[str | bytes], query: str) -> None:
    """AMI-28: and every error can be said, then the connection ends."""
    it = codec(query)
    for frame in frames:
        try:
            it.receive(frame)
            it.replies()
        except PeerError as error:
            said, close = it.send(e.Error.of(error))
            assert messages([said]) and isinstance(close, Close)
            return


@given(st.text())
def test_any_query_is_taken_or_refused(query: str) -> None:
    """AMI-07."""
    try:
        codec(query)
    except BadRequest as error:
        error.detail.encode()


# ---- Batches ----


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_json_batch() -> None:
    """AMI-03, AMI-31, decision 7."""
    batch = parse_batch(
        body(audio_buffer=[0, 255, 1, 2], description="d", opaque={"id": [1]}, incremental=True, model="m")
    )
    assert batch == forms.BatchRequest(b"\0\xff\1\2", {"id": [1]})


@pytest.mark.parametrize("opaque", ["x" * 10_240, "\ud800", None, 0, [], {"a": {"b": 1.5}}])
def test_opaque_is_given_back(opaque: Any) -> None:
    """AMI-31: whatever it is; what was not sent is not there."""
    batch = parse_batch(body(audio_buffer=[0, 0], opaque=opaque))
    for schema in ("", "v1"):
        answer = json.loads(to_json(forms.batch_body("text", 1, batch.opaque, schema)))
        assert answer.get("opaque") == opaque
        assert ("opaque" in answer) == (opaque is not None)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b"[]", "the body is no JSON object"),
        (b"{}", "audio_buffer is not a list of bytes"),
        (body(audio_buffer="AAAA"), "audio_buffer is not a list of bytes"),
        (body(audio_buffer=[0.0, 1.0]), "audio_buffer is not a list of bytes"),
        (body(audio_buffer=[True, False]), "audio_buffer is not a list of bytes"),
        (body(audio_buffer=[0, 256]), "audio_buffer is not a list of bytes from 0 to 255"),
        (body(audio_buffer=[-1, 0]), "audio_buffer is not a list of bytes from 0 to 255"),
        (body(audio_buffer=[0, 10**30]), "audio_buffer is not a list of bytes from 0 to 255"),
        (body(audio_buffer=[]), NO_AUDIO),
        (body(audio_buffer=[0, 0, 0]), "3 bytes are no whole number of 16-bit samples"),
        (body(audio_buffer=[0, 0], opaque="x" * 10_241), "opaque has more than 10240 bytes"),
        (body(audio_buffer=[0, 0], opaque=["x" * 10_237]), "opaque has more than 10240 bytes"),
        (b'{"audio_buffer":[0,0],"opaque":NaN}', "opaque is no JSON"),
        (b'{"audio_buffer":[0,0],"opaque":[1e999]}', "opaque is no JSON"),
        (body(audio_buffer=[0, 0], description=1), "description is no string"),
        (body(audio_buffer=[0, 0], model=[]), "model is no string"),
        (body(audio_buffer=[0, 0], incremental="yes"), "incremental is no boolean"),
    ],
)
def test_refused_batches(content: bytes, message: str) -> None:
    """AMI-13, AMI-28, AMI-29: all of them 400."""
    with pytest.raises(PeerError) as caught:
        parse_batch(content)
    assert caught.value.detail == message
    assert forms.status_of(e.Error.of(caught.value)) == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=9
)


@given(
    st.binary(max_size=30)
    | st.dictionaries(st.sampled_from(["audio_buffer", "opaque", "model"]), JSON).map(
        lambda it: json.dumps(it).encode()
    )
)
def test_any_body_is_taken_or_refused(content: bytes) -> None:
    """AMI-29."""
    try:
        batch = parse_batch(content)
    except PeerError as error:
        error.detail.encode()
    else:
        to_json(forms.batch_body("", 1, batch.opaque, "")).encode()


def test_the_answer_to_a_batch() -> None:
    """AMI-04: the document's form; what no engine of ours has is null."""
    assert forms.batch_body("One.", 16_000, None, "") == {
        "text": "One.",
        "tokens": [],
        "audio_length_samples": 16_000,
        "features_length": None,
        "encoded_length": None,
    }


def test_the_answer_to_a_batch_in_the_form_of_the_code() -> None:
    """AMI-04, AMI-31, decision 7."""
    assert forms.batch_body("One.", 16_000, "id", "v1") == {
        "transcription": "One.",
        "status": "COMPLETE",
        "metadata": {"audio_length_samples": 16_000, "features_length": None, "encoded_length": None, "tokens": []},
        "opaque": "id",
    }
