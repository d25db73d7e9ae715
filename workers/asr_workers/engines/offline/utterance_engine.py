"""Base of engines whose model decodes whole utterances: voice activity detection, partials, and the order of decodes.

Every chunk is segmented in the step that brings it. Decoding takes 10 to 100 times as long. It is done in batches, the
most urgent decodes first. Partials wait while live audio waits. So when the machine cannot keep up, partials become
rarer first. Then slots with a waiting final take no chunks. No audio is dropped. This module must not know sessions,
sockets or the meaning of tokens. The time is an argument of each step.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import onnxruntime

from asr_proto.audio import SAMPLE_RATE, Pcm16
from asr_proto.errors import BadRequest
from asr_proto.messages import Spec
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Hypothesis, Output, SlotOptions, Snapshot, Voice
from asr_workers.engines.offline.config import WINDOW_SAMPLES, UtteranceConfig
from asr_workers.engines.offline.decode_queue import BatchLimits, Decode, next_batch
from asr_workers.engines.offline.rolling import Settled
from asr_workers.engines.offline.segmenter import Found, Segment, Segmenter

CHUNK_SAMPLES = 2 * WINDOW_SAMPLES
BACKGROUND_LEAD_S = 1.0
"""A chunk whose deadline is later than this many seconds from now arrived faster than real time: background audio."""
WINDOW_SAMPLES_MIN = 3 * SAMPLE_RATE
"""Fewest samples that a partial decodes after its window moved: the model recognizes shorter audio worse."""
WINDOW_SAMPLES_MOVE = SAMPLE_RATE
"""Fewest samples by which the window's start moves. The decode of a move cannot use the earlier tokens as a draft."""
UNCOMMITTED_S_MARGIN = 5.0
"""Uncommitted seconds beyond the longest utterance: between snapshots in silence, and while a final waits."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Samples to decode."""

    pcm: Pcm16
    """int16 [samples]"""
    draft: Sequence[int] = ()
    """Tokens that the samples probably have, from an earlier decode of most of them."""


Task = Generator[DecodeRequest, list[int], list[Output]]
"""A decode in progress: it yields one request after the other, receives the tokens of each, and returns the outputs."""


@dataclass(slots=True)
class _Partial:
    """The latest partial of the utterance in progress."""

    start_sample: int
    window_sample: int
    """The start of the window: partials decode the audio from here on, and keep the text of the audio before it."""
    settled: Settled = field(default_factory=Settled)
    """The text of the audio before the window."""
    tokens: list[int] = field(default_factory=list)
    """The tokens of the window."""
    text: str = ""
    """The whole text."""
    refused_sample: int = -1
    """A sample at which the window cannot begin, because the texts have no seam there."""
    end_sample: int = 0
    """The end of the audio that was decoded."""
    decoded_s: float = float("-inf")
    """The time of the latest decode, in seconds on the step's clock."""
    due_s: float | None = None
    """The time at which the next partial became due; None while none is due."""


@dataclass(slots=True)
class _UtteranceSlot:
    """The open work of one session."""

    partials: bool
    live: bool = True
    """Whether the latest chunk arrived in real time."""
    speaking: bool = False
    """Whether the latest Voice reported speech."""
    spoke_until: int = 0
    """The sample at which the latest utterance ended."""
    waiting: deque[tuple[Found, float]] = field(default_factory=deque)
    """Results of the segmenter that were not returned yet, in order, each with the time of its step."""
    partial: _Partial | None = None


