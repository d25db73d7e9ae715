"""`asr bench` from its command line, with processes, disturbances and a search: small runs against real services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ops.bench_reports import ran


def test_rounds_by_two_processes_under_disturbance(tmp_path: Path) -> None:
    """YAP-20, PAR-15, AMI-24: the flags of the older systems' benches."""
    file = tmp_path / "run.json"
    result = ran(
        *("--n", "5", "--concurrency", "3", "--duration", "0.5", "--rtf", "2", "--tone", "--dialect", "parakeet"),
        *("--processes", "2", "--churn", "40", "--flood", "1", "--frame-ms", "30", f"--json={file}"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["counts"] == {"sessions": 5, "served": 5, "refused": 0, "errors": 0, "lost": 0}
    assert "partial_lag_ms" not in found["figures"]
    assert (found["settings"]["sessions"], found["settings"]["processes"]) == (3, 2)
    assert found["asides"]["churn"]["came"] > 0
    flood = found["asides"]["flood"]
    assert flood["came"] == 2
    assert all("unread" in fault for fault in flood["faults"]), flood  # it may read more slowly than answers arrive
    assert "flood: 2 came and sent" in result.output
    assert found["generator"]["cores"] > 0


def test_a_ramp(tmp_path: Path) -> None:
    result = ran("--sessions=4", "--duration=0.3", "--ramp=0.5", "--pauses", f"--json={tmp_path}/run.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["shape"] == "with pauses, ramp of 0.5 s"


def test_the_most_sessions_are_found(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    result = ran(
        *("--find-max", "--slo-ms=10000", "--sessions=2", "--duration=0.3", "--serve-arg=--slots=3"),
        *(f"--json={file}", f"--html={tmp_path}/run.html"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert [(step["sessions"], step["broken"]) for step in found["steps"]] == [(2, ""), (4, "1 refused"), (3, "")]
    assert found["counts"]["served"] == 3
    assert "at most 3 sessions within 10000 ms; 4 are too many" in result.output
    assert "Steps" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--dialect=openai"], "'openai' is not one of"),
        (["--rtf=11"], "--rtf"),
        (["--frame-ms=5"], "--frame-ms"),
        (["--url=:0"], "is no address of a server"),
        (["--dialect=moonshine", "--flood=1"], "WebSockets only"),
        (["--find-max", "--n=4"], "give one of them"),
    ],
)
def test_what_is_refused(args: list[str], expected: str) -> None:
    result = ran(*args)
    assert result.exit_code == 2
    assert expected in result.output
