"""A StreamingModel made of an encoder and a decoder, which counts the frames of each slot's utterance."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from asr_proto.errors import BadRequest
from asr_workers.engines.fastconformer.decoding import Encoded, GreedyDecoder, Ints
from asr_workers.engines.fastconformer.mel import MelSettings, mel_settings
from asr_workers.engines.fastconformer.shape import FIRST_SHORT_FRAMES, SUBSAMPLING, context
from asr_workers.engines.fastconformer.streaming import Emission, FeatureChunk, Geometry, ModelSettings
from asr_workers.engines.nemo.checkpoint import NemoCheckpoint

_SNAPSHOT = struct.Struct("<4sB4s16s4s4sq")
_MAGIC = b"fcsl"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """The chunks of one step, all of one look-ahead. B rows, each of another slot."""

    features: Tensor
    """[B, 8 * (right + 1), mels]. An utterance's first chunk begins at row 7. Rows without a frame are zero."""
    slots: Tensor
    """int64 [B]: the slot of each row, ascending."""
    starts: Tensor
    """int64 [B]: encoder frames of the utterance before this chunk."""
    rows: Tensor
    """int64 [B]: rows of `features` up to the chunk's end."""
    span: slice | None = None
    """The slots as a slice, where they are consecutive and on a CPU."""
    whole: bool = False
    """Whether no chunk is a first or last one, and every slot has a full history of `left` frames."""


class StreamingEncoder(Protocol):
    """Encodes steps, and keeps the caches of each slot."""

    def step(self, batch: Batch) -> Tensor:
        """Encoder frames [B, right + 1, width]. Frames after the end of a last chunk have undefined values."""

    def wipe(self, slot: int) -> None:
        """Set the slot's caches to those before an utterance."""

    def resize(self, slots: int) -> None:
        """Make caches for this number of slots, all wiped."""

    def state(self) -> list[Tensor]:
        """Views of all caches, each [slots, ...]."""

    def remembered(self, slot: int, frames: int) -> list[Tensor]:
        """Views of the parts of a slot's caches that are in use after this many encoder frames of an utterance."""

    def warm_up(self, right: int) -> None:
        """Prepare for steps with this look-ahead, in encoder frames."""


