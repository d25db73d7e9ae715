"""`asr bench compare`: rows and verdicts by values, the command on files."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asr_ops.bench import compare, report
from asr_ops.cli import main
from tests.ops.bench_reports import reported


def content(**medians: float) -> dict[str, Any]:
    """A report as it is read from a file, with other medians."""
    found: dict[str, Any] = json.loads(json.dumps(report.as_json(reported())))
    for name, value in medians.items():
        found["figures"][name]["p50"] = value
    return found


def verdicts(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.15) -> dict[str, str | None]:
    """Of what is not the same."""
    rows = compare.compared(a, b, tolerance).rows
    return {row.name: row.verdict for row in rows if row.verdict != "same"}


def test_every_measure_and_count_has_a_row() -> None:
    found = compare.compared(content(), content())
    names = [f"{name} {quantile}" for name in compare.MEASURES for quantile in compare.QUANTILES]
    assert [row.name for row in found.rows] == [*names, "server_cores", "session_kb", *compare.COUNTS, "min_per_min"]
    assert {row.verdict for row in found.rows} == {"same"}
    assert not found.warnings
    assert not found.worse


def test_better_and_worse() -> None:
    a, b = content(final_ms=100, end_ms=100), content(final_ms=130, end_ms=70)
    assert verdicts(a, b) == {"final_ms p50": "worse", "end_ms p50": "better"}
    assert verdicts(a, b, 0.35) == {}
    b = content()
    b["counts"] |= {"served": 0, "refused": 1}
    b["totals"]["min_per_min"] = 5.0
    assert verdicts(content(), b) == {"served": "worse", "refused": "worse", "min_per_min": "better"}
    refused = next(row for row in compare.compared(content(), b).rows if row.name == "refused")
    assert (refused.a, refused.b, refused.change) == (0, 1, None)


def test_what_only_one_run_knows_has_no_verdict() -> None:
    a, b = content(), content()
    del b["figures"]["final_ms"]
    a["counts"]["lost"] = None
    assert verdicts(a, b) == {f"final_ms {quantile}": None for quantile in compare.QUANTILES} | {"lost": None}


def test_how_many_sessions_were_found_to_be_possible() -> None:
    def searched(*passed: int) -> dict[str, Any]:
        return content() | {
            "steps": [{"sessions": 800, "passed": False}, *({"sessions": n, "passed": True} for n in passed)]
        }

    assert verdicts(searched(100, 400), searched(100, 200)) == {"sessions_max": "worse"}
    assert verdicts(searched(), searched(100)) == {"sessions_max": "better"}
    assert verdicts(searched(100), content()) == {"sessions_max": None}


def test_runs_that_should_not_be_compared() -> None:
    a, b = content(), content()
    b["settings"] |= {"sessions": 2, "url": "ws://another/port"}
    b["machine"] |= {"cores": 64, "load_before": 9}
    b["warnings"] = ["the machine is noisy"]
    assert compare.compared(a, b).warnings == [
        "not comparable, sessions: 1 -> 2",
        "not comparable, cores: 2 -> 64",
        "B: the machine is noisy",
    ]
    for one in (a, b):
        one["settings"]["own_service"] = False
    assert "url: ws://here -> ws://another/port" in compare.unlike(a, b)


# ---- the command ----


def run(folder: Path, a: object, b: object, *args: str) -> Result:
    for name, value in (("a", a), ("b", b)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    files = [str(folder / f"{name}.json") for name in ("a", "b")]
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, ["bench", "compare", *files, *args])


def test_the_exit_code_says_whether_something_is_worse(tmp_path: Path) -> None:
    a, b = content(final_ms=100), content(final_ms=130)
    same, worse, tolerant = run(tmp_path, a, a), run(tmp_path, a, b), run(tmp_path, a, b, "--tolerance", "35")
    assert (same.exit_code, worse.exit_code, tolerant.exit_code) == (0, 1, 0)
    assert "1 worse, 0 better, 27 the same" in worse.output
    line = next(line for line in worse.output.splitlines() if "final_ms p50" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["final_ms p50", "100", "130", "+30.0%", "worse"]


def test_the_comparison_as_json(tmp_path: Path) -> None:
    b = content()
    b["counts"]["errors"] = 3
    run(tmp_path, content(), b, f"--json={tmp_path}/found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"name": "errors", "a": 0, "b": 3, "change": None, "verdict": "worse"} in found["rows"]
    assert found["warnings"] == []


@pytest.mark.parametrize(
    "broken", [[], {}, "x", {"settings": {}}, content() | {"figures": []}, content() | {"counts": 1}]
)
def test_a_file_that_is_no_report(tmp_path: Path, broken: object) -> None:
    result = run(tmp_path, deepcopy(content()), broken)
    assert result.exit_code == 2
    assert "b.json is not a report of asr bench --json" in result.output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "compare", f"{tmp_path}/a.json", f"{tmp_path}/b.json"])
    assert result.exit_code == 2
    assert "asr bench compare: cannot read" in result.output


def test_there_is_no_folder_for_the_comparison(tmp_path: Path) -> None:
    result = run(tmp_path, content(), content(), f"--json={tmp_path}/missing/found.json")
    assert result.exit_code == 2
    assert "missing for found.json" in result.output
