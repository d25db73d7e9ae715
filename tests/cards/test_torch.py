"""The simulator against the plain torch model of the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_workers.cards import carm
from asr_workers.cards.library import CardLibrary
from tests.cards.reference import LIVELY, SMALL, TALKATIVE, random_statistics, random_tensors, speechlike

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("seed", [LIVELY, TALKATIVE], ids=["lively", "talkative"])
def test_fp32_tokens_are_torch_s(simulator: CardLibrary, tmp_path: Path, seed: tuple[int, float]) -> None:
    """CAI-02, CAI-39: the same samples through both front ends, which are independent implementations."""
    from asr_workers.engines.rnnt.model import Rnnt, RnntStream

    tensors, (means, variances) = random_tensors(SMALL, *seed), random_statistics(2)
    pcm = speechlike(3, 40)
    torch.set_num_threads(1)
    model = Rnnt(SMALL).eval()
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    expected = RnntStream(model, means, variances).feed(pcm.ravel().astype(np.float32) / 32768)
    path = tmp_path / "m.carm"
    carm.write(path, SMALL, tensors, "fp32", means, variances, b"", "")
    card = simulator.open(0)
    card.load(path)
    card.open(0)
    found, log_probs = [], []
    for tag, chunk in enumerate(pcm):
        card.submit([(0, tag, chunk)])
        (completion,) = card.poll(30_000)
        found += [(token, completion.step) for token in completion.tokens]
        log_probs += completion.log_probs
    card.close_card()
    assert found == [(emission.token, emission.step) for emission in expected]
    np.testing.assert_allclose(log_probs, [emission.log_prob for emission in expected], atol=1e-4)
