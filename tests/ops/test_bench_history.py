"""The history of benches: one line per run, and its comparison with the last line of the same kind."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from asr_ops.bench import history, statistics
from tests.ops.bench_reports import reported

COMMITTED = Path(__file__).parents[2] / "ops/bench/history.csv"


def median(final_ms: float) -> dict[str, statistics.Spread]:
    return {"final_ms": statistics.Spread(1, *[final_ms] * 6)}


def test_a_line() -> None:
    line = history.line(reported())
    assert tuple(line) == history.HISTORY
    assert (line["sessions"], line["audio"], line["min_per_min"]) == ("1", "noise", "0.96")
    assert line["partial_lag_ms_p99"] == "150.0"
    assert (line["server_cores"], line["session_kb"], line["others_cores"]) == ("1.0", "24", "0.0")
    unknown = [name for name, value in history.line(reported(own_service=False, others=None)).items() if not value]
    assert unknown == ["server_cores", "session_kb", "others_cores", "shape"]


def test_runs_are_compared_with_the_last_of_their_kind(tmp_path: Path) -> None:
    file, first = tmp_path / "history.csv", reported()
    other = replace(first, settings=replace(first.settings, sessions=2))
    assert "first run of its kind" in history.append(file, replace(first, figures=median(100)))
    assert "first run of its kind" in history.append(file, replace(other, figures=median(900)))
    same = history.append(file, replace(first, figures=median(110)))
    assert same == f"history: medians as in the last such run, of {first.when} (at most final_ms_p50 +10%, 100 -> 110)"
    assert "differ by more than 15%" in history.append(file, replace(first, figures=median(90)))
    with file.open() as lines:
        assert [line["final_ms_p50"] for line in csv.DictReader(lines)] == ["100", "900", "110", "90"]


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        (0.0, 0.0, "the server has changed, or the machine is noisy"),
        (None, None, "the server has changed, or the machine is noisy"),
        (0.0, 0.5, "the machine is noisy (now), run again"),
        (0.5, 0.0, "the machine is noisy (then), run again"),
        (0.5, 0.5, "the machine is noisy (then and now), run again"),
    ],
)
def test_a_difference_is_blamed_on_noise_that_was_seen(then: float | None, now: float | None, why: str) -> None:
    last, new = (
        history.line(replace(reported(others=others), figures=median(ms))) for others, ms in ((then, 100), (now, 130))
    )
    assert f"(final_ms_p50 +30%, 100 -> 130): {why}" in history.compared([last], new)


def test_runs_without_medians_have_nothing_to_compare() -> None:
    new = history.line(replace(reported(), figures={}))
    assert "first run of its kind" in history.compared([new], new)


def test_a_file_keeps_its_own_columns(tmp_path: Path) -> None:
    """A file from before a column was added stays a valid table."""
    file = tmp_path / "history.csv"
    file.write_text("when,note,final_ms_p50\nonce,slow,1\n")
    assert "differ by more than 15%" in history.append(file, replace(reported(), figures=median(100)))
    assert file.read_text() == "when,note,final_ms_p50\nonce,slow,1\n2026-01-01T00:00:00+00:00,,100\n"


def test_the_committed_history_can_be_continued() -> None:
    with COMMITTED.open() as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    assert all(tuple(row) == history.HISTORY for row in rows)
    assert history.compared(rows, rows[-1]).startswith("history: medians as in the last such run")
