"""What the RNN-T's training does after it: the price of silence."""

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
    """Of one clip of four digits or so."""
    found = rnnt.checkpoint.load(ROOT / "ops" / "models" / "digits-rnnt.pt")
    clip = load(sorted((ROOT / "tests" / "data" / "digits").glob("*.flac"))[0])
    heard = in_torch(rnnt.with_blank(found, offset))(as_card_input(np.pad(clip, 8000)))
    return [token for _, token in heard]


def test_the_dearer_silence_is_the_more_is_said() -> None:
    assert tokens(1e4) == []
    plain = tokens(0.0)
    assert plain
    assert len(tokens(-6.0)) > len(plain)
