"""Log-mel features of many streams. For chunks of any sizes they equal the features of the whole recording.

The definition is that of NeMo's AudioToMelSpectrogramPreprocessor; the mel filters come from the checkpoint. A frame is
a window of 25 ms centered on its time, so it is ready 12.5 ms after that time. The samples that later frames need are
kept per slot. An utterance of n samples has n // 160 frames, as in training. Zeros follow its last sample.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr_proto.audio import SAMPLE_RATE, Pcm16
from asr_proto.errors import BadRequest, SetupError

_HEADER = struct.Struct("<qfI")
_GUARD = 2.0**-24


@dataclass(frozen=True, slots=True)
class MelSettings:
    """The definition of one model's features."""

    window: Tensor
    """float32 [window samples]."""
    filters: Tensor
    """float32 [mels, fft_samples / 2 + 1]."""
    hop_samples: int = 160
    fft_samples: int = 512
    preemphasis: float = 0.97
    guard: float = _GUARD
    """A small energy that keeps the logarithm finite."""
    clamped: bool = False
    """Whether smaller energies are raised to the guard. If not, the guard is added to every energy."""

    @property
    def mels(self) -> int:
        return self.filters.shape[0]


def mel_settings(config: dict[str, Any], weights: dict[str, Tensor]) -> MelSettings:
    """The features of a checkpoint. Raises SetupError where they need the whole recording or are not supported."""
    given: dict[str, Any] = config.get("preprocessor") or {}
    filters, window = weights.get("preprocessor.featurizer.fb"), weights.get("preprocessor.featurizer.window")
    if filters is None or window is None:
        raise SetupError("the checkpoint does not define its log-mel features")
    if given.get("normalize", "per_feature") in ("per_feature", "all_features") or _fixed(given):
        raise SetupError("the model's features are normalized over whole recordings: it cannot stream")
    if given.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE or given.get("exact_pad"):
        raise SetupError(f"only models of {SAMPLE_RATE} Hz with centered windows are supported")
    if not given.get("log", True) or given.get("mag_power", 2.0) != 2.0 or given.get("frame_splicing", 1) != 1:
        raise SetupError("only models of plain log-mel energies are supported")
    guard = given.get("log_zero_guard_value", _GUARD)
    numbers = {"tiny": torch.finfo(torch.float32).tiny, "eps": torch.finfo(torch.float32).eps}
    return MelSettings(
        window=window.float(),
        filters=filters.float().reshape(-1, filters.shape[-1]),
        hop_samples=round(given.get("window_stride", 0.01) * SAMPLE_RATE),
        fft_samples=2 * (filters.shape[-1] - 1),
        preemphasis=float(given.get("preemph", 0.97) or 0.0),
        guard=float(numbers.get(guard, guard)),
        clamped=given.get("log_zero_guard_type", "add") == "clamp",
    )


