"""The embedded engine: Moonshine tiny English on the CPU, behind voice activity detection.

Every chunk is segmented at once; decoding, which costs 10 to 100 times as much, is done one utterance per step, the
most urgent first. Partials are decoded only in steps without live audio: when the machine cannot keep up they get
rarer first, then slots with a waiting final take no chunks. No audio is dropped. This module must not know sessions or
sockets; the step brings the time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import BadRequest
from asr_proto.messages import Spec
from asr_workers.endpoint import EndpointConfig
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, SlotOptions, Snapshot, Voice
from asr_workers.engines.decode_queue import Decode, most_urgent
from asr_workers.engines.moonshine_model import MoonshineModel, session_options
from asr_workers.engines.rolling import Settled
from asr_workers.engines.segmenter import Found, Segment, Segmenter
from asr_workers.engines.silero import WINDOW_SAMPLES

CHUNK_SAMPLES = 2 * WINDOW_SAMPLES
BACKGROUND_LEAD_S = 1.0
"""A chunk whose deadline lies further ahead came faster than real time."""
WINDOW_SAMPLES_MIN = 3 * SAMPLE_RATE
"""A partial decodes at least this much speech anew: the model understands less of short pieces."""
WINDOW_SAMPLES_MOVE = SAMPLE_RATE
"""What is to be gained before its beginning moves: the decode that moves it cannot build on the one before."""
UNCOMMITTED_S_MARGIN = 5.0
"""Beyond the longest utterance: a second between two snapshots in silence, and chunks that wait for the final."""


def _windows(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)


STEP_S_P99 = 1.0
"""A final of the longest utterance, on a slow core."""


@dataclass(frozen=True, slots=True)
class MoonshineConfig:
    """How to run the engine. The defaults of the endpointing were tuned on read speech."""

    slots: int = 16
    threads: int = 1
    """Per inference. A second one costs twice the CPU time for little wall time."""
    update_ms: int = 500
    """A partial is decoded at most once in this time, and once in as much new speech."""
    speech_on: float = 0.5
    speech_off: float = 0.35
    voiced_ms_min: int = 64
    preroll_ms: int = 288
    trail_ms: int = 256
    endpoint_silence_ms: int = 608
    segment_s_max: float = 15.0
    cut_s: float = 4.0
    """A segment that is too long is cut at the quietest place of its last seconds."""
    pad_s: float = 0.25
    """Zeros on both sides of what is decoded: without them the model makes up words at abrupt ends."""

    @property
    def endpointing(self) -> EndpointConfig:
        return EndpointConfig(
            speech_on=self.speech_on,
            speech_off=self.speech_off,
            voiced_windows_min=_windows(self.voiced_ms_min / 1000),
            preroll_windows=_windows(self.preroll_ms / 1000),
            trail_windows=_windows(self.trail_ms / 1000),
            silence_windows=_windows(self.endpoint_silence_ms / 1000),
            utterance_windows_max=_windows(self.segment_s_max),
            cut_windows=_windows(self.cut_s),
        )


@dataclass(slots=True)
class _Partial:
    """What was said about the utterance in progress."""

    start_sample: int
    window_sample: int
    """From here on it is decoded again; what was said before is settled."""
    settled: Settled = field(default_factory=Settled)
    tokens: list[int] = field(default_factory=list)
    """Of the window."""
    text: str = ""
    refused_sample: int = -1
    """Where the window could not begin, because the texts did not fit together."""
    end_sample: int = 0
    decoded_s: float = float("-inf")
    due_s: float | None = None
    """When the next became due; None while it is not."""


@dataclass(slots=True)
class _Slot:
    """One session's open work. `waiting` holds what was found behind a final that is not decoded yet, in order."""

    partials: bool
    live: bool = True
    speaking: bool = False
    spoke_until: int = 0
    """Where the latest utterance ended."""
    waiting: deque[tuple[Found, float]] = field(default_factory=deque)
    partial: _Partial | None = None


