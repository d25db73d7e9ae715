"""Turns the decoded steps of one session into partials, finals and snapshots. Pure.

Text of greedy decoding only grows. So finals are decided here, not by the model: an utterance ends at a pause, when it
is long, and at a flush. A *run* is the audio between two flushes. Steps and state resets count from its start.

With state resets, a snapshot holds the start of the current segment and the text so far. The worker that continues
decodes the segment again from its start, without outputs up to the step of the snapshot. Without resets, a snapshot
holds the card's state. A snapshot fits only the model that made it.

Results depend on the order of steps only, not on the time at which they were computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgpack

from asr_proto.errors import BadRequest
from asr_proto.messages import EndpointKind
from asr_workers.engines.base import Advanced, Hypothesis, Output, Snapshot
from asr_workers.engines.card.resets import SEAM_TOKENS, ResetRule, Seam
from asr_workers.engines.transducer.token_text import TokenAt, TokenText, confidence

STEP_SAMPLES = 960
PAUSE_STEPS = 12
"""Steps without a token that end an utterance: 720 ms."""
UTTERANCE_STEPS = 200
"""Steps from an utterance's start (12 s), after which it ends where the next word begins."""
UTTERANCE_TOKENS_MAX = 300
"""Most tokens of an utterance, because the size of a final is limited."""
ADVANCE_STEPS = 250
"""Steps between two snapshots of a silent slot without state resets: 15 s."""
NEVER = 1 << 62
"""A step that no run reaches."""
_VERSION = 2


