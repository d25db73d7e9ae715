"""The transducer loss of the RNN-T's training against a sum over paths, one cell at a time."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")


def _training() -> ModuleType:
    path = Path(__file__).parents[3] / "ops" / "train" / "rnnt_loss.py"
    spec = importlib.util.spec_from_file_location("rnnt_loss", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _by_definition(log_probs: torch.Tensor, tokens: list[int], steps: int) -> torch.Tensor:
    @cache
    def alpha(step: int, count: int) -> torch.Tensor:
        ways = [torch.zeros((), dtype=torch.float64)] if step == count == 0 else []
        if step:
            ways.append(alpha(step - 1, count) + log_probs[step - 1, count, -1])
        if count:
            ways.append(alpha(step, count - 1) + log_probs[step, count - 1, tokens[count - 1]])
        return torch.stack(ways).logsumexp(0)

    return -(alpha(steps - 1, len(tokens)) + log_probs[steps - 1, len(tokens), -1])


def test_value_and_gradient_are_those_of_the_sum_over_paths() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 4, 5, requires_grad=True)
    tokens = [[0, 3, 3], [2], []]
    steps = [6, 3, 2]
    padded = torch.tensor([row + [0] * (3 - len(row)) for row in tokens])
    log_probs = logits.log_softmax(-1).double()
    expected = torch.stack([_by_definition(log_probs[row], tokens[row], steps[row]) for row in range(3)]).mean()
    found = _training().transducer_loss(logits, padded, torch.tensor(steps), torch.tensor([3, 1, 0]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))
