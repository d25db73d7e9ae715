"""The shape of the published large models, 17 layers of 512, with random weights: lean equals NeMo; a slot's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import load, streaming  # noqa: E402
from tests.workers.fastconformer import random_models as models  # noqa: E402
from tests.workers.fastconformer import streams  # noqa: E402

if TYPE_CHECKING:
    from tests.workers.fastconformer.random_models import RandomModel


def loaded(model: RandomModel, **changes: Any) -> Any:
    return load.load(streaming.ModelSettings(model=model.name, slots=3, **changes))


def test_tokens_and_memory(large: RandomModel) -> None:
    pcm = [models.speech_like(seconds, index) for index, seconds in enumerate((2.3, 0.4, 1.5))]
    features = models.features_offline(large.nemo, pcm)
    encoded = models.encode_offline(large.nemo, pcm, [70, 6])
    expected = [models.decode_offline(large.nemo, x, "rnnt") for x in encoded]
    lean = loaded(large)
    assert [streams.placed(x) for x in streams.transcribe(lean, features, [6] * 3)] == expected
    assert lean.bytes_per_slot() <= 6_000_000
    halved = loaded(large, precision="bf16")
    # The decoder's state, 10 kB, stays in full precision.
    assert halved.bytes_per_slot() <= lean.bytes_per_slot() / 2 + 10_000
    assert any(streams.transcribe(halved, features, [6] * 3))
