"""Cache-aware streaming FastConformer (RNN-T, CTC or hybrid) from `.nemo` checkpoints."""

from __future__ import annotations

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine
from asr_workers.engines.entry import Entry, missing
from asr_workers.engines.fastconformer.config import FastConformerConfig

INSTALL = "pip install 'asr-pool[nemo]'"


def _make(config: FastConformerConfig) -> Engine:
    if config.implementation == "nemo" and (absent := missing(["nemo"], INSTALL)):
        raise SetupError(f"engine fastconformer with --implementation nemo {absent}")
    from asr_workers.engines.fastconformer.engine import FastConformerEngine  # noqa: PLC0415 - on demand

    return FastConformerEngine(config)


ENTRY = Entry(
    summary="cache-aware streaming FastConformer (RNN-T or CTC) from .nemo",
    packages=("torch", "sentencepiece"),
    install=INSTALL,
    config=FastConformerConfig,
    make=_make,
)
