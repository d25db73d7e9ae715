"""Deepgram's live dialect, `/v1/listen`: options in the query, binary audio, JSON control and results.

Deepgram's types demand some values that an engine may not measure. An unmeasured confidence is 0.0. Unmeasured times of
words are the utterance's time, divided by the number of letters (`asr_frontends.words`).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import Any

from asr_dialects import deepgram
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialects.deepgram.audio import AudioStream
from asr_frontends.dialects.deepgram.options import parse_options
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    Flush,
    KeepAlive,
    Progress,
    Ready,
    ServiceEvent,
    Start,
    Stop,
)
from asr_frontends.words import spread
from asr_proto.audio import SAMPLE_RATE, seconds
from asr_proto.errors import DecodeError
from asr_proto.messages import Final, Flushed, Partial, Speech

PROGRESS_SAMPLES = 1600
"""Interval of the checks for the end of an utterance, in 16 kHz samples."""
PIECE_BYTES = 64_000
"""Largest piece of audio for the session; a message may decode to more."""
NOT_MEASURED = 0.0
"""The confidence where the engine measures none: Deepgram's types demand a number."""
CLIENT_FAULT, SERVICE_FAULT = 1008, 1011
EDGES = ".,;:!?\"'()[]{}<>«»“”‘’„…¿¡-–—"  # noqa: RUF001
"""Characters that are removed from both ends of a word for its plain form."""


class DeepgramCodec:
    """One `/v1/listen` conversation. Raises BadRequest for an invalid option, before the upgrade."""

    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        self._options = parse_options(request.query)
        self.subprotocol = deepgram.SUBPROTOCOL if deepgram.SUBPROTOCOL in request.subprotocols else None
        self._created = datetime.fromtimestamp(request.unix_ms / 1000, UTC)
        self._audio = AudioStream(self._options)
        self._sha256 = hashlib.sha256()
        self._ready = Ready("", "", "", 0)
        self._finalizes = Finalizes()
        self._utterance_end = UtteranceEnd(self._options.utterance_end_ms)
        self._stopped = False
        self._replies: list[Frame] = []

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        options = self._options
        progress_samples = PROGRESS_SAMPLES if options.utterance_end_ms else SAMPLE_RATE
        return [Start("", options.language, options.interim_results, progress_samples)]

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        """The events of one frame. After the end of the stream frames are ignored: clients often still send audio."""
        if self._stopped:
            return []
        if isinstance(frame, bytes):
            return self._on_audio(frame)
        match _parse(frame)["type"]:
            case deepgram.KEEPALIVE:
                return [KeepAlive()]
            case deepgram.FINALIZE:
                return [*self._rest(), Flush(self._finalizes.add(self._audio.seconds))]
            case deepgram.CLOSE_STREAM:
                return self._stop()
            case deepgram.CONFIGURE:
                self._replies.append(deepgram.configure_failure(self._ready.session))
                return [KeepAlive()]
            case unknown:
                raise DecodeError(f"unknown message type {unknown[:40]!r}")

    def _on_audio(self, data: bytes) -> list[ClientEvent]:
        if not data:
            return self._stop()
        self._sha256.update(data)
        return _pieces(self._audio.feed(data))

    def _stop(self) -> list[ClientEvent]:
        self._stopped = True
        return [*self._rest(), Stop()]

    def _rest(self) -> list[ClientEvent]:
        return _pieces(self._audio.end())

    def replies(self) -> list[Frame]:
        replies, self._replies = self._replies, []
        return replies

    def tail(self) -> list[ClientEvent]:
        return [] if self._stopped else self._rest()

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Ready():
                self._ready = event
            case Partial() | Final():
                return [self._results(event), *self._utterance_ends(event)]
            case Flushed():
                return self._flushed()
            case Speech():
                return [*self._speech_started(event), *self._utterance_ends(event)]
            case Progress():
                return self._utterance_ends(event)
            case Bye(reason=events.GOING_AWAY):
                return _error(closes.left(self._audio.seconds))
            case Bye():
                return [self._metadata(), Close(1000)]
            case Error():
                return _error(event)
        return []

    def _results(self, event: Partial | Final) -> str:
        is_final = isinstance(event, Final)
        by_flush = isinstance(event, Final) and event.endpoint == "flush"
        by_silence = isinstance(event, Final) and event.endpoint == "silence" and self._options.endpointing
        alternative: deepgram.Alternative = {
            "transcript": event.text,
            "confidence": _confidence(event.confidence if isinstance(event, Final) else None),
            "words": _words(event),
        }
        return deepgram.results(
            seconds(event.start_sample),
            seconds(event.end_sample),
            alternative,
            self._result_metadata(),
            is_final=is_final,
            speech_final=by_flush or by_silence,
            from_finalize=by_flush and self._finalizes.ended(),
        )

    def _flushed(self) -> list[Frame]:
        """The answer to a Finalize that ended no utterance: a result without words."""
        at_s, has_ended = self._finalizes.answered()
        if has_ended:
            return []
        at_s = round(at_s, 3)
        nothing: deepgram.Alternative = {"transcript": "", "confidence": NOT_MEASURED, "words": []}
        result = deepgram.results(
            at_s, at_s, nothing, self._result_metadata(), is_final=True, speech_final=True, from_finalize=True
        )
        return [result]

    def _result_metadata(self) -> deepgram.ResultMetadata:
        return {
            "request_id": self._ready.session,
            "model_info": self._model_info(),
            "model_uuid": _model_uuid(self._ready.model),
        }

    def _model_info(self) -> deepgram.ModelInfo:
        """The session's model; models have no version here."""
        return {"name": self._ready.model, "version": "", "arch": self._ready.engine}

    def _speech_started(self, event: Speech) -> list[Frame]:
        if event.kind == "end" or not self._options.vad_events:
            return []
        return [deepgram.speech_started(seconds(event.sample))]

    def _utterance_ends(self, event: Partial | Final | Speech | Progress) -> list[Frame]:
        last_word_end = self._utterance_end.update(event)
        return [] if last_word_end is None else [deepgram.utterance_end(last_word_end)]

    def _metadata(self) -> str:
        created = self._created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return deepgram.metadata(
            self._ready.session,
            self._sha256.hexdigest(),
            created,
            round(self._audio.seconds, 6),
            self._audio.channels,
            _model_uuid(self._ready.model),
            self._model_info(),
        )