class StreamingMel:
    """Computes features for all slots, and keeps the samples that each slot's next frames need."""

    def __init__(self, settings: MelSettings, slots: int) -> None:
        self.settings = settings
        window = settings.window.numel()
        self._window = window
        self._half = window // 2
        self._margin = (settings.fft_samples - window) // 2
        self._taper = torch.nn.functional.pad(settings.window, (self._margin, self._margin))
        self._filters = settings.filters.T.contiguous()
        self._kept = np.zeros((slots, 2 * window), np.float32)
        """Pre-emphasized samples from the start of the next frame's window on: float32 [slots, samples]."""
        self._filled = np.full(slots, self._half, np.int64)
        """Number of valid samples in each slot's row of `_kept`."""
        self._previous = np.zeros(slots, np.float32)
        """The last sample of each slot before pre-emphasis."""

    def reset(self, slot: int) -> None:
        """Prepare the slot for an utterance, with zeros before its first sample."""
        self._kept[slot] = 0.0
        self._filled[slot] = self._half
        self._previous[slot] = 0.0

    def feed(self, slots: Sequence[int], pcm: Sequence[Pcm16], last: Sequence[bool]) -> list[Tensor]:
        """The frames that become ready in each of these slots: float32 [frames, mels] each.

        `pcm` holds int16 [samples] for each slot. Where they are the `last` of the utterance, all remaining frames are
        returned and the slot is reset.
        """
        counts = [self._append(slot, samples, end) for slot, samples, end in zip(slots, pcm, last, strict=True)]
        windows = np.zeros((sum(counts), self.settings.fft_samples), np.float32)
        inner = windows[:, self._margin : self._margin + self._window]
        begin = 0
        for slot, count in zip(slots, counts, strict=True):
            inner[begin : begin + count] = self._take(slot, count)
            begin += count
        for slot, end in zip(slots, last, strict=True):
            if end:
                self.reset(slot)
        if not begin:
            return [torch.empty(0, self.settings.mels) for _ in slots]
        log_mel = self._log_mel(torch.from_numpy(windows))
        ends = np.cumsum(counts).tolist()
        return [log_mel[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def export(self, slot: int) -> bytes:
        """The state of a slot."""
        filled = int(self._filled[slot])
        head = _HEADER.pack(filled, self._previous[slot], self._window)
        return head + self._kept[slot, :filled].tobytes()

    def restore(self, slot: int, exported: bytes) -> None:
        """Continue from an exported state. Raises BadRequest where it is not of this model."""
        if len(exported) < _HEADER.size:
            raise BadRequest("the state of the features is truncated", slug="bad-snapshot")
        filled, previous, window = _HEADER.unpack_from(exported)
        if window != self._window or len(exported) != _HEADER.size + 4 * filled:
            raise BadRequest("the state of the features is of another model", slug="bad-snapshot")
        self._room(filled)
        self._kept[slot] = 0.0
        self._kept[slot, :filled] = np.frombuffer(exported, np.float32, offset=_HEADER.size)
        self._filled[slot], self._previous[slot] = filled, previous

    def _append(self, slot: int, pcm: Pcm16, end: bool) -> int:
        """Keep the samples; the number of frames that are ready now."""
        filled, hop = int(self._filled[slot]), self.settings.hop_samples
        needed = filled + pcm.size
        self._room(needed + self._half)
        if pcm.size:
            samples = pcm.astype(np.float32) * np.float32(1 / 32768)
            emphasized = self._kept[slot, filled:needed]
            emphasized[0] = samples[0] - np.float32(self.settings.preemphasis) * self._previous[slot]
            emphasized[1:] = samples[1:] - np.float32(self.settings.preemphasis) * samples[:-1]
            self._previous[slot] = samples[-1]
        self._filled[slot] = needed
        return (needed - self._half) // hop if end else max(0, (needed - self._window) // hop + 1)

    def _take(self, slot: int, count: int) -> NDArray[np.float32]:
        """The windows [count, window] of the next frames. Zeros follow the last valid sample."""
        hop = self.settings.hop_samples
        row = self._kept[slot]
        stride = row.strides[0]
        taken = np.lib.stride_tricks.as_strided(row, (count, self._window), (hop * stride, stride)).copy()
        rest = max(0, int(self._filled[slot]) - count * hop)
        row[:rest] = row[count * hop : count * hop + rest].copy()
        row[rest : int(self._filled[slot])] = 0.0
        self._filled[slot] = rest
        return taken

    def _room(self, samples: int) -> None:
        """Make all rows at least this long."""
        if samples > self._kept.shape[1]:
            self._kept = np.pad(self._kept, ((0, 0), (0, samples - self._kept.shape[1])))

    def _log_mel(self, windows: Tensor) -> Tensor:
        """float32 windows [frames, fft_samples] -> log-mel energies [frames, mels]."""
        spectrum = torch.view_as_real(torch.fft.rfft(windows * self._taper))
        # The square of a square root, as in NeMo, so that results are equal to the last bit.
        power = spectrum.pow(2).sum(-1).sqrt().pow(2.0)
        mel = power @ self._filters
        guard = self.settings.guard
        return (mel.clamp(min=guard) if self.settings.clamped else mel + guard).log()


def _fixed(given: dict[str, Any]) -> bool:
    return isinstance(given.get("normalize"), dict)
