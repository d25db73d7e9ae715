"""The two transducer losses, compared with an explicit sum over every path."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2] / "ops" / "train"))  # scripts, not a package

from rnnt_loss import transducer_loss  # noqa: E402
from transducer import tdt_loss  # noqa: E402

DURATIONS = [0, 1, 2, 3, 4]
LABELS = torch.tensor([[1, 0, 2], [3, 3, 0], [0, 0, 0]])
FRAMES, LENGTHS = torch.tensor([6, 4, 3]), torch.tensor([3, 2, 0])


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def every_path(tokens: np.ndarray, jumps: np.ndarray, labels: list[int], frames: int) -> float:
    """-log of the summed probability of all paths; `tokens` [T, U + 1, V], `jumps` [T, U + 1, durations]."""

    @cache
    def from_here(t: int, u: int) -> float:
        total = 0.0
        for jump, duration in enumerate(DURATIONS):
            if t + duration > frames:
                continue
            if duration > 0:
                rest = from_here(t + duration, u) if t + duration < frames else float(u == len(labels))
                total += np.exp(tokens[t, u, -1] + jumps[t, u, jump]) * rest
            if u < len(labels) and t + duration < frames:
                total += np.exp(tokens[t, u, labels[u]] + jumps[t, u, jump]) * from_here(t + duration, u + 1)
        return total

    return -float(np.log(from_here(0, 0)))


def expected(tokens: np.ndarray, jumps: np.ndarray) -> float:
    rows = zip(tokens, jumps, LABELS.tolist(), FRAMES.tolist(), LENGTHS.tolist(), strict=True)
    return float(np.mean([every_path(token, jump, labels[:count], end) for token, jump, labels, end, count in rows]))


def test_tdt_loss_is_the_sum_over_every_path() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 4, 5 + len(DURATIONS), dtype=torch.float64) * 2
    tokens = log_softmax(logits[..., :5].numpy()) - 0.05
    found = tdt_loss(logits, DURATIONS, LABELS, FRAMES, LENGTHS, sigma=0.05)
    assert float(found) == pytest.approx(expected(tokens, log_softmax(logits[..., 5:].numpy())))


def test_rnnt_loss_is_the_sum_over_every_path() -> None:
    """An RNN-T is a TDT whose blank always has duration 1 and whose labels have duration 0."""
    torch.manual_seed(1)
    logits = torch.randn(3, 6, 4, 5, dtype=torch.float64) * 2
    tokens = log_softmax(logits.numpy())
    total = 0.0
    for row, labels, frames, count in zip(tokens, LABELS.tolist(), FRAMES.tolist(), LENGTHS.tolist(), strict=True):
        alpha = np.zeros((frames, count + 1))
        for t in range(frames):
            for u in range(count + 1):
                before = alpha[t - 1, u] * np.exp(row[t - 1, u, -1]) if t else float(u == 0)
                alpha[t, u] = before + (alpha[t, u - 1] * np.exp(row[t, u - 1, labels[u - 1]]) if u else 0.0)
        total -= np.log(alpha[-1, -1] * np.exp(row[frames - 1, count, -1]))
    assert float(transducer_loss(logits, LABELS, FRAMES, LENGTHS)) == pytest.approx(total / 3)


@pytest.mark.parametrize("extra", [0, len(DURATIONS)])
def test_gradients_are_finite_and_zero_past_the_end(extra: int) -> None:
    logits = (torch.randn(3, 6, 4, 5 + extra) * 10).requires_grad_()
    args = (LABELS, FRAMES, LENGTHS)
    (tdt_loss(logits, DURATIONS, *args) if extra else transducer_loss(logits, *args)).backward()
    assert logits.grad.isfinite().all()
    for row, (frames, count) in enumerate(zip(FRAMES.tolist(), LENGTHS.tolist(), strict=True)):
        assert not logits.grad[row, frames:].any()
        assert not logits.grad[row, :, count + 1 :].any()
        assert logits.grad[row, :frames, : count + 1].any()
