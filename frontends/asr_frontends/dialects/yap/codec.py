"""Yap's WebSocket dialect for FastConformer, `/` (YAP-09..13, 25).

The client sends `init`, PCM16 of any length and `close`. It receives an interim whenever the text has changed, and at
least once a second while it sends audio. The original server only closed the socket at the end; this one sends a
`final` first. Clients that have no such message ignore it.

The text is everything since the start: the dialect has no utterances, and a pause never ends a turn. The last words
become visible with later audio or with `close`.

`ts` is the Unix time of the audio in milliseconds: the time of the request plus the length of the audio received so
far. A codec has no clock. For a client that sends while it records, this is the current time.
"""

from __future__ import annotations

from asr_dialects import yap
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    KeepAlive,
    Progress,
    ServiceEvent,
    Start,
    Stop,
)
from asr_frontends.transcript import Transcript
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, OddByte, seconds
from asr_proto.errors import BadRequest
from asr_proto.messages import Final, Partial

SID_MAX = 128
BAD_INIT = "bad-init"
UNSUPPORTED_RATE = "unsupported-sample-rate"


class YapCodec:
    """One conversation."""

    subprotocol: str | None = None
    coalesces: frozenset[type] = frozenset({Partial, Progress})

    def __init__(self, request: Request) -> None:
        self._started_ms = request.unix_ms
        self._sid: str | None = None
        self._stopped = False
        self._odd = OddByte()
        self._samples = 0
        self._samples_sent = 0
        """Number of samples received before the last interim."""
        self._transcript = Transcript()

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return []

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if self._sid is None:
            return self._init(frame)
        if self._stopped:
            return []
        if isinstance(frame, bytes):
            return self._audio(frame)
        message = yap.parse(frame)
        if message is not None and message.get("op") == yap.CLOSE:
            self._stopped = True
            return [Stop()]
        return [KeepAlive()]

    def _init(self, frame: str | bytes) -> list[ClientEvent]:
        message = yap.parse(frame) if isinstance(frame, str) else None
        if message is None or message.get("op") != yap.INIT:
            raise BadRequest("the first message is an init", slug=BAD_INIT)
        sid = message.get("sid")
        if not isinstance(sid, str) or not 0 < len(sid) <= SID_MAX or not sid.isprintable():
            raise BadRequest(f"sid is a printable string of 1 to {SID_MAX} characters", slug=BAD_INIT)
        if message.get("sr", SAMPLE_RATE) != SAMPLE_RATE:
            raise BadRequest(f"sr must be {SAMPLE_RATE}", slug=UNSUPPORTED_RATE)
        self._sid = sid
        return [Start()]

    def _audio(self, data: bytes) -> list[ClientEvent]:
        pcm = self._odd.feed(data)
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        return [Audio(pcm)] if pcm else []

    def replies(self) -> list[Frame]:
        return []

    def tail(self) -> list[ClientEvent]:
        return []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Partial() | Final():
                return [self._interim()] if self._transcript.update(event) else []
            case Progress():
                return [self._interim()] if self._samples > self._samples_sent else []
            case Bye(reason=events.GOING_AWAY):
                return [self._interim(), _close(closes.left(seconds(self._samples)))]
            case Bye():
                return [self._hypothesis(yap.FINAL), Close(closes.NORMAL)]
            case Error():
                return [_close(event)]
        return []

    def _interim(self) -> str:
        self._samples_sent = self._samples
        return self._hypothesis(yap.INTERIM)

    def _hypothesis(self, op: str) -> str:
        ts = self._started_ms + self._samples * 1000 // SAMPLE_RATE
        return yap.hypothesis(op, self._sid, self._transcript.text, ts)


def _close(event: Error) -> Close:
    if event.slug == BAD_INIT:
        return Close(closes.PROTOCOL_ERROR, "Bad init")
    if event.slug == UNSUPPORTED_RATE:
        return Close.because(closes.PROTOCOL_ERROR, f"Bad init: {event.detail}")
    return closes.close_of(event)
