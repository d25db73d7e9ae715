"""The reference implementation: NeMo's own encoder and decoders, called so that mixed batches give exact results.

NeMo removes the frames that history adds to the sub-sampling, with one count for the whole batch. Therefore the
sub-sampling runs here once for each pair of history length and chunk length, and then the encoder once for all rows.
The caches of the slots are rows of arenas.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.decoding import (
    SYMBOLS_MAX,
    CtcDecoder,
    Encoded,
    GreedyDecoder,
    confidences,
)
from asr_workers.engines.fastconformer.shape import FIRST_SHORT_FRAMES, SUBSAMPLING, context
from asr_workers.engines.fastconformer.slot_model import Batch, SlotModel, dtype_of
from asr_workers.engines.fastconformer.streaming import Confidence, Emission, ModelSettings
from asr_workers.engines.nemo.building import building
from asr_workers.engines.nemo.checkpoint import NemoCheckpoint

HISTORY_FRAMES = 9
"""Most feature frames before a chunk that its sub-sampling needs."""


@torch.inference_mode()
def load_reference(checkpoint: NemoCheckpoint, settings: ModelSettings) -> SlotModel:
    """The model of a checkpoint, run by NeMo. Raises SetupError with one sentence."""
    if settings.precision == "int8":
        raise SetupError("only the lean implementation supports int8")
    model = _restored(checkpoint, settings)
    rows = settings.slots
    encoder = NemoEncoder(model.encoder, context(checkpoint.config).left, rows, dtype_of(settings))
    return SlotModel(checkpoint, settings, "nemo", encoder, _decoder(model, checkpoint, settings))


def _restored(checkpoint: NemoCheckpoint, settings: ModelSettings) -> Any:
    """NeMo's model with the checkpoint's weights. NeMo itself reads no weights, so it runs no pickle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import nemo.utils  # noqa: PLC0415 - on demand
            from nemo.collections.asr.models import ASRModel  # noqa: PLC0415
            from nemo.core.connectors.save_restore_connector import SaveRestoreConnector  # noqa: PLC0415
        except ImportError as error:
            raise SetupError("the implementation nemo needs nemo_toolkit: pip install 'asr-pool[nemo]'") from error
        nemo.utils.logging.setLevel(logging.ERROR)

        class Connector(SaveRestoreConnector):  # type: ignore[misc]
            """Returns the weights that were already read."""

            @staticmethod
            def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, Tensor]:
                return checkpoint.weights

        connector = Connector()
        if checkpoint.path.is_dir():
            connector.model_extracted_dir = str(checkpoint.path.absolute())
        # A configuration can cause any exception in NeMo and in the libraries below it.
        with building(f"NeMo cannot restore {checkpoint.path}", (Exception,)):
            model = ASRModel.restore_from(
                str(checkpoint.path), map_location=torch.device(settings.device), save_restore_connector=connector
            )
    model.eval()
    model.encoder.to(dtype_of(settings))
    return model


class NemoEncoder:
    """A StreamingEncoder that calls NeMo's encoder and keeps its caches."""

    def __init__(self, encoder: Any, left: int, slots: int, dtype: torch.dtype) -> None:
        self._encoder = encoder
        self._left = left
        encoder.setup_streaming_params(att_context_size=[left, 0])
        device = next(encoder.parameters()).device
        self._caches = encoder.get_initial_cache_state(slots, dtype, device)
        """Inputs of attention [layers, slots, left, width] and convolutions [layers, slots, width, 8]; lengths."""
        self._history = torch.zeros(slots, HISTORY_FRAMES, encoder._feat_in, dtype=dtype, device=device)
        """The last feature frames of each slot: [slots, HISTORY_FRAMES, mels]."""

    def state(self) -> list[Tensor]:
        inputs, convolved, lengths = self._caches
        return [inputs.transpose(0, 1), convolved.transpose(0, 1), lengths, self._history]

    def wipe(self, slot: int) -> None:
        for arena in self.state():
            arena[slot].zero_()

    def resize(self, slots: int) -> None:
        inputs, convolved, lengths = self._caches
        wide = (arena.new_zeros(arena.shape[0], slots, *arena.shape[2:]) for arena in (inputs, convolved))
        self._caches = (*wide, lengths.new_zeros(slots))
        self._history = self._history.new_zeros(slots, *self._history.shape[1:])

    def remembered(self, slot: int, frames: int) -> list[Tensor]:
        return [arena[slot] for arena in self.state()]

    def warm_up(self, right: int) -> None:
        """Does nothing."""

    def step(self, batch: Batch) -> Tensor:
        frames = batch.features.shape[1] // SUBSAMPLING
        self._encoder.set_default_att_context_size([self._left, frames - 1])
        x, counts = self._subsampled(batch, frames)
        selected = (cache.index_select(min(1, cache.dim() - 1), batch.slots) for cache in self._caches)
        inputs, convolved, lengths = selected
        encoded, _, *caches = self._encoder.cache_aware_stream_step(
            processed_signal=x,
            processed_signal_length=counts,
            cache_last_channel=inputs,
            cache_last_time=convolved,
            cache_last_channel_len=lengths,
            keep_all_outputs=True,
            bypass_pre_encode=True,
        )
        for arena, cache in zip(self._caches, caches, strict=True):
            arena.index_copy_(min(1, arena.dim() - 1), batch.slots, cache)
        y: Tensor = encoded.transpose(1, 2)
        return y

    def _subsampled(self, batch: Batch, frames: int) -> tuple[Tensor, Tensor]:
        """Sub-sampled frames [B, frames, width], and the number of valid ones of each row: int64 [B]."""
        starts, ends = batch.starts.tolist(), batch.rows.tolist()
        groups: dict[tuple[int, int, int], list[int]] = {}
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            before = max(0, start * SUBSAMPLING - FIRST_SHORT_FRAMES)
            begin = 0 if start else FIRST_SHORT_FRAMES
            groups.setdefault((min(before, HISTORY_FRAMES), begin, end), []).append(row)
        counts = torch.zeros(len(starts), dtype=torch.int64, device=batch.starts.device)
        x: Tensor | None = None
        for (known, begin, end), members in groups.items():
            rows = torch.tensor(members, device=counts.device)
            past = self._history[batch.slots[rows]]
            features = torch.cat((past, batch.features[rows, begin:end]), 1)
            self._history[batch.slots[rows]] = features[:, -HISTORY_FRAMES:]
            features = features[:, HISTORY_FRAMES - known :]
            lengths = torch.full((len(members),), features.shape[1], device=counts.device)
            y, _ = self._encoder.pre_encode(x=features, lengths=lengths)
            extra = 1 + (known - 1) // SUBSAMPLING if known else 0
            y = y[:, extra : extra + frames]
            x = y.new_zeros(len(starts), frames, y.shape[2]) if x is None else x
            x[rows, : y.shape[1]] = y
            counts[rows] = y.shape[1]
        if x is None:
            raise ValueError("a step needs chunks")
        return x, counts


