"""The bench of one GPU, run on the CPU: it searches for sessions and writes its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

SCRIPT = Path(__file__).parents[2] / "ops" / "bench" / "engines" / "gpu.py"


def test_it_finds_the_most_sessions_up_to_its_limit(tmp_path: Path) -> None:
    figures = tmp_path / "gpu.json"
    shape = ["--shape=small", "--right=1", "--precision=fp32", "--mode=eager"]
    size = ["--sessions-max=2", "--steps=10", f"--json={figures}"]
    command = [sys.executable, str(SCRIPT), "--device=cpu", *shape, *size]
    subprocess.run(command, check=True, capture_output=True, timeout=150)
    (row,) = json.loads(figures.read_text())
    assert (row["shape"], row["chunk_ms"], row["precision"], row["steps"]) == ("small", 160, "fp32", "eager")
    assert 0 <= row["sessions"] <= 2
    assert 0 < row["step_ms_p50"] <= row["step_ms_p99"]