class UtteranceEngine(Engine, ABC):
    """An engine without its model: subclasses implement `_decode` and `_text`."""

    def __init__(
        self,
        config: UtteranceConfig,
        spec: Spec,
        options: onnxruntime.SessionOptions,
        batch: BatchLimits,
        live_late_s_max: float = float("-inf"),
    ) -> None:
        """`live_late_s_max`: steps whose live audio is later than this many seconds decode no partials.

        With the default, steps with live audio decode none.
        """
        self._spec = spec
        self._update_ms = config.update_ms
        self._batch = batch
        self._live_late_s_max = live_late_s_max
        self._segmenter = Segmenter(config.endpointing, spec.slots, options)
        self._slots: dict[int, _UtteranceSlot] = {}
        self._elective_s = 0.0

    @abstractmethod
    def _decode(self, requests: Sequence[DecodeRequest]) -> list[list[int]]:
        """The tokens of each request, decoded as one batch."""

    @abstractmethod
    def _text(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""

    # ---- The engine's interface ----

    @property
    def spec(self) -> Spec:
        return self._spec

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        if options.language.partition("-")[0].lower() not in ("", *self._spec.languages):
            known = ", ".join("English" if language == "en" else language for language in self._spec.languages)
            raise BadRequest(
                f"language {options.language!r} is not supported: this model recognizes {known} only",
                slug="unsupported-language",
            )
        assert slot not in self._slots and 0 <= slot < self._spec.slots
        self._segmenter.open(slot, snapshot)
        self._slots[slot] = _UtteranceSlot(options.partials)

    def close(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._segmenter.close(slot)

    def snapshot(self, slot: int) -> None:
        """None: utterances have a longest length, so the commits of the segmenter come often enough."""

    def blocked(self, slot: int) -> bool:
        return bool(self._slots[slot].waiting)

    def pending(self) -> bool:
        return next(self._decodes(), None) is not None

    def elective_s(self) -> float:
        return self._elective_s

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        self._elective_s = 0.0
        for chunk in chunks:
            assert not self.blocked(chunk.slot), "a slot whose final waits takes no chunk"
            self._slots[chunk.slot].live = chunk.deadline_s - now <= BACKGROUND_LEAD_S
        for found in self._segmenter.feed(chunks):
            self._slots[found.slot].waiting.append((found, now))
            if isinstance(found, Segment):
                self._slots[found.slot].spoke_until = found.end_sample
        outputs: list[Output] = [voice for chunk in chunks for voice in self._listen(chunk.slot)]
        outputs += [output for chunk in chunks for output in self._ready(chunk.slot)]
        for chunk in chunks:
            self._follow(chunk.slot, now)
        keeping_up = all(self._in_time(chunk, now) for chunk in chunks)
        decodes = [decode for decode in self._decodes() if decode.final or keeping_up]
        # Without new audio, waiting for a fuller batch would be a busy loop.
        others = len(self._slots) - len(decodes) if chunks else 0
        return outputs + self._run(next_batch(decodes, self._batch, others, now), now)

    # ---- What waits ----

    def _in_time(self, chunk: Chunk, now: float) -> bool:
        return not self._slots[chunk.slot].live or now - chunk.deadline_s <= self._live_late_s_max

    def _decodes(self) -> Iterator[Decode]:
        """The next decode of every slot that has one."""
        for number, slot in self._slots.items():
            if slot.waiting:
                yield Decode(number, True, slot.live, slot.waiting[0][1])
            elif slot.partial and slot.partial.due_s is not None:
                yield Decode(number, False, slot.live, slot.partial.due_s)

    def _ready(self, number: int) -> Iterator[Output]:
        """The waiting results of a slot, up to the first utterance, which must be decoded."""
        waiting = self._slots[number].waiting
        while waiting and not isinstance(waiting[0][0], Segment):
            found, _ = waiting.popleft()
            assert isinstance(found, Advanced | Drained)
            yield found

    def _listen(self, number: int) -> Iterator[Voice]:
        """A Voice where speech began or ended in this step. A cut of a long utterance gives none."""
        slot, utterance = self._slots[number], self._segmenter.utterance(number)
        if slot.speaking != (utterance is not None):
            slot.speaking = utterance is not None
            yield Voice(number, slot.speaking, utterance[0] if utterance else slot.spoke_until)

    def _follow(self, number: int, now: float) -> None:
        """Mark the slot where a partial has become due."""
        slot = self._slots[number]
        utterance = self._segmenter.utterance(number) if slot.partials else None
        if utterance is None:
            slot.partial = None
            return
        start, end = utterance
        if slot.partial is None or slot.partial.start_sample != start:
            slot.partial = _Partial(start, start, end_sample=start)
        partial = slot.partial
        has_new_speech = (end - partial.end_sample) * 1000 >= self._update_ms * SAMPLE_RATE
        if partial.due_s is None and has_new_speech and (now - partial.decoded_s) * 1000 >= self._update_ms:
            partial.due_s = now

    # ---- Decoding ----

    def _run(self, decodes: Sequence[Decode], now: float) -> list[Output]:
        """Run these decodes together: the pending requests of all of them are one batch."""
        tasks = {d.slot: self._final(d.slot) if d.final else self._update(d.slot, now) for d in decodes}
        requests = {slot: next(task) for slot, task in tasks.items()}
        outputs: dict[int, list[Output]] = {slot: [] for slot in tasks}
        partials = {decode.slot for decode in decodes if not decode.final}
        while requests:
            started = time.perf_counter()
            answers = zip(list(requests), self._decode(list(requests.values())), strict=True)
            self._elective_s += (time.perf_counter() - started) * _share(requests, partials)
            for slot, tokens in answers:
                try:
                    requests[slot] = tasks[slot].send(tokens)
                except StopIteration as ended:
                    del requests[slot]
                    outputs[slot] = ended.value
        return [output for found in outputs.values() for output in found]

    def _final(self, number: int) -> Task:
        """Decode the utterance that waits longest in this slot. Where its text is empty, the output is an Advanced."""
        segment, _ = self._slots[number].waiting.popleft()
        assert isinstance(segment, Segment)
        text = self._text((yield DecodeRequest(segment.pcm)))
        final: Output = Advanced(number, segment.snapshot)
        if text:
            final = Hypothesis(
                number, text, segment.start_sample, segment.end_sample, segment.endpoint, segment.snapshot
            )
        return [final, *self._ready(number)]

    def _update(self, number: int, now: float) -> Task:
        """Decode the utterance in progress. There is no output where its text is unchanged."""
        partial, utterance = self._slots[number].partial, self._segmenter.utterance(number)
        assert partial is not None and utterance is not None
        start, end = utterance
        moved = yield from self._move_window(number, partial, end)
        if not moved:
            partial.tokens = yield DecodeRequest(
                self._segmenter.read(number, partial.window_sample, end), partial.tokens
            )
        partial.end_sample, partial.decoded_s, partial.due_s = end, now, None
        text = partial.settled.joined(self._text(partial.tokens))
        if text in ("", partial.text):
            return []
        partial.text = text
        return [Hypothesis(number, text, start, end)]

    def _move_window(self, number: int, partial: _Partial, end: int) -> Generator[DecodeRequest, list[int], bool]:
        """Move the window to a later pause and decode it. False where there is no such pause, or no seam."""
        pauses = [at for at in self._segmenter.pauses(number) if end - at >= WINDOW_SAMPLES_MIN]
        if not pauses or pauses[-1] - partial.window_sample < WINDOW_SAMPLES_MOVE:
            return False
        begin = pauses[-1]
        if begin == partial.refused_sample:
            return False
        tokens = yield DecodeRequest(self._segmenter.read(number, begin, end))
        settled = partial.settled.moved(partial.text, self._text(tokens))
        if settled is None:
            partial.refused_sample = begin
            return False
        partial.window_sample, partial.settled, partial.tokens = begin, settled, tokens
        return True


def _share(requests: dict[int, DecodeRequest], slots: set[int]) -> float:
    """The share of these slots in the requested audio, 0 to 1."""
    samples = {slot: len(request.pcm) for slot, request in requests.items()}
    return sum(samples[slot] for slot in slots & requests.keys()) / max(sum(samples.values()), 1)
