"""CAIMAN-ASR's WebSocket dialect, `/asr/v0.1/stream`, for greedy decoding (CAI-18..31).

There is one response per 60 ms of audio, empty or not, so that a client in lock-step (send one frame, receive one)
never waits for ever. It is sent after the engine's step if a step has at most 60 ms; with other engines, as soon as the
worker has the audio. A response's text is the text that became final since the previous response; with engines whose
text only grows, it is the text added since then. The concatenation of all responses is the whole text. `confidence` is
a constant of the dialect ("currently unused").
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from asr_dialects import caiman
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    Progress,
    Ready,
    ServiceEvent,
    Start,
    Stop,
)
from asr_proto.audio import BYTES_PER_SAMPLE, OddByte, seconds
from asr_proto.errors import BadRequest, OutOfOrder
from asr_proto.messages import Final, Partial

FRAME_SAMPLES = 960
ALTERNATIVES_MAX = 100
CLIENT_FAULT, SERVICE_FAULT = 4400, 4503


class CaimanCodec:
    """One `/asr/v0.1/stream` conversation. Raises BadRequest for an invalid parameter, before the upgrade."""

    coalesces: frozenset[type] = frozenset({Partial})

    def __init__(self, request: Request) -> None:
        _check_query(request.query)
        self.subprotocol = caiman.SUBPROTOCOL if caiman.SUBPROTOCOL in request.subprotocols else None
        self._odd = OddByte()
        self._samples = 0
        self._responses = 0
        self._text = ""
        """New text that is not sent yet."""
        self._taken = 0
        """Number of the utterance's characters that were added to `_text`."""
        self._has_text = False
        self._stopped = False
        self._early = False

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return [Start(partials=False, appends=True, progress_samples=FRAME_SAMPLES, progress_taken=True)]

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, str):
            raise BadRequest("audio is sent in binary frames")
        if self._stopped:
            raise OutOfOrder("a frame after the end of the stream")
        if frame == caiman.END:
            self._stopped = True
            return [Stop()]
        pcm = self._odd.feed(frame)
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        return [Audio(pcm)] if pcm else []

    def replies(self) -> list[Frame]:
        return []

    def tail(self) -> list[ClientEvent]:
        return []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Ready():
                self._early = event.chunk_samples > FRAME_SAMPLES
            case Partial():
                self._take(event.text)
            case Final():
                self._take(event.text)
                self._taken = 0
            case Progress():
                return self._respond_until((event.taken if self._early else event.done) // FRAME_SAMPLES)
            case Bye(reason=events.GOING_AWAY):
                return [*self._rest(), self._error(closes.left(seconds(self._samples)))]
            case Bye():
                return [*self._rest(), Close(1000)]
            case Error():
                return [self._error(event)]
        return []

    def _take(self, text: str) -> None:
        """Add the new characters of an utterance's text. After a move, the text arrives again from its start.

        When the engine withdraws text that was already sent, the text that replaces it counts as new.
        """
        new = text[self._taken :]
        if new and not self._taken and self._has_text:
            new = " " + new
        self._text += new
        self._taken = max(self._taken, len(text)) if text else 0
        self._has_text = self._has_text or bool(new)

    def _respond_until(self, count: int) -> list[Frame]:
        responses: list[Frame] = []
        while self._responses < count:
            responses.append(self._response())
        return responses

    def _rest(self) -> list[Frame]:
        responses = self._respond_until(-(-self._samples // FRAME_SAMPLES))
        return [*responses, self._response()] if self._text else responses

    def _response(self) -> str:
        start = min(self._responses * FRAME_SAMPLES, self._samples)
        end = min(start + FRAME_SAMPLES, self._samples)
        self._responses += 1
        text, self._text = self._text, ""
        return caiman.response(seconds(start), seconds(end), text)

    def _error(self, event: Error) -> Close:
        if event.slug == "at-capacity":
            return Close(SERVICE_FAULT, "503 maximum number of simultaneous connections reached")
        code = SERVICE_FAULT if event.is_service else CLIENT_FAULT
        return Close.because(code, f"{code - 4000} {event.slug}: {event.detail}")


def _check_query(query: str) -> None:
    """Check the query's parameters. Raises BadRequest. A raw `;` is part of the value of content_type."""
    parameters = _unique(parse_qsl(query, keep_blank_values=True, separator="&"))
    _check_content_type(parameters.pop("content_type", ""))
    alternatives = parameters.pop("alternatives", "1")
    is_number = len(alternatives) <= 9 and alternatives.isascii() and alternatives.isdigit()
    if not is_number or not 1 <= int(alternatives) <= ALTERNATIVES_MAX:
        raise BadRequest(f"alternatives is an integer from 1 to {ALTERNATIVES_MAX}")
    for name, allowed in caiman.PARAMETERS.items():
        if parameters.get(name, allowed[0]) not in allowed:
            raise BadRequest(f"{name} must be {' or '.join(allowed)}")


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The values by name. Raises BadRequest for a name with two different values."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if values.setdefault(name, value) != value:
            raise BadRequest(f"{name[:40]} is given twice")
    return values


def _check_content_type(content_type: str) -> None:
    """Check the content type. An absent one means S16LE, mono, 16 kHz; any other must have exactly these attributes."""
    if not content_type:
        return
    kind, *attributes = (part.strip() for part in content_type.split(";"))
    if kind != caiman.CONTENT_TYPE:
        raise BadRequest(f"content_type must be {caiman.CONTENT_TYPE}")
    given = _unique(attribute.partition("=")[::2] for attribute in attributes if attribute)
    for name, value in caiman.ATTRIBUTES.items():
        if given.pop(name, None) != value:
            raise BadRequest(f"content_type must say {name}={value}")
    if given:
        raise BadRequest(f"content_type has an unknown attribute {next(iter(given))[:20]!r}")
