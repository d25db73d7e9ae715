"""What the utterance of a slot says outwards: partials while it grows, a final when it ends, and when speech is heard.

Pure. Times are those of the tokens: the frames at which the model was sure of them, which lie at or behind the sound.
The confidence of a word or final is the geometric mean of its tokens'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from asr_proto.messages import EndpointKind
from asr_workers.engines.base import Advanced, Hypothesis, Output, Snapshot, Voice
from asr_workers.engines.transducer.token_text import TokenAt, TokenText, confidence
from asr_workers.engines.transducer.token_utterances import Heard, Utterance

TEXT_CHARACTERS_MAX = 65_536
WORDS_MAX = 4096
"""What a final may hold. Only a model that babbles comes near."""


@dataclass(slots=True)
class Speaker:
    """One slot."""

    slot: int
    partials: bool
    utterance: Utterance
    said: Hypothesis | None = None
    """The latest partial, unless it was taken back."""

    def hear(self, tokens: Sequence[Heard], frames: int) -> Iterator[Voice]:
        """So many frames more came out of the model, with these tokens in them."""
        was_silent = not self.utterance.tokens
        self.utterance.hear(tokens, frames)
        if was_silent and self.utterance.tokens:
            yield Voice(self.slot, True, self.utterance.span[0])

    def partial(self, text: TokenText, ahead: Sequence[TokenAt] = ()) -> Iterator[Hypothesis]:
        """What is said so far, if that has changed; `ahead`: what may follow, but is not sure yet."""
        tokens = [*self.utterance.tokens, *ahead]
        said = text.text(tokens)[:TEXT_CHARACTERS_MAX] if self.partials else ""
        if not said:
            yield from self._taken_back()
            return
        sure = text.text(self.utterance.tokens) if ahead else said
        stable = len(sure) if said.startswith(sure) else 0
        if self.said is None or (said, stable) != (self.said.text, self.said.stable):
            self.said = Hypothesis(self.slot, said, tokens[0].start_sample, tokens[-1].end_sample, stable=stable)
            yield self.said

    def final(
        self, tokens: Sequence[TokenAt], endpoint: EndpointKind | None, snapshot: Snapshot, text: TokenText
    ) -> Iterator[Output]:
        """The utterance of these tokens is over. Without text the slot has but advanced."""
        if tokens and not self.utterance.tokens:
            yield Voice(self.slot, False, tokens[-1].end_sample)
        said = text.text(tokens)[:TEXT_CHARACTERS_MAX]
        if not said:
            yield from self._taken_back()
            yield Advanced(self.slot, snapshot)
            return
        self.said = None
        span, words = (tokens[0].start_sample, tokens[-1].end_sample), text.words(tokens)[:WORDS_MAX]
        yield Hypothesis(self.slot, said, *span, endpoint, snapshot, confidence(tokens), words)

    def _taken_back(self) -> Iterator[Hypothesis]:
        """An empty partial, where one was said of what turned out to be nothing."""
        if self.said is not None:
            yield replace(self.said, text="", stable=None)
            self.said = None
