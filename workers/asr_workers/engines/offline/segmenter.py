"""Cuts the chunks of all slots into utterances, with held audio, voice activity detection (VAD) and endpointing.

It serves engines that decode whole utterances. Its results depend on the samples of a session alone, not on where
chunks end: windows lie on a grid that starts at the start of the session and again at each flush. It must not know what
decodes the utterances.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime

from asr_proto.audio import SAMPLE_RATE, Pcm16, to_float32
from asr_proto.errors import BadRequest
from asr_proto.messages import EndpointKind
from asr_workers.engines.base import Advanced, Chunk, Drained, Snapshot
from asr_workers.engines.held_audio import HeldAudio
from asr_workers.engines.offline.config import WINDOW_SAMPLES
from asr_workers.engines.offline.endpoint import EndedUtterance, EndpointConfig, Endpointer
from asr_workers.engines.offline.silero import STATE_BYTES, SileroVad

ADVANCE_SAMPLES = SAMPLE_RATE
"""Samples between two snapshots of a silent slot."""
PAUSE_WINDOWS_MIN = 3
"""Fewest silent windows of a pause between words. Shorter silences occur inside words."""
_HEADER = struct.Struct("<BI")
"""Version of a snapshot's state, and the number of samples after the snapshot that the VAD has already processed."""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """The audio of one utterance that ended."""

    slot: int
    pcm: Pcm16
    """int16 [samples]"""
    start_sample: int
    """The session's sample at which `pcm` begins."""
    endpoint: EndpointKind
    snapshot: Snapshot
    """The point after the utterance from which the slot can be continued."""

    @property
    def end_sample(self) -> int:
        """The sample after the last one."""
        return self.start_sample + len(self.pcm)


Found = Segment | Advanced | Drained


@dataclass(slots=True)
class _Stream:
    """The audio and the position of one slot."""

    audio: HeldAudio
    processed: int
    """The sample up to which the VAD has processed the audio."""
    snapshot_sample: int
    """The sample of the latest snapshot."""
    silent: int = 0
    """Silent windows in a row, up to now."""
    pauses: list[int] = field(default_factory=list)
    """The middle samples of the finished pauses in `audio`, in order. Snapshots do not contain them."""


