"""The fastconformer engine with real networks of random weights: it says what NeMo says offline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asr_workers.engines.base import Chunk, Hypothesis, Output, SlotOptions

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.fastconformer.engine import FastConformerConfig, FastConformerEngine  # noqa: E402
from asr_workers.engines.token_text import TokenAt, TokenText  # noqa: E402
from tests.workers.fastconformer import random_models as random  # noqa: E402
from tests.workers.fastconformer.test_engine import feed, finals  # noqa: E402

RECORDINGS = ((4.0, 0), (2.3, 1), (5.1, 2), (3.7, 6))
"""Seconds and seeds."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return random.make(tmp_path_factory.mktemp("model"), random.TINY)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    """NeMo's own model."""
    asr = random.nemo_asr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asr.models.ASRModel.restore_from(str(checkpoint), map_location="cpu").eval()


def engine(checkpoint: Path, **changes: Any) -> FastConformerEngine:
    config = {"model": str(checkpoint), "slots": 4, "endpoint_ms": 0} | changes
    return FastConformerEngine(FastConformerConfig(**config))


def text(outputs: Sequence[Output]) -> str:
    return " ".join(final.text for final in finals(outputs))


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("implementation", ["lean", "nemo"])
def test_it_says_what_nemo_says(checkpoint: Path, reference: Any, implementation: str, decoder: str) -> None:
    """YAP-03, YAP-05, YAP-15. Four sessions of different ages and look-aheads in one batch."""
    it = engine(checkpoint, implementation=implementation, decoder=decoder)
    look_aheads_ms = [None, 480, 1040, 0]
    pcms = [random.speech_like(seconds, seed) for seconds, seed in RECORDINGS]
    queues = {slot: [pcm[at : at + 2560] for at in range(0, len(pcm), 2560)] for slot, pcm in enumerate(pcms)}
    outputs: dict[int, list[Output]] = {slot: [] for slot in queues}
    for turn in range(200):
        if turn % 3 == 0 and turn // 3 in queues:
            it.open(turn // 3, SlotOptions(look_ahead_ms=look_aheads_ms[turn // 3]), None)
        free = [slot for slot, queue in queues.items() if 3 * slot <= turn and queue and not it.blocked(slot)]
        for output in it.step([Chunk(slot, queues[slot].pop(0), flush=not queues[slot]) for slot in free], 0.0):
            outputs[output.slot].append(output)
    vocabulary, count = TokenText(it._model.tokenizer), 0
    for slot, right in enumerate((1, 6, 13, 0)):
        (encoded,) = random.encode_offline(reference, [pcms[slot]], [70, right])
        tokens, frames = random.decode_offline(reference, encoded, decoder)
        said = [
            TokenAt(token, frame * 1280, frame * 1280 + 1280, 1.0) for token, frame in zip(tokens, frames, strict=True)
        ]
        end = len(pcms[slot])
        expected = [(vocabulary.text(said), said[0].start_sample, min(said[-1].end_sample, end))] if said else []
        assert [(final.text, final.start_sample, final.end_sample) for final in finals(outputs[slot])] == expected
        count += len(said)
    assert count > 50


@pytest.mark.parametrize("implementation", ["lean", "nemo"])
def test_it_goes_on_elsewhere(checkpoint: Path, implementation: str) -> None:
    """YAP-15. From a checkpoint in the middle of an utterance, in another slot of another worker."""
    pcm = random.speech_like(6.0, 7)
    it, other = (engine(checkpoint, implementation=implementation) for _ in range(2))
    it.open(0, SlotOptions(), None)
    feed(it, 0, pcm[:51_200], flush=False)
    advanced = it.checkpoint(0)
    assert advanced is not None
    other.open(2, SlotOptions(), advanced.snapshot)
    (there,), (here,) = finals(feed(other, 2, pcm[51_200:])), finals(feed(it, 0, pcm[51_200:]))
    assert isinstance(here, Hypothesis)
    assert (there.text, there.words) == (here.text, here.words)
    assert here.text


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_run(checkpoint: Path, precision: str) -> None:
    """YAP-14."""
    it = engine(checkpoint, precision=precision)
    it.open(0, SlotOptions(), None)
    assert text(feed(it, 0, random.speech_like(3.0, 1)))