def _decoder(model: Any, checkpoint: NemoCheckpoint, settings: ModelSettings) -> GreedyDecoder:
    if settings.decoder == "rnnt":
        if not hasattr(model, "joint"):
            raise SetupError(f"{checkpoint.name} has no transducer: use the decoder ctc")
        return NemoRnntDecoder(model, settings.slots, settings.confidence)
    head = getattr(model, "ctc_decoder", None) or model.decoder
    if not hasattr(head, "decoder_layers"):
        raise SetupError(f"{checkpoint.name} has no CTC head: use the decoder rnnt")

    def scores(frames: Tensor) -> Tensor:
        logs: Tensor = head(encoder_output=frames.transpose(1, 2))
        return logs

    return CtcDecoder(scores, head.num_classes_with_blank - 1, settings.slots, settings.confidence)


class NemoRnntDecoder:
    """A GreedyDecoder that calls NeMo's label looping and keeps the slots' states in arenas."""

    def __init__(self, model: Any, slots: int, confidence: Confidence) -> None:
        from nemo.collections.asr.parts.submodules.transducer_decoding import (  # noqa: PLC0415 - on demand
            label_looping_base,
            rnnt_label_looping,
        )

        self._state_class = label_looping_base.BatchedLabelLoopingState
        self._computer = rnnt_label_looping.GreedyBatchedRNNTLabelLoopingComputer(
            decoder=model.decoder,
            joint=model.joint,
            blank_index=model.decoder.blank_idx,
            max_symbols_per_step=SYMBOLS_MAX,
            allow_cuda_graphs=False,
            preserve_step_confidence=True,
            exclude_blank_from_confidence=True,
        )
        # This project's confidence replaces NeMo's, so that both implementations return the same values.
        self._computer._get_confidence_tensor = lambda logs: confidences(logs, confidence)
        device = next(model.decoder.parameters()).device
        first = self._computer._get_batched_decoding_state_after_sos(device, 1)
        (hidden, cell), outputs = first.predictor_states, first.predictor_outputs
        self._first = [part[0] for part in (hidden.transpose(0, 1), cell.transpose(0, 1), outputs, first.labels)]
        self._arenas = [part.repeat(slots, *[1] * part.dim()) for part in self._first]

    def state(self) -> list[Tensor]:
        return self._arenas

    def wipe(self, slot: int) -> None:
        for arena, first in zip(self._arenas, self._first, strict=True):
            arena[slot] = first

    def resize(self, slots: int) -> None:
        self._arenas = [part.repeat(slots, *[1] * part.dim()) for part in self._first]

    def warm_up(self, right: int) -> None:
        """Does nothing."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        hidden, cell, outputs, labels = (arena[encoded.slots] for arena in self._arenas)
        counts = torch.from_numpy(encoded.counts).to(labels.device)
        states = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
        before = self._state_class(states, outputs, labels, torch.zeros_like(counts))
        hypotheses, after = self._computer(encoded.frames, counts, before)[:2]
        (hidden, cell), parts = after.predictor_states, (after.predictor_outputs, after.labels)
        for arena, part in zip(self._arenas, (hidden.transpose(0, 1), cell.transpose(0, 1), *parts), strict=True):
            arena[encoded.slots] = part
        found: list[list[Emission]] = []
        for row, length in enumerate(hypotheses.current_lengths.tolist()):
            tokens = hypotheses.transcript[row, :length].tolist()
            frames = (hypotheses.timestamps[row, :length] + int(encoded.starts[row])).tolist()
            sure = hypotheses.step_confidence[row, :length].tolist()
            found.append([Emission(*parts) for parts in zip(tokens, frames, sure, strict=True)])
        return found