class MoonshineEngine:
    """Engine of asr_workers.engines.base. Raises SetupError where the model's package is missing."""

    def __init__(self, config: MoonshineConfig) -> None:
        self._config = config
        options = session_options(config.threads)
        self._segmenter = Segmenter(config.endpointing, config.slots, options)
        self._model = MoonshineModel(options, config.pad_s)
        self._slots: dict[int, _Slot] = {}
        self._elective_s = 0.0
        self._model.decode(np.zeros(SAMPLE_RATE, np.int16))  # the first decode is slow: not a session's

    @property
    def spec(self) -> Spec:
        return Spec(
            engine="moonshine",
            model="moonshine-tiny-en",
            languages=("en",),
            slots=self._config.slots,
            chunk_samples=CHUNK_SAMPLES,
            uncommitted_s_max=self._config.segment_s_max + UNCOMMITTED_S_MARGIN,
            device="cpu",
            step_s_p99=STEP_S_P99,
        )

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        if options.language.partition("-")[0].lower() not in ("", "en"):
            raise BadRequest(
                f"language {options.language!r} is not supported: this model knows English only",
                slug="unsupported-language",
            )
        assert slot not in self._slots and 0 <= slot < self._config.slots
        self._segmenter.open(slot, snapshot)
        self._slots[slot] = _Slot(options.partials)

    def close(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._segmenter.close(slot)

    def checkpoint(self, slot: int) -> None:
        """The segmenter's own commits are never far: an utterance has a longest length."""

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
        keeping_up = not any(self._slots[chunk.slot].live for chunk in chunks)
        decode = most_urgent(decode for decode in self._decodes() if decode.final or keeping_up)
        if decode is not None:
            outputs += self._final(decode.slot) if decode.final else self._update(decode.slot, now)
        return outputs

    # ---- What waits ----

    def _decodes(self) -> Iterator[Decode]:
        """The next decode of every slot that has one."""
        for number, slot in self._slots.items():
            if slot.waiting:
                yield Decode(number, True, slot.live, slot.waiting[0][1])
            elif slot.partial and slot.partial.due_s is not None:
                yield Decode(number, False, slot.live, slot.partial.due_s)

    def _ready(self, number: int) -> Iterator[Output]:
        """What a slot found, up to the first utterance that must be decoded."""
        waiting = self._slots[number].waiting
        while waiting and not isinstance(waiting[0][0], Segment):
            found, _ = waiting.popleft()
            assert isinstance(found, Advanced | Drained)
            yield found

    def _listen(self, number: int) -> Iterator[Voice]:
        """Whether the speaker began or ceased to speak. A cut for length is neither."""
        slot, utterance = self._slots[number], self._segmenter.utterance(number)
        if slot.speaking != (utterance is not None):
            slot.speaking = utterance is not None
            yield Voice(number, slot.speaking, utterance[0] if utterance else slot.spoke_until)

    def _follow(self, number: int, now: float) -> None:
        """See whether a partial of this slot has become due."""
        slot = self._slots[number]
        utterance = self._segmenter.utterance(number) if slot.partials else None
        if utterance is None:
            slot.partial = None
            return
        start, end = utterance
        if slot.partial is None or slot.partial.start_sample != start:
            slot.partial = _Partial(start, start, end_sample=start)
        partial, update_ms = slot.partial, self._config.update_ms
        heard = (end - partial.end_sample) * 1000 >= update_ms * SAMPLE_RATE
        if partial.due_s is None and heard and (now - partial.decoded_s) * 1000 >= update_ms:
            partial.due_s = now

    # ---- Decoding ----

    def _final(self, number: int) -> list[Output]:
        """Decode the utterance that waits longest in this slot; an empty one only moves the snapshot on."""
        segment, _ = self._slots[number].waiting.popleft()
        assert isinstance(segment, Segment)
        text = self._model.text(self._model.decode(segment.pcm))
        final: Output = Advanced(number, segment.snapshot)
        if text:
            final = Hypothesis(
                number, text, segment.start_sample, segment.end_sample, segment.endpoint, segment.snapshot
            )
        return [final, *self._ready(number)]

    def _update(self, number: int, now: float) -> list[Output]:
        """Decode the utterance in progress; nothing where its text has not changed."""
        started = time.perf_counter()
        try:
            return self._updated(number, now)
        finally:
            self._elective_s = time.perf_counter() - started

    def _updated(self, number: int, now: float) -> list[Output]:
        partial, utterance = self._slots[number].partial, self._segmenter.utterance(number)
        assert partial is not None and utterance is not None
        start, end = utterance
        if not self._move_window(number, partial, end):
            window = self._segmenter.read(number, partial.window_sample, end)
            partial.tokens = self._model.decode(window, partial.tokens)
        partial.end_sample, partial.decoded_s, partial.due_s = end, now, None
        text = partial.settled.joined(self._model.text(partial.tokens))
        if text in ("", partial.text):
            return []
        partial.text = text
        return [Hypothesis(number, text, start, end)]

    def _move_window(self, number: int, partial: _Partial, end: int) -> bool:
        """Decode from a later pause on, where there is one and the texts fit together."""
        pauses = [at for at in self._segmenter.pauses(number) if end - at >= WINDOW_SAMPLES_MIN]
        if not pauses or pauses[-1] - partial.window_sample < WINDOW_SAMPLES_MOVE:
            return False
        begin = pauses[-1]
        if begin == partial.refused_sample:
            return False
        tokens = self._model.decode(self._segmenter.read(number, begin, end))
        settled = partial.settled.moved(partial.text, self._model.text(tokens))
        if settled is None:
            partial.refused_sample = begin
            return False
        partial.window_sample, partial.settled, partial.tokens = begin, settled, tokens
        return True
