"""Which implementation serves a model."""

from __future__ import annotations

import torch

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.lean import load_lean
from asr_workers.engines.fastconformer.nemo_file import Checkpoint, read_checkpoint
from asr_workers.engines.fastconformer.shape import context, lean_shape
from asr_workers.engines.fastconformer.streaming import ModelSettings, StreamingModel


def load(settings: ModelSettings) -> StreamingModel:
    """A model with empty slots. Raises SetupError with one sentence when it cannot be had, read or run."""
    kind = settings.device.split(":", maxsplit=1)[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"there is no {settings.device}: torch sees no CUDA device")
    if settings.precision == "int8" and kind != "cpu":
        raise SetupError("int8 runs on CPU only: take bf16")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    checkpoint = read_checkpoint(settings.model, trusted=settings.trust_checkpoint)
    context(checkpoint.config)
    if settings.implementation == "nemo" or (settings.implementation == "auto" and not _lean(checkpoint)):
        # On demand: importing NeMo takes seconds and hundreds of megabytes.
        from asr_workers.engines.fastconformer.nemo_reference import load_reference  # noqa: PLC0415

        return load_reference(checkpoint, settings)
    return load_lean(checkpoint, settings)


def _lean(checkpoint: Checkpoint) -> bool:
    try:
        lean_shape(checkpoint.config)
    except SetupError:
        return False
    return True
