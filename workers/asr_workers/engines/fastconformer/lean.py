"""The lean implementation: our own streaming encoder and decoders over a checkpoint's weights, no NeMo."""

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
    """Raises SetupError with one sentence, Unsupported where a part of the model is not known here."""
    device = torch.device(settings.device)
    weights = Weights(checkpoint.weights, device, dtype_of(settings))
    with building(f"the configuration of {checkpoint.path} is not understood"):
        shape = lean_shape(checkpoint.config)
    quantized = settings.precision == "int8"
    graphed = device.type == "cuda" and settings.graphs
    with building(f"the encoder of {checkpoint.path} cannot be built"):
        lean = LeanEncoder(shape, context(checkpoint.config), weights, settings.slots + graphed, quantized)
    if unread := weights.unread("encoder."):
        raise Unsupported(f"the lean implementation does not know {unread[0]}: take nemo")
    # Tokens are decided in full precision: it costs little beside the encoder.
    exact = Weights(checkpoint.weights, device, torch.float32)
    with building(f"the {settings.decoder} decoder of {checkpoint.path} cannot be built"):
        decoder = make_decoder(exact, checkpoint, settings)
    encoder = GraphedEncoder(lean, settings.slots, weights.placed(torch.empty(0))) if graphed else lean
    return SlotModel(checkpoint, settings, "lean", encoder, decoder)


def make_decoder(weights: Weights, checkpoint: NemoCheckpoint, settings: ModelSettings) -> GreedyDecoder:
    """The decoder that was asked for. Raises SetupError where the checkpoint has none."""
    if settings.decoder == "rnnt":
        if not weights.names("joint."):
            raise SetupError(f"{checkpoint.name} has no transducer: take the decoder ctc")
        activation = checkpoint.config.get("joint", {}).get("jointnet", {}).get("activation", "relu")
        if activation != "relu":
            raise Unsupported(f"the lean implementation does not know a joint network with {activation}: take nemo")
        device = torch.device(settings.device)
        decoder = GraphedRnntDecoder if device.type == "cuda" and settings.graphs else RnntDecoder
        return decoder(PredictionNet(weights), settings.slots, device, settings.confidence)
    for prefix in ("ctc_decoder", "decoder"):
        weight = weights.optional(f"{prefix}.decoder_layers.0.weight")
        if weight is not None:
            bias = weights(f"{prefix}.decoder_layers.0.bias")
            head = make_linear(weight[:, :, 0], bias)
            return CtcDecoder(head, weight.shape[0] - 1, settings.slots, settings.confidence)
    raise SetupError(f"{checkpoint.name} has no CTC head: take the decoder rnnt")
