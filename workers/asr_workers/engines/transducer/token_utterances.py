"""Where the utterances of a slot end, from the frames of its tokens alone. Pure; for engines that only append tokens.

Their models have a state that grows old, and a token may come long after its word. So an utterance ends where no token
came for a while, and the state then begins anew inside that silence, at a place from which the audio is heard again.
That place is all that somebody else needs to go on: it happens in undisturbed sessions too, so a session that was
moved there has the same text as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import EndpointKind
from asr_workers.engines.transducer.token_text import TokenAt

FRAME_SAMPLES = 1280
"""An encoder frame: 80 ms."""
KEPT_FRAMES = 12
"""The most audio that a new state hears again: a word that has begun may not have given its first token yet."""
IDLE_FRAMES = 75
"""A state that has given no token for so long begins anew."""
PAUSE_FRAMES = 4
"""What ends an utterance that has its length."""
PATIENCE_FRAMES = 125
"""How long such a one may wait for a pause."""


@dataclass(frozen=True, slots=True)
class UtteranceRules:
    """When an utterance ends, in frames."""

    silence: int
    """Frames without a token behind the last one that end it; 0: they do not."""
    length: int
    """From here on any pause ends it; without one it is cut before its last word."""
    cuts: bool = True
    """Whether a state can go on behind such a cut; if not, it begins anew there too."""

    @classmethod
    def of(cls, endpoint_ms: int, utterance_s_max: float, *, cuts: bool = True) -> UtteranceRules:
        """To the next whole frame."""
        silence = math.ceil(endpoint_ms * SAMPLE_RATE / (1000 * FRAME_SAMPLES))
        return cls(silence, round(utterance_s_max * SAMPLE_RATE / FRAME_SAMPLES), cuts)

    @property
    def uncommitted_s_max(self) -> float:
        """From the beginning of a state to the end of the longest utterance in it."""
        return (IDLE_FRAMES + self.length + PATIENCE_FRAMES + self.silence) * FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Heard:
    """A token as the decoder gave it."""

    id: int
    frame: int
    frames: int
    """It stands for so many, from `frame` on."""
    confidence: float


@dataclass(frozen=True, slots=True)
class Ending:
    """An utterance ended, or a silent state grew old: then there are no tokens."""

    tokens: tuple[TokenAt, ...]
    endpoint: EndpointKind | None
    origin: int | None
    """The sample at which the state is to begin anew; None: it goes on."""

    @property
    def said_until(self) -> int:
        """Audio before this sample has all its words in finals."""
        return self.tokens[-1].end_sample if self.origin is None else self.origin


@dataclass(slots=True)
class Utterance:
    """The utterance in progress of one slot. Frames are counted from `origin`, a sample of the session."""

    origin: int
    """Where the model's state began."""
    frames: int = 0
    """How many have come out of the model."""
    silent_from: int = 0
    """The frame behind the last token."""
    tokens: list[TokenAt] = field(default_factory=list)

    @property
    def span(self) -> tuple[int, int]:
        """The samples from its first token to its last; there must be one."""
        return self.tokens[0].start_sample, self.tokens[-1].end_sample

    @property
    def needed(self) -> int:
        """The first sample at which the state may begin anew."""
        return self.sample(max(self._behind, self.frames - KEPT_FRAMES))

    @property
    def _behind(self) -> int:
        """The frame behind the last token, but none whose audio is not all there yet."""
        return max(min(self.silent_from, self.frames - 1), 0)

    def sample(self, frame: int) -> int:
        """Where this frame begins."""
        return self.origin + frame * FRAME_SAMPLES

    def placed(self, token: Heard) -> TokenAt:
        """The token with its samples."""
        end = token.frame + token.frames
        return TokenAt(token.id, self.sample(token.frame), self.sample(end), token.confidence)

    def hear(self, tokens: Iterable[Heard], frames: int) -> None:
        """So many frames more came out, with these tokens in them."""
        for token in tokens:
            self.tokens.append(self.placed(token))
            self.silent_from = token.frame + token.frames
        self.frames += frames

    def ending(self, rules: UtteranceRules, starts_word: Callable[[int], bool]) -> Ending | None:
        """Whether something ends here. The caller begins anew where it says so."""
        silent = self.frames - self.silent_from
        if not self.tokens:
            return Ending((), None, self._anew()) if silent >= IDLE_FRAMES else None
        if rules.silence and silent >= rules.silence:
            return Ending(tuple(self.tokens), "silence", self._anew())
        long = (self.sample(self.frames) - self.tokens[0].start_sample) // FRAME_SAMPLES - rules.length
        if long >= 0 and silent >= PAUSE_FRAMES:
            return Ending(tuple(self.tokens), "length", self._anew())
        return self._cut(rules, starts_word) if long >= PATIENCE_FRAMES else None

    def flush(self, end: int) -> tuple[TokenAt, ...]:
        """All tokens, none of which stands for audio behind the sample `end`."""
        return tuple(
            TokenAt(token.id, min(token.start_sample, end), min(token.end_sample, end), token.confidence)
            for token in self.tokens
        )

    def _anew(self) -> int:
        """In the middle of the silence, but not too far back."""
        return self.sample(max((self.silent_from + self.frames) // 2, self.frames - KEPT_FRAMES))

    def _cut(self, rules: UtteranceRules, starts_word: Callable[[int], bool]) -> Ending | None:
        """End before the last word, which may still be growing; where no word begins, before the last token."""
        if not rules.cuts:
            return Ending(tuple(self.tokens), "length", self.sample(self._behind))
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
        """From such values. Raises TypeError or ValueError."""
        heard = [TokenAt(int(id), int(start), int(end), confidence) for id, start, end, confidence in tokens]
        return cls(origin, frames, silent_from, heard)