class Segmenter:
    """The segmenter of all slots. They share one inference session of the VAD; each has a state."""

    def __init__(self, config: EndpointConfig, slots: int, options: onnxruntime.SessionOptions) -> None:
        self._vad = SileroVad(slots, options)
        self._endpointer = Endpointer(config, slots)
        self._streams: dict[int, _Stream] = {}

    # ---- Slots ----

    def open(self, slot: int, snapshot: Snapshot | None) -> None:
        """Begin a session, or continue from a snapshot. Raises BadRequest; the slot stays closed then."""
        self._forget(slot)
        sample = snapshot.sample if snapshot else 0
        processed = sample + (self._restore(slot, snapshot.state) if snapshot else 0)
        self._streams[slot] = _Stream(HeldAudio(sample), processed, sample)

    def close(self, slot: int) -> None:
        self._streams.pop(slot, None)

    def utterance(self, slot: int) -> tuple[int, int] | None:
        """Start and end of the utterance in progress, without the silence at its end; None where there is none."""
        if not self._endpointer.speaking(slot):
            return None
        return self._span(slot, self._endpointer.held(slot), self._endpointer.end(slot))

    def read(self, slot: int, start_sample: int, end_sample: int) -> Pcm16:
        """Samples of the utterance in progress: int16 [end_sample - start_sample]."""
        return self._streams[slot].audio.read(start_sample, end_sample)

    def pauses(self, slot: int) -> Sequence[int]:
        """The middle samples of the pauses between words of the utterance in progress, in order."""
        return self._streams[slot].pauses

    # ---- Audio ----

    def feed(self, chunks: Sequence[Chunk]) -> list[Found]:
        """Take the chunks of a step. Returns what they complete, in order for each slot."""
        for chunk in chunks:
            self._streams[chunk.slot].audio.append(chunk.pcm)
        found: list[Found] = []
        while ready := [chunk.slot for chunk in chunks if self._ready(chunk.slot)]:
            found += self._take_windows(ready)
        for chunk in chunks:
            found += self._flush(chunk.slot) if chunk.flush else self._advance(chunk.slot)
            self._drop_unneeded(chunk.slot)
        return found

    def _ready(self, slot: int) -> bool:
        stream = self._streams[slot]
        return stream.audio.end - stream.processed >= WINDOW_SAMPLES

    def _take_windows(self, slots: Sequence[int]) -> list[Segment]:
        """Process the next window of each of these slots. Where the audio ends in a window, zeros fill the rest."""
        batch = np.array(slots, np.intp)
        windows = np.zeros((len(slots), WINDOW_SAMPLES), np.float32)
        for window, slot in zip(windows, slots, strict=True):
            stream = self._streams[slot]
            pcm = stream.audio.read(stream.processed, min(stream.processed + WINDOW_SAMPLES, stream.audio.end))
            window[: len(pcm)] = to_float32(pcm)
            stream.processed += WINDOW_SAMPLES
        speech = self._vad.detect(batch, windows)
        for slot, silent in zip(slots, (speech < self._endpointer.config.speech_off).tolist(), strict=True):
            self._note_pause(self._streams[slot], silent)
        return [self._segment(ended) for ended in self._endpointer.feed(batch, speech)]

    @staticmethod
    def _note_pause(stream: _Stream, silent: bool) -> None:
        """Update the pauses with the window that was just processed."""
        if silent:
            stream.silent += 1
            return
        if stream.silent >= PAUSE_WINDOWS_MIN:
            stream.pauses.append(stream.processed - WINDOW_SAMPLES * (stream.silent + 2) // 2)
        stream.silent = 0

    def _flush(self, slot: int) -> list[Found]:
        """End the utterance at the last sample. From there the slot continues like a new one."""
        stream = self._streams[slot]
        found: list[Found] = []
        if stream.audio.end > stream.processed:
            found += self._take_windows([slot])
        ended = self._endpointer.flush(slot)
        span = self._span(slot, ended.start, ended.end) if ended else None
        stream.processed, stream.silent = stream.audio.end, 0
        self._forget(slot)
        snapshot = self._snapshot(slot)
        found.append(
            Segment(slot, self.read(slot, *span), span[0], "flush", snapshot) if span else Advanced(slot, snapshot)
        )
        return [*found, Drained(slot)]

    def _advance(self, slot: int) -> list[Found]:
        """A snapshot of a silent slot, ADVANCE_SAMPLES or more after the latest one."""
        stream = self._streams[slot]
        moved = self._needed(slot) - stream.snapshot_sample
        if self._endpointer.speaking(slot) or moved < ADVANCE_SAMPLES:
            return []
        return [Advanced(slot, self._snapshot(slot))]

    def _segment(self, ended: EndedUtterance) -> Segment:
        start, end = self._span(ended.slot, ended.start, ended.end)
        return Segment(ended.slot, self.read(ended.slot, start, end), start, ended.endpoint, self._snapshot(ended.slot))

    def _span(self, slot: int, start: int, end: int) -> tuple[int, int]:
        """The samples that lie `start` and `end` windows before now, within the audio."""
        stream = self._streams[slot]
        return stream.processed - WINDOW_SAMPLES * start, min(stream.processed - WINDOW_SAMPLES * end, stream.audio.end)

    def _drop_unneeded(self, slot: int) -> None:
        stream, needed = self._streams[slot], self._needed(slot)
        stream.audio.drop_before(needed)
        while stream.pauses and stream.pauses[0] < needed:
            del stream.pauses[0]

    def _needed(self, slot: int) -> int:
        """The first sample that the utterance in progress, or the next one, may contain."""
        return self._streams[slot].processed - WINDOW_SAMPLES * self._endpointer.held(slot)

    # ---- Snapshots ----

    def _snapshot(self, slot: int) -> Snapshot:
        stream = self._streams[slot]
        stream.snapshot_sample = self._needed(slot)
        processed = stream.processed - stream.snapshot_sample
        state = _HEADER.pack(_VERSION, processed) + self._vad.export(slot) + self._endpointer.export(slot)
        return Snapshot(stream.snapshot_sample, state)

    def _restore(self, slot: int, state: bytes) -> int:
        """Restore a snapshot's state. Returns the samples that the VAD has already processed. Raises BadRequest."""
        vad_at, endpointer_at = _HEADER.size, _HEADER.size + STATE_BYTES
        try:
            version, processed = _HEADER.unpack(state[:vad_at])
            if version != _VERSION:
                raise ValueError(f"unknown version {version}")
            self._endpointer.restore(slot, state[endpointer_at:])
            self._vad.restore(slot, state[vad_at:endpointer_at])
        except (ValueError, struct.error) as error:
            raise BadRequest(f"the snapshot is not of this engine: {error}", slug="bad-snapshot") from error
        return int(processed)

    def _forget(self, slot: int) -> None:
        self._vad.reset(slot)
        self._endpointer.reset(slot)
