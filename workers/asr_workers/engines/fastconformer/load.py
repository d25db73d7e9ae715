"""Loads a model with the lean implementation or with NeMo's."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.decoding import joint_output
from asr_workers.engines.fastconformer.lean import load_lean
from asr_workers.engines.fastconformer.shape import Unsupported, context, is_tdt
from asr_workers.engines.fastconformer.streaming import Decoder, ModelSettings, StreamingModel
from asr_workers.engines.nemo.building import building, check_device
from asr_workers.engines.nemo.checkpoint import NemoCheckpoint, read_checkpoint
from asr_workers.engines.transducer.token_text import TokenText

CTC_OUTPUTS = ("ctc_decoder.decoder_layers.0.weight", "decoder.decoder_layers.0.weight")


def load(settings: ModelSettings) -> StreamingModel:
    """The model with empty slots. Raises SetupError with one sentence where it cannot be found, read or run."""
    device = check_device(settings.device)
    if settings.precision == "int8" and device.type != "cpu":
        raise SetupError("int8 runs on CPU only: use bf16")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    checkpoint = read_checkpoint(settings.model, trusted=settings.trust_checkpoint)
    with building(f"the configuration of {checkpoint.path} is not understood"):
        context(checkpoint.config)
        if settings.decoder == "rnnt" and is_tdt(checkpoint.config):
            raise SetupError(f"{checkpoint.name} predicts durations: use the engine parakeet, or the decoder ctc")
    with building(f"the tokenizer of {checkpoint.path} cannot be used"):
        _check_tokens(checkpoint, settings.decoder)
    with building(f"{checkpoint.path} cannot be loaded"):
        return _loaded(checkpoint, settings)


def _loaded(checkpoint: NemoCheckpoint, settings: ModelSettings) -> StreamingModel:
    if settings.implementation != "nemo":
        try:
            return load_lean(checkpoint, settings)
        except Unsupported as error:
            if settings.implementation == "lean":
                raise
            if find_spec("nemo") is None:
                raise SetupError(f"{error.detail}, which needs pip install 'asr-pool[nemo]'") from error
    # Imported only here, because NeMo's import takes seconds and hundreds of megabytes.
    from asr_workers.engines.fastconformer.nemo_reference import load_reference  # noqa: PLC0415

    return load_reference(checkpoint, settings)


def _check_tokens(checkpoint: NemoCheckpoint, decoder: Decoder) -> None:
    """Raises SetupError where the decoder and the tokenizer have different numbers of tokens."""
    pieces = len(TokenText(checkpoint.tokenizer))
    names = CTC_OUTPUTS if decoder == "ctc" else (joint_output(checkpoint.weights),)
    # The last layer's weight has a row for each token, and one for the blank.
    for output in (checkpoint.weights[name] for name in names if name in checkpoint.weights):
        if output.shape[0] != pieces + 1:
            raise SetupError(
                f"{checkpoint.path} has a tokenizer of {pieces} tokens, but its {decoder} decoder has "
                f"{output.shape[0] - 1}"
            )
