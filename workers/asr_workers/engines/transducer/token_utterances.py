"""Endpointing by tokens: where utterances end, from the frames of a slot's tokens. Pure.

For engines that only append tokens. An utterance ends after a number of frames without a token. The model then starts
with an empty state at a frame inside that silence (the origin), and the audio after the origin is encoded again. This
keeps the state from drifting. It also makes commits small: another worker continues from the origin without any state.
Sessions that are not moved restart there too, so a moved session has the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import EndpointKind
from asr_workers.engines.transducer.token_text import TokenAt

FRAME_SAMPLES = 1280
"""Samples of an encoder frame: 80 ms."""
KEPT_FRAMES = 12
"""The most frames that are encoded again with an empty state: a word may have begun that has no token yet."""
IDLE_FRAMES = 75
"""After this many frames without a token outside of utterances, the state is emptied."""
PAUSE_FRAMES = 4
"""Frames without a token that end an utterance of at least the configured length."""
PATIENCE_FRAMES = 125
"""Frames that such an utterance may wait for a pause before it is cut."""


@dataclass(frozen=True, slots=True)
class UtteranceRules:
    """When an utterance ends, in frames."""

    silence: int
    """Frames without a token that end an utterance; with 0, silence ends none."""
    length: int
    """From this length on, a pause of PAUSE_FRAMES ends it. Without a pause it is cut before its last word."""
    cuts: bool = True
    """Whether the state is kept at such a cut. If not, all tokens become final and the state is emptied."""

    @classmethod
    def of(cls, endpoint_ms: int, utterance_s_max: float, *, cuts: bool = True) -> UtteranceRules:
        """From milliseconds of silence and seconds of length, in whole frames: silence up, length to the nearest."""
        silence = math.ceil(endpoint_ms * SAMPLE_RATE / (1000 * FRAME_SAMPLES))
        return cls(silence, round(utterance_s_max * SAMPLE_RATE / FRAME_SAMPLES), cuts)

    @property
    def uncommitted_s_max(self) -> float:
        """Longest time from an empty state to the end of the utterance after it, in seconds."""
        return (IDLE_FRAMES + self.length + PATIENCE_FRAMES + self.silence) * FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class FrameToken:
    """A token as the decoder emitted it."""

    id: int
    frame: int
    """The encoder frame at which it was emitted. `Utterance` counts frames from its origin."""
    frames: int
    """The number of frames that it covers, from `frame` on."""
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an utterance. Without tokens, it is a long silence after which the state is emptied."""

    tokens: tuple[TokenAt, ...]
    endpoint: EndpointKind | None
    origin: int | None
    """The sample at which the caller starts with an empty state; None where the state is kept."""

    @property
    def committed_sample(self) -> int:
        """All words before this sample are in finals."""
        return self.tokens[-1].end_sample if self.origin is None else self.origin


@dataclass(slots=True)
class Utterance:
    """The utterance in progress of one slot. Frames are counted from `origin`."""

    origin: int
    """The sample of the session at which the model started with an empty state."""
    frames: int = 0
    """Frames that the model has returned since then."""
    silent_from: int = 0
    """The frame after the last token."""
    tokens: list[TokenAt] = field(default_factory=list)
    """The tokens that are in no final yet."""

    @property
    def span(self) -> tuple[int, int]:
        """The first sample of its first token and the end of its last one. There must be a token."""
        return self.tokens[0].start_sample, self.tokens[-1].end_sample

    @property
    def needed(self) -> int:
        """The earliest sample that may become an origin: audio before it is not needed any more."""
        return self.sample(max(self._after_tokens, self.frames - KEPT_FRAMES))

    @property
    def _after_tokens(self) -> int:
        """The frame after the last token, or the last frame that the model returned where that is earlier."""
        return max(min(self.silent_from, self.frames - 1), 0)

    def sample(self, frame: int) -> int:
        """The first sample of this frame."""
        return self.origin + frame * FRAME_SAMPLES

    def placed(self, token: FrameToken) -> TokenAt:
        """The token with the session's samples that it covers."""
        end = token.frame + token.frames
        return TokenAt(token.id, self.sample(token.frame), self.sample(end), token.confidence)

    def add(self, tokens: Iterable[FrameToken], frames: int) -> None:
        """Append the next `frames` frames and the tokens in them."""
        for token in tokens:
            self.tokens.append(self.placed(token))
            self.silent_from = token.frame + token.frames
        self.frames += frames

    def ending(self, rules: UtteranceRules, starts_word: Callable[[int], bool]) -> Ending | None:
        """The ending that the latest frame brings, if any. The caller then starts anew at its `origin`."""
        silent = self.frames - self.silent_from
        if not self.tokens:
            return Ending((), None, self._next_origin()) if silent >= IDLE_FRAMES else None
        if rules.silence and silent >= rules.silence:
            return Ending(tuple(self.tokens), "silence", self._next_origin())
        long = (self.sample(self.frames) - self.tokens[0].start_sample) // FRAME_SAMPLES - rules.length
        if long >= 0 and silent >= PAUSE_FRAMES:
            return Ending(tuple(self.tokens), "length", self._next_origin())
        return self._cut(rules, starts_word) if long >= PATIENCE_FRAMES else None

    def flush(self, end: int) -> tuple[TokenAt, ...]:
        """All tokens, none of them reaching beyond the sample `end`."""
        return tuple(
            TokenAt(token.id, min(token.start_sample, end), min(token.end_sample, end), token.confidence)
            for token in self.tokens
        )

    def _next_origin(self) -> int:
        """The next origin: the middle of the silence, at most KEPT_FRAMES back."""
        return self.sample(max((self.silent_from + self.frames) // 2, self.frames - KEPT_FRAMES))

    def _cut(self, rules: UtteranceRules, starts_word: Callable[[int], bool]) -> Ending | None:
        """End before the last word, which may be incomplete; where no token begins a word, before the last token."""
        if not rules.cuts:
            return Ending(tuple(self.tokens), "length", self.sample(self._after_tokens))
        if len(self.tokens) < 2:
            return None
        places = range(len(self.tokens) - 1, 0, -1)
        at = next((place for place in places if starts_word(self.tokens[place].id)), len(self.tokens) - 1)
        ended, self.tokens = tuple(self.tokens[:at]), self.tokens[at:]
        return Ending(ended, "length", None)

    # ---- Snapshots ----

    def fields(self) -> list[object]:
        """Plain values for a snapshot."""
        tokens = [(token.id, token.start_sample, token.end_sample, token.confidence) for token in self.tokens]
        return [self.origin, self.frames, self.silent_from, tokens]

    @classmethod
    def of(cls, origin: int, frames: int, silent_from: int, tokens: list[list[float]]) -> Utterance:
        """The utterance whose `fields` these are. Raises TypeError or ValueError where they are none."""
        placed = [TokenAt(int(id), int(start), int(end), confidence) for id, start, end, confidence in tokens]
        return cls(origin, frames, silent_from, placed)
