"""Parakeet-TDT's WebSocket dialect, `/ws` (PAR-01..04, 07..09).

The session begins with the socket, without a first message. Audio is PCM16 in binary frames of any even length; two
control frames are binary too. `__CTRL__:EOS` is answered with the final text, `__CTRL__:RESET` with a reset. The socket
stays usable after both. Each control frame becomes a flush, whose answer separates the text before it from the text
after it. A reset is answered immediately, unless the final of an earlier EOS is still missing. Then that final is sent
first, so that no client takes old words for new ones.

A partial contains the whole text since the start or the last control frame. With `?partials=delta` it contains only the
new characters: those after the beginning that it shares with the previous partial. If the model revises its text, the
concatenation of the deltas is not the text; the final is.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from urllib.parse import parse_qsl

from asr_dialects import parakeet
from asr_frontends import closes, events
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.events import (
    Audio,
    Bye,
    ClientEvent,
    Error,
    Flush,
    KeepAlive,
    ServiceEvent,
    Start,
)
from asr_frontends.transcript import Transcript
from asr_proto.audio import BYTES_PER_SAMPLE, seconds
from asr_proto.errors import BadRequest, LimitExceeded
from asr_proto.messages import Final, Flushed, Partial

NON_PCM = "non-pcm-payload"
TEXT_FRAME = "text-frame"
TEXT_BYTES_MIN = 64
"""Shorter frames are never taken for text: a few quiet samples may look like text."""
PRINTABLE = bytes([*b"\t\n\r", *range(0x20, 0x7F)])
PRINTABLE_SHARE_MAX = 0.9
UNANSWERED_MAX = 64
"""Largest number of control frames that wait for their answers."""


class ParakeetCodec:
    """One `/ws` conversation. Raises BadRequest for an invalid parameter, before the upgrade."""

    subprotocol: str | None = None
    coalesces: frozenset[type]

    def __init__(self, request: Request) -> None:
        partials = dict(parse_qsl(request.query)).get("partials", parakeet.CUMULATIVE)
        if partials not in (parakeet.CUMULATIVE, parakeet.DELTA):
            raise BadRequest(f"partials must be {parakeet.CUMULATIVE} or {parakeet.DELTA}")
        self._delta = partials == parakeet.DELTA
        # A delta cannot replace an older one: its client would lose the characters of the older one.
        self.coalesces = frozenset() if self._delta else frozenset({Partial})
        self._samples = 0
        self._transcript = Transcript()
        self._sent = ""
        self._unanswered: deque[str] = deque()
        """Markers of the unanswered flushes, in order."""
        self._replies: list[Frame] = []

    # ---- Receiving ----

    def opening(self) -> list[ClientEvent]:
        return [Start()]

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        if isinstance(frame, str):
            raise BadRequest("audio and control are sent in binary frames", slug=TEXT_FRAME)
        if frame.startswith(parakeet.CONTROL):
            return self._control(frame[len(parakeet.CONTROL) :])
        if len(frame) % BYTES_PER_SAMPLE or _is_text(frame):
            raise BadRequest("the payload is no PCM16", slug=NON_PCM)
        self._samples += len(frame) // BYTES_PER_SAMPLE
        return [Audio(frame)] if frame else [KeepAlive()]

    def _control(self, name: bytes) -> list[ClientEvent]:
        if name not in (parakeet.EOS.encode(), parakeet.RESET.encode()):
            return [KeepAlive()]
        if len(self._unanswered) == UNANSWERED_MAX:
            raise LimitExceeded(f"{UNANSWERED_MAX} control frames wait for their answers")
        marker = name.decode()
        if marker == parakeet.RESET and parakeet.EOS not in self._unanswered:
            self._replies.append(parakeet.reset())
        self._unanswered.append(marker)
        return [Flush(marker)]

    def replies(self) -> list[Frame]:
        replies, self._replies = self._replies, []
        return replies

    def tail(self) -> list[ClientEvent]:
        return []

    # ---- Sending ----

    def send(self, event: ServiceEvent) -> list[Frame]:
        match event:
            case Partial() | Final():
                return self._hypothesis(event)
            case Flushed():
                return self._flushed()
            case Bye(reason=events.GOING_AWAY):
                return [_close(closes.left(seconds(self._samples)))]
            case Bye():
                return [Close(closes.NORMAL)]
            case Error():
                return [_close(event)]
        return []

    def _hypothesis(self, event: Partial | Final) -> list[Frame]:
        """The frames for a hypothesis. Text before a reset is dropped: the reset is already answered."""
        if self._unanswered and self._unanswered[0] == parakeet.RESET:
            return []
        return self._partial() if self._transcript.update(event) else []

    def _partial(self) -> list[Frame]:
        text = self._transcript.text
        if not self._delta:
            return [parakeet.partial(text)]
        new, self._sent = text[_same(self._sent, text) :], text
        return [parakeet.partial(new)] if new else []

    def _flushed(self) -> list[Frame]:
        answered = self._unanswered.popleft()
        text, self._sent = self._transcript.text, ""
        self._transcript.clear()
        if answered == parakeet.RESET:
            return []
        return [parakeet.final(text), *self._held_resets()]

    def _held_resets(self) -> list[Frame]:
        """The answers to the resets that waited for this final."""
        markers = list(self._unanswered)
        held = markers.index(parakeet.EOS) if parakeet.EOS in markers else len(markers)
        return [parakeet.reset() for _ in range(held)]


def _same(before: str, after: str) -> int:
    """The length of the beginning that both texts share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))


def _close(event: Error) -> Close:
    if event.slug == NON_PCM:
        return Close(closes.UNSUPPORTED_DATA, "Non-PCM payload")
    if event.slug == TEXT_FRAME:
        return Close.because(closes.UNSUPPORTED_DATA, event.detail)
    return closes.close_of(event)


def _is_text(frame: bytes) -> bool:
    """Whether a binary frame looks like text, most likely JSON."""
    if len(frame) < TEXT_BYTES_MIN:
        return False
    others = len(frame.translate(None, PRINTABLE))
    return len(frame) - others > PRINTABLE_SHARE_MAX * len(frame)
