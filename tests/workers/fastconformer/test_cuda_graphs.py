"""Steps over static buffers give the same results as other steps. They are recorded only on a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import cuda_graphs as graphs  # noqa: E402
from asr_workers.engines.fastconformer import decoding, load, shape, slot_model, streaming  # noqa: E402
from asr_workers.engines.fastconformer import lean_encoder as encoder  # noqa: E402
from asr_workers.engines.fastconformer import weights as weights_  # noqa: E402
from asr_workers.engines.nemo import checkpoint as nemo_checkpoint  # noqa: E402
from tests.workers.fastconformer import random_models as models  # noqa: E402
from tests.workers.fastconformer import streams  # noqa: E402

if TYPE_CHECKING:
    from tests.workers.fastconformer.random_models import RandomModel


@torch.inference_mode()
def static(model: RandomModel, slots: int) -> Any:
    """The lean implementation as a CUDA device gets it, on the CPU."""
    checkpoint = nemo_checkpoint.read_checkpoint(model.name)
    settings = streaming.ModelSettings(model=model.name, slots=slots)
    cpu = torch.device("cpu")
    weights = weights_.Weights(checkpoint.weights, cpu, torch.float32)
    context = shape.context(checkpoint.config)
    lean = encoder.LeanEncoder(shape.lean_shape(checkpoint.config), context, weights, slots + 1, False)
    decoder = graphs.GraphedRnntDecoder(decoding.PredictionNet(weights), slots, cpu, "max-prob")
    graphed = graphs.GraphedEncoder(lean, slots, torch.empty(0))
    return slot_model.SlotModel(checkpoint, settings, "lean", graphed, decoder)


def test_sizes() -> None:
    assert graphs.buckets(1) == [1]
    assert graphs.buckets(6) == [1, 2, 4, 8]
    assert [graphs.bucket(rows) for rows in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 16]


def test_static_buffers_give_the_same_tokens(tiny: RandomModel) -> None:
    pcm = [models.speech_like(0.5 + 0.7 * index, index) for index in range(6)]
    features = models.features_offline(tiny.nemo, pcm)
    model = static(tiny, 1)
    model.warm_up(1)
    model.resize(6)
    for right in (1, 6):
        model.warm_up(right)
        encoded = models.encode_offline(tiny.nemo, pcm, [70, right])
        found = streams.transcribe(model, features, [right] * 6)
        assert [streams.placed(x) for x in found] == [models.decode_offline(tiny.nemo, x, "rnnt") for x in encoded]


def test_warming_up_touches_no_slot(tiny: RandomModel) -> None:
    model = static(tiny, 2)
    before = [model.snapshot(slot) for slot in range(2)]
    model.warm_up(1)
    assert [model.snapshot(slot) for slot in range(2)] == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_give_the_same_tokens(tiny: RandomModel, precision: str) -> None:
    pcm = [models.speech_like(0.5 + 0.7 * index, index) for index in range(6)]
    features = models.features_offline(tiny.nemo, pcm)
    settings = {"model": tiny.name, "slots": 6, "precision": precision}
    expected = load.load(streaming.ModelSettings(**settings, device="cpu"))
    model = load.load(streaming.ModelSettings(**(settings | {"slots": 1}), device="cuda"))
    model.warm_up(1)
    model.resize(6)
    model.warm_up(1)
    found, wanted = (streams.transcribe(x, features, [1] * 6) for x in (model, expected))
    if precision == "fp32":
        assert [streams.tokens(x) for x in found] == [streams.tokens(x) for x in wanted]
    assert any(found)
