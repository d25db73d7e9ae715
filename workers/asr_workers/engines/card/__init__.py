"""The engine `card`: an RNN-T on an accelerator card, called through asr_card.h."""

from __future__ import annotations

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.entry import Entry


def _make(config: CardConfig) -> Engine:
    if config.model is None:
        raise SetupError("engine card needs a model: name a .carm file with --model")
    from asr_workers.engines.card.engine import CardEngine  # noqa: PLC0415 - on demand

    return CardEngine(config)


ENTRY = Entry(
    summary="CAIMAN-ASR's RNN-T on an accelerator card, or on its simulator",
    packages=("sentencepiece", "cryptography"),
    install="pip install 'asr-pool[card]'",
    config=CardConfig,
    make=_make,
)
