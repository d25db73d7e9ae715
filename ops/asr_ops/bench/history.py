"""Appends one line per run to a CSV file, and compares the run with the last run of the same kind.

Two equal runs on the same machine should have the same medians. If they differ, the bench reports it: figures that
cannot be repeated are not reliable.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from asr_ops.bench.difference import TOLERANCE, widest
from asr_ops.bench.report import COLUMNS, OTHERS_CORES_MAX, BenchReport

Line = Mapping[str, str]
"""Values by column; an unknown value is empty."""

KIND = (
    "cpu",
    "cores",
    "engine",
    "sessions",
    "frame_ms",
    "duration_s",
    "start",
    "audio",
    "dialect",
    "processes",
    "shape",
)
"""Columns that are equal in runs of the same kind."""
MEDIANS = ("first_partial_ms_p50", "partial_lag_ms_p50", "final_ms_p50")
HISTORY = (
    "when",
    "cpu",
    "cores",
    "engine",
    "sessions",
    "frame_ms",
    "duration_s",
    "start",
    "served",
    "refused",
    "errors",
    "lost",
    "first_partial_ms_p50",
    "partial_lag_ms_p50",
    "partial_lag_ms_p99",
    "final_ms_p50",
    "final_ms_p95",
    "final_ms_p99",
    "server_cores",
    "session_kb",
    "lateness_ms_p99",
    "others_cores",
    "audio",
    "min_per_min",
    "dialect",
    "processes",
    "shape",
)
"""The columns of a new file. New columns are added at the end, so that older files stay valid."""


def append(path: Path, report: BenchReport) -> str:
    """Append a line with the file's own columns. Returns a sentence that compares it with the last run of its kind."""
    columns, lines = _read(path)
    known = line(report)
    new = {name: known.get(name, "") for name in columns or HISTORY}
    with path.open("a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, [*new], lineterminator="\n")
        if not columns:
            rows.writeheader()
        rows.writerow(new)
    return compared(lines, new)


def line(report: BenchReport) -> dict[str, str]:
    """The values of HISTORY."""
    values: dict[str, object] = {"when": report.when, **report.machine, **asdict(report.settings)}
    values |= asdict(report.counts)
    values |= {"sessions": report.settings.sessions, "min_per_min": round(report.totals.min_per_min, 2)}
    for name, row in report.figures.items():
        values |= {f"{name}_{column}": round(getattr(row, column), 1) for column in COLUMNS}
    if report.processes:
        values |= {"server_cores": round(report.server_cores, 3), "session_kb": round(report.session_kb)}
    if report.generator.lateness_ms is not None:
        values["lateness_ms_p99"] = round(report.generator.lateness_ms.p99, 1)
    if report.others_cores is not None:
        values["others_cores"] = round(report.others_cores, 2)
    return {name: "" if values.get(name) is None else str(values[name]) for name in HISTORY}


def compared(lines: Iterable[Line], new: Line) -> str:
    """How the medians compare with those of the last line of the same kind."""
    last = next((old for old in reversed([*lines]) if _kind(old) == _kind(new)), None)
    difference = widest(_medians(last), _medians(new)) if last is not None else None
    if last is None or difference is None:
        return "history: the first run of its kind on this machine"
    shown = f"{difference.name} {difference.share:+.0%}, {difference.before:g} -> {difference.after:g}"
    if difference.verdict() == "same":
        return f"history: medians as in the last such run, of {last['when']} (at most {shown})"
    sentence = f"history: medians differ by more than {TOLERANCE:.0%} from the last such run, of {last['when']}"
    return f"{sentence} ({shown}): {_why(last, new)}"


def _why(last: Line, new: Line) -> str:
    """The likely cause of a difference: measured noise, or else the server or noise that was not measured."""
    noisy = [which for which, one in (("then", last), ("now", new)) if _number(one, "others_cores") > OTHERS_CORES_MAX]
    if noisy:
        return f"the machine is noisy ({' and '.join(noisy)}), run again"
    return "the server has changed, or the machine is noisy in a way that its processes do not show"


def _read(path: Path) -> tuple[Sequence[str], list[Line]]:
    """The file's columns and lines; both empty if the file does not exist."""
    if not path.exists():
        return (), []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return rows.fieldnames or (), list(rows)


def _kind(one: Line) -> list[str]:
    return [one.get(name) or "" for name in KIND]


def _medians(one: Line) -> dict[str, float]:
    return {name: float(one[name]) for name in MEDIANS if one.get(name)}


def _number(one: Line, name: str) -> float:
    return float(one.get(name) or 0)
