"""The lean implementation: this project's streaming encoder and decoders with a checkpoint's weights, without NeMo."""

from __future__ import annotations

import torch

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.cuda_graphs import GraphedEncoder, GraphedRnntDecoder
from asr_workers.engines.fastconformer.decoding import CtcDecoder, GreedyDecoder, PredictionNet, RnntDecoder
from asr_workers.engines.fastconformer.lean_encoder import LeanEncoder
from asr_workers.engines.fastconformer.linear import make_linear
from asr_workers.engines.fastconformer.shape import Unsupported, context, lean_shape
from asr_workers.engines.fastconformer.slot_model import SlotModel, dtype_of
from asr_workers.engines.fastconformer.streaming import ModelSettings
from asr_workers.engines.fastconformer.weights import Weights
from asr_workers.engines.nemo.building import building
from asr_workers.engines.nemo.checkpoint import NemoCheckpoint


@torch.inference_mode()
def load_lean(checkpoint: NemoCheckpoint, settings: ModelSettings) -> SlotModel:
    """The model of a checkpoint. Raises SetupError with one sentence, Unsupported for a part that it does not have."""
    device = torch.device(settings.device)
    weights = Weights(checkpoint.weights, device, dtype_of(settings))
    with building(f"the configuration of {checkpoint.path} is not understood"):
        shape = lean_shape(checkpoint.config)
    quantized = settings.precision == "int8"
    graphed = device.type == "cuda" and settings.graphs
    with building(f"the encoder of {checkpoint.path} cannot be built"):
        lean = LeanEncoder(shape, context(checkpoint.config), weights, settings.slots + graphed, quantized)
    if unread := weights.unread("encoder."):
        raise Unsupported(f"the lean implementation does not support {unread[0]}: use nemo")
    # The decoder runs in full precision, which costs little compared with the encoder.
    exact = Weights(checkpoint.weights, device, torch.float32)
    with building(f"the {settings.decoder} decoder of {checkpoint.path} cannot be built"):
        decoder = make_decoder(exact, checkpoint, settings)
    encoder = GraphedEncoder(lean, settings.slots, weights.placed(torch.empty(0))) if graphed else lean
    return SlotModel(checkpoint, settings, "lean", encoder, decoder)


def make_decoder(weights: Weights, checkpoint: NemoCheckpoint, settings: ModelSettings) -> GreedyDecoder:
    """The decoder that the settings name. Raises SetupError where the checkpoint does not have it."""
    if settings.decoder == "rnnt":
        if not weights.names("joint."):
            raise SetupError(f"{checkpoint.name} has no transducer: use the decoder ctc")
        activation = checkpoint.config.get("joint", {}).get("jointnet", {}).get("activation", "relu")
        if activation != "relu":
            raise Unsupported(f"the lean implementation does not support a joint network with {activation}: use nemo")
        device = torch.device(settings.device)
        decoder = GraphedRnntDecoder if device.type == "cuda" and settings.graphs else RnntDecoder
        return decoder(PredictionNet(weights), settings.slots, device, settings.confidence)
    for prefix in ("ctc_decoder", "decoder"):
        weight = weights.optional(f"{prefix}.decoder_layers.0.weight")
        if weight is not None:
            bias = weights(f"{prefix}.decoder_layers.0.bias")
            head = make_linear(weight[:, :, 0], bias)
            return CtcDecoder(head, weight.shape[0] - 1, settings.slots, settings.confidence)
    raise SetupError(f"{checkpoint.name} has no CTC head: use the decoder rnnt")
