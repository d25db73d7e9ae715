"""The reference implementation: NeMo's own encoder and decoders, stepped so that mixed batches stay exact.

NeMo drops what history adds to the sub-sampling by one number for a whole batch. So the sub-sampling runs here once for
each pair of history and chunk length, and the encoder then once for all rows. The caches of slots are rows of arenas.
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
"""Feature frames before a chunk that its sub-sampling hears, where there are as many."""


@torch.inference_mode()
def load_reference(checkpoint: NemoCheckpoint, settings: ModelSettings) -> SlotModel:
    """Raises SetupError with one sentence."""
    if settings.precision == "int8":
        raise SetupError("int8 is known to the lean implementation only")
    model = _restored(checkpoint, settings)
    rows = settings.slots
    encoder = NemoEncoder(model.encoder, context(checkpoint.config).left, rows, dtype_of(settings))
    return SlotModel(checkpoint, settings, "nemo", encoder, _decoder(model, checkpoint, settings))


def _restored(checkpoint: NemoCheckpoint, settings: ModelSettings) -> Any:
    """NeMo's model with the weights that were read before: it reads none itself, so no pickle is run here."""
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
            """Gives the weights that are there."""

            @staticmethod
            def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, Tensor]:
                return checkpoint.weights

        connector = Connector()
        if checkpoint.path.is_dir():
            connector.model_extracted_dir = str(checkpoint.path.absolute())
        # Whatever a configuration leads to in NeMo and beneath it.
        with building(f"NeMo cannot restore {checkpoint.path}", (Exception,)):
            model = ASRModel.restore_from(
                str(checkpoint.path), map_location=torch.device(settings.device), save_restore_connector=connector
            )
    model.eval()
    model.encoder.to(dtype_of(settings))
    return model


class NemoEncoder:
    """A StreamingEncoder of slot_model: NeMo's, with its caches."""

    def __init__(self, encoder: Any, left: int, slots: int, dtype: torch.dtype) -> None:
        self._encoder = encoder
        self._left = left
        encoder.setup_streaming_params(att_context_size=[left, 0])
        device = next(encoder.parameters()).device
        self._caches = encoder.get_initial_cache_state(slots, dtype, device)
        """Inputs of attention [layers, slots, left, width], of convolutions [layers, slots, width, 8], lengths."""
        self._history = torch.zeros(slots, HISTORY_FRAMES, encoder._feat_in, dtype=dtype, device=device)
        """The last feature frames of each slot."""

    def state(self) -> list[Tensor]:
        inputs, convolved, heard = self._caches
        return [inputs.transpose(0, 1), convolved.transpose(0, 1), heard, self._history]

    def wipe(self, slot: int) -> None:
        for arena in self.state():
            arena[slot].zero_()

    def resize(self, slots: int) -> None:
        inputs, convolved, heard = self._caches
        wide = (arena.new_zeros(arena.shape[0], slots, *arena.shape[2:]) for arena in (inputs, convolved))
        self._caches = (*wide, heard.new_zeros(slots))
        self._history = self._history.new_zeros(slots, *self._history.shape[1:])

    def remembered(self, slot: int, frames: int) -> list[Tensor]:
        return [arena[slot] for arena in self.state()]

    def warm_up(self, right: int) -> None:
        """Nothing is prepared."""

    def step(self, batch: Batch) -> Tensor:
        frames = batch.features.shape[1] // SUBSAMPLING
        self._encoder.set_default_att_context_size([self._left, frames - 1])
        x, counts = self._subsampled(batch, frames)
        inputs, convolved, heard = (cache.index_select(min(1, cache.dim() - 1), batch.slots) for cache in self._caches)
        encoded, _, *caches = self._encoder.cache_aware_stream_step(
            processed_signal=x,
            processed_signal_length=counts,
            cache_last_channel=inputs,
            cache_last_time=convolved,
            cache_last_channel_len=heard,
            keep_all_outputs=True,
            bypass_pre_encode=True,
        )
        for arena, cache in zip(self._caches, caches, strict=True):
            arena.index_copy_(min(1, arena.dim() - 1), batch.slots, cache)
        y: Tensor = encoded.transpose(1, 2)
        return y

    def _subsampled(self, batch: Batch, frames: int) -> tuple[Tensor, Tensor]:
        """[B, frames, width] and how many of the frames exist [B]."""
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
            heard = torch.cat((past, batch.features[rows, begin:end]), 1)
            self._history[batch.slots[rows]] = heard[:, -HISTORY_FRAMES:]
            heard = heard[:, HISTORY_FRAMES - known :]
            lengths = torch.full((len(members),), heard.shape[1], device=counts.device)
            y, _ = self._encoder.pre_encode(x=heard, lengths=lengths)
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
            raise SetupError(f"{checkpoint.name} has no transducer: take the decoder ctc")
        return NemoRnntDecoder(model, settings.slots, settings.confidence)
    head = getattr(model, "ctc_decoder", None) or model.decoder
    if not hasattr(head, "decoder_layers"):
        raise SetupError(f"{checkpoint.name} has no CTC head: take the decoder rnnt")

    def scores(frames: Tensor) -> Tensor:
        logs: Tensor = head(encoder_output=frames.transpose(1, 2))
        return logs

    return CtcDecoder(scores, head.num_classes_with_blank - 1, settings.slots, settings.confidence)


class NemoRnntDecoder:
    """A GreedyDecoder of decoding: NeMo's label looping over states that lie in arenas."""

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
        # Our measure in place of NeMo's, so that both implementations mean the same.
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
        """Nothing is prepared."""

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
