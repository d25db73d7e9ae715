"""The outputs of one slot's utterance: partials while it grows, a final when it ends, and Voice events.

Pure. The time of a token is the frame at which the model emitted it, which lies at or after the sound. The confidence
of a word or final is the geometric mean of the confidences of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from asr_proto.messages import EndpointKind
from asr_workers.engines.base import Advanced, Hypothesis, Output, Snapshot, Voice
from asr_workers.engines.transducer.token_text import TokenAt, TokenText, confidence
from asr_workers.engines.transducer.token_utterances import FrameToken, Utterance

TEXT_CHARACTERS_MAX = 65_536
WORDS_MAX = 4096
"""Limits of one final: characters of text, and words. Only a model that repeats itself reaches them."""


@dataclass(slots=True)
class TokenTranscript:
    """The utterance in progress of one slot, and the latest partial that was returned of it."""

    slot: int
    partials: bool
    utterance: Utterance
    latest: Hypothesis | None = None
    """The latest partial; None before the first one and after it was withdrawn."""

    def add(self, tokens: Sequence[FrameToken], frames: int) -> Iterator[Voice]:
        """Append the next `frames` encoder frames and their tokens. Yields a Voice where the first token comes."""
        was_silent = not self.utterance.tokens
        self.utterance.add(tokens, frames)
        if was_silent and self.utterance.tokens:
            yield Voice(self.slot, True, self.utterance.span[0])

    def partial(self, text: TokenText, ahead: Sequence[TokenAt] = ()) -> Iterator[Hypothesis]:
        """The text so far, where it has changed. `ahead` are tokens that follow and may still change."""
        tokens = [*self.utterance.tokens, *ahead]
        shown = text.text(tokens)[:TEXT_CHARACTERS_MAX] if self.partials else ""
        if not shown:
            yield from self._withdrawn()
            return
        sure = text.text(self.utterance.tokens) if ahead else shown
        stable = len(sure) if shown.startswith(sure) else 0
        if self.latest is None or (shown, stable) != (self.latest.text, self.latest.stable):
            self.latest = Hypothesis(self.slot, shown, tokens[0].start_sample, tokens[-1].end_sample, stable=stable)
            yield self.latest

    def final(
        self, tokens: Sequence[TokenAt], endpoint: EndpointKind | None, snapshot: Snapshot, text: TokenText
    ) -> Iterator[Output]:
        """The final of an utterance that ended with these tokens. Without text it is an Advanced instead."""
        if tokens and not self.utterance.tokens:
            yield Voice(self.slot, False, tokens[-1].end_sample)
        final_text = text.text(tokens)[:TEXT_CHARACTERS_MAX]
        if not final_text:
            yield from self._withdrawn()
            yield Advanced(self.slot, snapshot)
            return
        self.latest = None
        span, words = (tokens[0].start_sample, tokens[-1].end_sample), text.words(tokens)[:WORDS_MAX]
        yield Hypothesis(self.slot, final_text, *span, endpoint, snapshot, confidence(tokens), words)

    def _withdrawn(self) -> Iterator[Hypothesis]:
        """An empty partial, which withdraws the latest one; nothing where there is none."""
        if self.latest is not None:
            yield replace(self.latest, text="", stable=None)
            self.latest = None
