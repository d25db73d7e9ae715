"""After the RNN-T's training: changing the blank's logit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "ops" / "train"))  # scripts, not a package

pytest.importorskip("torch", reason="needs the extra card")

import rnnt  # noqa: E402
from digits import load  # noqa: E402
from rnnt_judge import as_card_input, in_torch  # noqa: E402


def tokens(offset: float) -> list[int]:
    """The tokens of a clip of about four digits, with `offset` added to the blank's logit."""
    found = rnnt.checkpoint.load(ROOT / "ops" / "models" / "digits-rnnt.pt")
    clip = load(sorted((ROOT / "tests" / "data" / "digits").glob("*.flac"))[0])
    found_tokens = in_torch(rnnt.with_blank(found, offset))(as_card_input(np.pad(clip, 8000)))
    return [token for _, token in found_tokens]


def test_a_lower_blank_logit_gives_more_tokens() -> None:
    assert tokens(1e4) == []
    plain = tokens(0.0)
    assert plain
    assert len(tokens(-6.0)) > len(plain)