class SlotModel:
    """An encoder and a decoder as a StreamingModel."""

    def __init__(
        self,
        checkpoint: NemoCheckpoint,
        settings: ModelSettings,
        implementation: Literal["lean", "nemo"],
        encoder: StreamingEncoder,
        decoder: GreedyDecoder,
    ) -> None:
        self.name, self.checksum = checkpoint.name, checkpoint.checksum
        self.license, self.tokenizer = checkpoint.license, checkpoint.tokenizer
        self.implementation: Literal["lean", "nemo"] = implementation
        self.mel: MelSettings = mel_settings(checkpoint.config, checkpoint.weights)
        self._context = context(checkpoint.config)
        self.rights, self.left = self._context.rights, self._context.left
        self._settings = settings
        self._device = torch.device(settings.device)
        self._dtype = dtype_of(settings)
        self._encoder, self._decoder = encoder, decoder
        self._starts = np.zeros(settings.slots, np.int64)
        """Encoder frames of each slot's utterance so far."""
        self._wiped = np.ones(settings.slots, np.bool_)
        """Whether each slot is already wiped."""

    @torch.inference_mode()
    def resize(self, slots: int) -> None:
        self._encoder.resize(slots)
        self._decoder.resize(slots)
        self._starts, self._wiped = np.zeros(slots, np.int64), np.ones(slots, np.bool_)

    def bytes_per_slot(self) -> int:
        return sum(arena[0].numel() * arena.element_size() for arena in self._encoder.state() + self._decoder.state())

    def geometry(self, right: int) -> Geometry:
        return self._context.geometry(right)

    @torch.inference_mode()
    def open(self, slot: int) -> None:
        if not self._wiped[slot]:
            self._encoder.wipe(slot)
            self._decoder.wipe(slot)
            self._starts[slot] = 0
            self._wiped[slot] = True

    def close(self, slot: int) -> None:
        self.open(slot)

    @torch.inference_mode()
    def step(self, chunks: Sequence[FeatureChunk]) -> dict[int, list[Emission]]:
        emissions: dict[int, list[Emission]] = {chunk.slot: [] for chunk in chunks}
        if len(emissions) != len(chunks):
            raise ValueError("a step takes at most one chunk of each slot")
        for right in {chunk.right for chunk in chunks}:
            lane = [chunk for chunk in chunks if chunk.right == right and (len(chunk.features) or not chunk.last)]
            if lane:
                self._step(sorted(lane, key=lambda chunk: chunk.slot), self.geometry(right), emissions)
        for chunk in chunks:
            if chunk.last:
                self.open(chunk.slot)
        return emissions

    def _step(self, lane: list[FeatureChunk], geometry: Geometry, emissions: dict[int, list[Emission]]) -> None:
        slots = np.array([chunk.slot for chunk in lane])
        starts = self._starts[slots]
        rows, features = assembled(lane, starts, geometry, self.mel.mels)
        counts = np.minimum(frames_after(starts, rows), starts + geometry.right + 1) - starts
        placed = torch.from_numpy(slots).to(self._device)
        batch = Batch(
            features.to(self._device, self._dtype, non_blocking=True),
            placed,
            torch.from_numpy(starts).to(self._device),
            torch.from_numpy(rows).to(self._device),
            self._span(slots),
            bool((starts >= self.left).all() and not any(chunk.last for chunk in lane)),
        )
        self._wiped[slots] = False
        frames = self._encoder.step(batch).float()
        found = self._decoder.decode(Encoded(frames, placed, counts, starts))
        self._starts[slots] += counts
        emissions.update(zip(slots.tolist(), found, strict=True))

    def _span(self, slots: Ints) -> slice | None:
        consecutive = int(slots[-1] - slots[0]) + 1 == slots.size
        return slice(int(slots[0]), int(slots[-1]) + 1) if consecutive and self._device.type == "cpu" else None

    @torch.inference_mode()
    def snapshot(self, slot: int) -> bytes:
        head = self._head(int(self._starts[slot]))
        return head + b"".join(_to_bytes(part) for part in self._parts(slot))

    @torch.inference_mode()
    def restore(self, slot: int, state: bytes) -> None:
        if len(state) < _SNAPSHOT.size or state[: _SNAPSHOT.size - 8] != self._head(0)[:-8]:
            raise BadRequest("the snapshot is of another model, precision or decoder", slug="bad-snapshot")
        frames = _SNAPSHOT.unpack_from(state)[-1]
        self.open(slot)
        self._starts[slot] = frames
        parts = self._parts(slot)
        if frames < 0 or len(state) != _SNAPSHOT.size + sum(part.numel() * part.element_size() for part in parts):
            self._starts[slot] = 0
            raise BadRequest("the snapshot is damaged", slug="bad-snapshot")
        self._wiped[slot] = False
        offset = _SNAPSHOT.size
        for part in parts:
            size = part.numel() * part.element_size()
            part.copy_(_from_bytes(state[offset : offset + size], part))
            offset += size

    def _head(self, frames: int) -> bytes:
        parts = (self.implementation, self.checksum, self._settings.decoder, self._settings.precision)
        return _SNAPSHOT.pack(_MAGIC, _VERSION, *(part.encode() for part in parts), frames)

    def _parts(self, slot: int) -> list[Tensor]:
        """Views of the slot's state, in the order in which a snapshot stores them."""
        kept = self._encoder.remembered(slot, int(self._starts[slot]))
        return kept + [arena[slot] for arena in self._decoder.state()]

    @torch.inference_mode()
    def warm_up(self, right: int) -> None:
        self.geometry(right)
        self._encoder.warm_up(right)
        self._decoder.warm_up(right)


def dtype_of(settings: ModelSettings) -> torch.dtype:
    """The type of the encoder's weights and state."""
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def assembled(lane: list[FeatureChunk], starts: Ints, geometry: Geometry, mels: int) -> tuple[Ints, Tensor]:
    """The rows up to each chunk's end, int64 [B], and the features of a Batch, float32 [B, later frames, mels].

    Raises ValueError for a chunk with another number of frames or bands than the geometry and the model have.
    """
    features = torch.zeros(len(lane), geometry.later_frames, mels)
    rows = np.empty(len(lane), np.int64)
    for index, chunk in enumerate(lane):
        begin = 0 if starts[index] else FIRST_SHORT_FRAMES
        end = begin + chunk.features.shape[0]
        if chunk.features.dim() != 2 or chunk.features.shape[1] != features.shape[2]:
            raise ValueError(f"slot {chunk.slot} has features of shape {tuple(chunk.features.shape)}")
        if end > geometry.later_frames or (end < geometry.later_frames and not chunk.last):
            raise ValueError(f"slot {chunk.slot} has {end - begin} frames, which is not the geometry's number")
        features[index, begin:end] = chunk.features
        rows[index] = end
    return rows, features


def frames_after(starts: Ints, rows: Ints) -> Ints:
    """Encoder frames of each utterance, int64 [B], if it ended with these chunks."""
    frames = starts * SUBSAMPLING - FIRST_SHORT_FRAMES + rows
    for _ in range(3):
        frames = frames // 2 + 1
    return frames


def _to_bytes(part: Tensor) -> bytes:
    values = part.contiguous().cpu().flatten().view(torch.uint8)
    return bytes(values.numpy().tobytes())


def _from_bytes(stored: bytes, like: Tensor) -> Tensor:
    if not stored:
        return torch.empty_like(like)
    return torch.frombuffer(bytearray(stored), dtype=like.dtype).view(like.shape)
