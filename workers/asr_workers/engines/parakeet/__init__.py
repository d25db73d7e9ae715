"""Parakeet-TDT: a model for whole recordings that streams here by encoding a window around each chunk."""

from __future__ import annotations

from asr_workers.engines.base import Engine
from asr_workers.engines.entry import Entry
from asr_workers.engines.parakeet.config import ParakeetConfig


def _make(config: ParakeetConfig) -> Engine:
    from asr_workers.engines.parakeet.engine import ParakeetEngine  # noqa: PLC0415 - on demand

    return ParakeetEngine(config)


ENTRY = Entry(
    summary="Parakeet-TDT from .nemo, in overlapping windows",
    packages=("torch", "nemo"),
    install="pip install 'asr-pool[nemo]'",
    config=ParakeetConfig,
    make=_make,
)