class CardStream:
    """The stream of one session in the engine's slot `slot`.

    `model` is the model's checksum. `export` returns the card's state after the last decoded step; it is called without
    state resets only.
    """

    __slots__ = (
        "_due",
        "_export",
        "_model",
        "_partials",
        "_pending",
        "_quiet",
        "_rule",
        "_run",
        "_seam",
        "_silent_from",
        "_slot",
        "_tail",
        "_text",
        "_trusted",
        "segment",
        "step",
    )

    def __init__(
        self,
        slot: int,
        text: TokenText,
        rule: ResetRule | None,
        export: Callable[[], bytes],
        *,
        model: str,
        partials: bool,
    ) -> None:
        self._slot, self._text, self._rule, self._export, self._partials = slot, text, rule, export, partials
        self._model = model
        self.begin(0)

    def begin(self, run_sample: int) -> None:
        """Start a run at this sample of the session, with an empty state."""
        self._run = run_sample
        self._pending: list[TokenAt] = []
        """The tokens of the current utterance."""
        self._silent_from = 0
        """The step after that of the last token."""
        self._quiet = 0
        """Steps before this one are decoded a second time, so they give no outputs."""
        self.step = 0
        """The next step to be decoded."""
        self._tail: list[int] = []
        """The last tokens kept of this segment."""
        self._enter(0, [])

    # ---- Decoding ----

    def decoded(self, tokens: Sequence[int], log_probs: Sequence[float]) -> Sequence[Output]:
        """Outputs of the current segment's next step, with its tokens and their natural log probabilities."""
        at, self.step = self.step, self.step + 1
        before = len(self._pending)
        if len(tokens):
            self._keep(at, tokens, log_probs)
        changed = len(self._pending) > before
        if not changed and self.step < self._due:
            return ()
        outputs: list[Output] = []
        if self._rule and self.step == self._rule.end(self.segment):
            self._enter(self.segment + 1, self._tail)
            outputs += self._advanced()
        if self.step <= self._quiet:
            self._plan()
            return outputs
        outputs += self._pause() if not changed else self._grown()
        self._plan()
        return outputs

    def flush(self, end_sample: int) -> Output:
        """End the run at this sample, after its last chunk was decoded. The next run starts there."""
        pending = self._pending
        self.begin(end_sample)
        return self._final(pending, "flush", Snapshot(end_sample, b""), end_sample)

    def lag(self, step: int) -> None:
        """Continue the current segment at this step, up to which it was decoded. Steps that the segment before it
        already decoded give no outputs again."""
        self._quiet = max(self._quiet, self.step)
        self.step = step

    def _keep(self, at: int, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        if self._rule and at < self._rule.kept_from(self.segment):
            return
        start = self._run + at * STEP_SAMPLES
        for token, log_prob in zip(tokens, log_probs, strict=True):
            if not self._seam.keeps(token):
                continue
            self._tail = [*self._tail[1 - SEAM_TOKENS :], token]
            if at >= self._quiet:
                self._pending.append(TokenAt(token, start, start + STEP_SAMPLES, math.exp(min(log_prob, 0.0))))
                self._silent_from = at + 1

    def _enter(self, segment: int, trusted: list[int]) -> None:
        self.segment, self._trusted = segment, trusted
        self._seam = Seam(trusted)
        self._tail = []
        self._plan()

    def _plan(self) -> None:
        """Set `_due`: the next step after which there may be outputs, if no token comes before."""
        end = self._rule.end(self.segment) if self._rule else self.step + ADVANCE_STEPS
        pause = self._silent_from + PAUSE_STEPS if self._pending else NEVER
        self._due = min(end, max(pause, self._quiet + 1))

    # ---- Finals and partials ----

    def _grown(self) -> list[Output]:
        outputs: list[Output] = []
        cut = self._cut()
        if cut:
            ended, self._pending = self._pending[:cut], self._pending[cut:]
            outputs.append(self._final(ended, "length", replace(self.snapshot(), unsaid_sample=ended[-1].end_sample)))
        if self._pending and self._partials:
            text = self._text.text(self._pending)
            span = self._pending[0].start_sample, self._pending[-1].end_sample
            outputs.append(Hypothesis(self._slot, text, *span, stable=len(text)))
        return outputs

    def _cut(self) -> int:
        """Number of tokens of a long utterance that become final: those before its last word, which may grow."""
        pending = self._pending
        steps = (pending[-1].start_sample - pending[0].start_sample) // STEP_SAMPLES
        if steps < UTTERANCE_STEPS and len(pending) < UTTERANCE_TOKENS_MAX:
            return 0
        starts = [index for index in range(1, len(pending)) if self._text.starts_word(pending[index].id)]
        if starts:
            return starts[-1]
        return len(pending) if len(pending) >= UTTERANCE_TOKENS_MAX else 0

    def _pause(self) -> list[Output]:
        if self._pending:
            if self.step < self._silent_from + PAUSE_STEPS:
                return []
            ended, self._pending = self._pending, []
            return [self._final(ended, "silence", self.snapshot())]
        return self._advanced() if self._rule is None else []

    def _advanced(self) -> list[Output]:
        """A snapshot between utterances. Within an utterance there is none, because its final brings one."""
        return [] if self._pending else [Advanced(self._slot, self.snapshot())]

    def _final(
        self, tokens: list[TokenAt], endpoint: EndpointKind, snapshot: Snapshot, end_sample: int | None = None
    ) -> Output:
        """The final of these tokens, which ends at `end_sample` at the latest; an Advanced where there is no text."""
        text = self._text.text(tokens)
        if not text:
            return Advanced(self._slot, snapshot)
        end = tokens[-1].end_sample if end_sample is None else min(tokens[-1].end_sample, end_sample)
        words = self._text.words(tokens)
        span = tokens[0].start_sample, end
        return Hypothesis(self._slot, text, *span, endpoint, snapshot, confidence(tokens), words)

    # ---- Snapshots ----

    def snapshot(self) -> Snapshot:
        """A point from which another stream of the same model continues with the same outputs."""
        pending = [(token.id, token.start_sample, token.end_sample, token.confidence) for token in self._pending]
        fields = (_VERSION, self._model, self._rule is not None, self._run, self.segment, max(self.step, self._quiet))
        card = b"" if self._rule else self._export()
        first = self._rule.start(self.segment) if self._rule else self.step
        state = msgpack.packb((*fields, self._silent_from, self._trusted, pending, card))
        return Snapshot(self._run + first * STEP_SAMPLES, state)

    def restore(self, snapshot: Snapshot) -> bytes:
        """Continue from a snapshot. Returns the card's state to import, empty for none. Raises BadRequest."""
        if not snapshot.state:
            self.begin(snapshot.sample)
            return b""
        try:
            version, *fields = msgpack.unpackb(snapshot.state)
            if version != _VERSION:
                raise ValueError(f"unknown version {version}")
            model, resets, run, segment, step, silent_from, trusted, pending, card = fields
            if model != self._model:
                raise ValueError(f"it is of another model than {self._model}")
            if resets != (self._rule is not None):
                raise ValueError("one of the two workers resets its state and the other does not")
            self.begin(run)
            self._enter(segment, [int(token) for token in trusted])
            self._pending = [TokenAt(*token) for token in pending]
            if any(not 0 <= token.id < len(self._text) for token in self._pending):
                raise ValueError("it has tokens that the model does not have")
            self._silent_from, self._quiet = silent_from, step
            self.step = self._rule.start(segment) if self._rule else step
            self._plan()
            if not isinstance(card, bytes) or snapshot.sample != run + self.step * STEP_SAMPLES:
                raise ValueError("its parts do not fit together")
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise BadRequest(f"the snapshot is not of this engine: {error}", slug="bad-snapshot") from error
        return card
