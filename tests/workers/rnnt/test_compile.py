"""asr-compile makes a card model of a hardware checkpoint, or prints one sentence (CAI-11)."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
sentencepiece = pytest.importorskip("sentencepiece")

from asr_workers.cards import carm  # noqa: E402 (torch may be missing)
from asr_workers.cards.carm import CarmConfig  # noqa: E402
from asr_workers.engines.rnnt import architectures, checkpoint, compile_cli  # noqa: E402
from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint  # noqa: E402
from asr_workers.engines.rnnt.model import Rnnt  # noqa: E402

SIZES = CarmConfig(240, 16, 2, 1, 2, 8, 1, 8, 4, 400)


def _save(path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["yes", "no"]),
        model_writer=model,
        model_type="word",
        vocab_size=3,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    torch.manual_seed(0)
    ones = np.ones(80, np.float32)
    small = RnntCheckpoint(SIZES, dict(Rnnt(SIZES).state_dict()), ones, ones, model.getvalue())
    checkpoint.save(path, small, step=1, best_wer=1.0)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(compile_cli.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("precision", carm.PRECISIONS)
def test_a_checkpoint_is_compiled(tmp_path: Path, precision: carm.Precision) -> None:
    _save(tmp_path / "in.pt")
    result = _run(tmp_path / "in.pt", tmp_path / "out.carm", "--precision", precision)
    assert result.exit_code == 0, result.output
    compiled = carm.read(tmp_path / "out.carm")
    assert compiled.precision == precision
    assert compiled.config == SIZES
    assert f"other, 22,732 parameters, {precision}" in result.output
    assert compiled.checksum[:16] in result.output
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_int8_is_the_default(tmp_path: Path) -> None:
    _save(tmp_path / "in.pt")
    assert _run(tmp_path / "in.pt", tmp_path / "out.carm").exit_code == 0
    assert carm.read(tmp_path / "out.carm").precision == "int8"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "in.pt")
    result = _run(tmp_path / "in.pt", tmp_path / "out.carm", "--arch", "base")
    assert result.exit_code == 2
    assert result.output.startswith("asr-compile: ")
    assert "architecture other, not base" in result.output
    assert not (tmp_path / "out.carm").exists()


def test_a_bad_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "in.pt").write_bytes(b"nonsense")
    result = _run(tmp_path / "in.pt", tmp_path / "out.carm")
    assert result.exit_code == 2
    assert result.output.count("\n") == 1


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    _save(tmp_path / "in.pt")
    result = _run(tmp_path / "in.pt", tmp_path / "none" / "out.carm")
    assert result.exit_code == 2
    assert "cannot write" in result.output


def test_testing_is_not_for_production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAI-03"""
    _save(tmp_path / "in.pt")
    monkeypatch.setattr(architectures, "TESTING", replace(SIZES, name="testing"))
    result = _run(tmp_path / "in.pt", tmp_path / "out.carm", "--arch", "testing")
    assert result.exit_code == 0, result.output
    assert "not for production" in result.output


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cli, "find_spec", lambda name: None)
    result = _run(tmp_path / "in.pt", tmp_path / "out.carm")
    assert result.exit_code == 2
    assert "asr-pool[card]" in result.output


def test_it_loads_without_torch() -> None:
    assert "torch" not in vars(importlib.import_module("asr_workers.engines.rnnt.compile_cli"))