class Finalizes:
    """The Finalize messages that wait for their answer, in order."""

    def __init__(self) -> None:
        self._asked_at_s: deque[float] = deque()
        self._asked = 0
        self._has_ended = False

    def add(self, at_s: float) -> str:
        """Add a Finalize after `at_s` seconds of audio. Returns the marker of its flush."""
        self._asked_at_s.append(at_s)
        self._asked += 1
        return str(self._asked)

    def ended(self) -> bool:
        """A flush has ended an utterance. Returns whether a Finalize caused it, and not the end of the stream."""
        self._has_ended = self._has_ended or bool(self._asked_at_s)
        return bool(self._asked_at_s)

    def answered(self) -> tuple[float, bool]:
        """The oldest Finalize is done. Returns its position in seconds, and whether it ended an utterance."""
        has_ended, self._has_ended = self._has_ended, False
        return self._asked_at_s.popleft(), has_ended


class UtteranceEnd:
    """Finds gaps: `gap_ms` of audio after the last word of a final, in which no further word begins."""

    def __init__(self, gap_ms: int) -> None:
        self._gap_s = gap_ms / 1000
        self._word_end_s: float | None = None
        self._in_utterance = False
        """Whether the last partial has words that are in no final yet."""
        self._speaking = False
        self._done_s = 0.0

    def update(self, event: Partial | Final | Speech | Progress) -> float | None:
        """The end of the last word, in seconds, when the gap after it is long enough. It is returned once per gap."""
        if not self._gap_s:
            return None
        match event:
            case Partial():
                self._in_utterance = bool(event.text)
            case Final():
                self._in_utterance = False
                self._word_end_s = _last_word_end(event)
            case Speech():
                self._speaking = event.kind == "start"
            case Progress():
                self._done_s = event.done / SAMPLE_RATE
        return self._take()

    def _take(self) -> float | None:
        end_s = self._word_end_s
        if end_s is None or self._in_utterance or self._speaking or self._done_s < end_s + self._gap_s:
            return None
        self._word_end_s = None
        return end_s


def _error(event: Error) -> list[Frame]:
    """An error with Deepgram's code: NET-0001 idle client, DATA-0000 client's fault, NET-0000 service's fault."""
    detail = event.detail or event.slug
    name, code = ("NET-0000", SERVICE_FAULT) if event.is_service else ("DATA-0000", CLIENT_FAULT)
    if event.slug == "idle-timeout":
        name, code = "NET-0001", SERVICE_FAULT
    variant = "SchemaError" if event.slug == "bad-message" else event.slug
    return [
        deepgram.error(variant, detail),
        Close.because(code, f"{name}: {event.slug}: {detail}"),
    ]


# ---- Values ----


def _words(event: Partial | Final) -> list[deepgram.Word]:
    if isinstance(event, Final) and event.words is not None:
        return [_word(w.text, seconds(w.start_sample), seconds(w.end_sample), w.confidence) for w in event.words]
    times = spread(event.text, seconds(event.start_sample), seconds(event.end_sample))
    return [_word(text, start, end, None) for text, start, end in times]


def _word(text: str, start_s: float, end_s: float, confidence: float | None) -> deepgram.Word:
    plain = text.strip(EDGES).lower() or text
    return {
        "word": plain,
        "start": start_s,
        "end": end_s,
        "confidence": _confidence(confidence),
        "punctuated_word": text,
    }


def _confidence(measured: float | None) -> float:
    return NOT_MEASURED if measured is None else round(measured, 4)


def _last_word_end(final: Final) -> float | None:
    words = _words(final)
    return words[-1]["end"] if words else None


def _model_uuid(model: str) -> str:
    """A UUID that is always the same for the same model."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"asr-pool:{model}"))


def _pieces(pcm: bytes) -> list[ClientEvent]:
    return [Audio(pcm[start : start + PIECE_BYTES]) for start in range(0, len(pcm), PIECE_BYTES)]


def _parse(frame: str) -> dict[str, Any]:
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise DecodeError("a text frame is a JSON object") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise DecodeError("a text frame is a JSON object with a type")
    return message
