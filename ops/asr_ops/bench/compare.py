"""`asr bench compare A.json B.json`: what became better and what became worse between two reports.

Warns if the reports are not comparable: other settings, another machine, or a noisy machine.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from asr_ops.bench.difference import TOLERANCE, Difference, Verdict
from asr_process import settings
from asr_proto.errors import SetupError

MEASURES = ("ready_ms", "first_partial_ms", "partial_lag_ms", "final_ms", "end_ms", "avg_partial_gap_ms", "rtf")
QUANTILES = ("p50", "p95", "p99")
COUNTS = ("served", "refused", "errors", "lost")
MORE_IS_BETTER = ("served", "min_per_min", "sessions_max")
STYLES = {"better": "green", "worse": "bold red", "same": "", "unknown": "yellow"}


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One figure of both runs; None if a run does not have it."""

    name: str
    a: float | None
    b: float | None
    change: float | None
    """(b - a) / a. None if a is zero or a figure is missing."""
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports side by side."""

    rows: Sequence[ComparisonRow]
    warnings: Sequence[str]
    """Reasons why the rows may be misleading."""

    @property
    def worse(self) -> list[str]:
        """The names of the figures that became worse."""
        return [row.name for row in self.rows if row.verdict == "worse"]


@click.command("asr bench compare", cls=settings.Program, context_settings={"show_default": True})
@click.argument("a", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("b", metavar="B.json", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=TOLERANCE * 100,
    metavar="PERCENT",
    help="Figures that differ by less count as the same.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the comparison to this file.",
)
def compare(*, a: Path, b: Path, tolerance: float, json_file: Path | None) -> None:
    """Compare two reports of `asr bench --json`: what became better, and what worse, from A to B.

    Exit code 1 means that something became worse.
    """
    if json_file is not None and not json_file.parent.is_dir():
        raise SetupError(f"there is no folder {json_file.parent} for {json_file.name}")
    found = compared(read(a), read(b), tolerance / 100)
    Console().print(table(found))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if found.worse else 0)


def read(file: Path) -> dict[str, Any]:
    """Read a report. Raises SetupError if the file cannot be read or is not a report."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        compared(content, content)
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SetupError(f"{file} is not a report of asr bench --json") from error
    return dict(content)


# ---- Pure ----


def compared(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = TOLERANCE) -> Comparison:
    """All figures of both reports, and the reasons not to trust the comparison."""
    before, after = _values(a), _values(b)
    names = [*before, *(name for name in after if name not in before)]
    noisy = [f"{name}: {warning}" for name, one in (("A", a), ("B", b)) for warning in one["warnings"]]
    return Comparison(
        rows=[_row(name, before.get(name), after.get(name), tolerance) for name in names],
        warnings=[f"not comparable, {difference}" for difference in unlike(a, b)] + noisy,
    )


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The settings and the machine's properties in which the runs differ, as `name: A -> B`."""
    before, after = _circumstances(a), _circumstances(b)
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names]


def _row(name: str, before: float | None, after: float | None, tolerance: float) -> ComparisonRow:
    if before is None or after is None:
        return ComparisonRow(name, before, after, None, None)
    difference = Difference(name, before, after)
    change = difference.share if math.isfinite(difference.share) else None
    return ComparisonRow(
        name, before, after, change, difference.verdict(tolerance, more_is_better=name in MORE_IS_BETTER)
    )


def _values(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures to compare, by name, without those that the run did not measure."""
    figures, processes = report["figures"], report["processes"]
    measured = [name for name in MEASURES if figures.get(name)]
    found = {f"{name} {quantile}": figures[name][quantile] for name in measured for quantile in QUANTILES}
    if processes:
        found["server_cores"] = sum(process["cores"] for process in processes)
        found["session_kb"] = sum(process["session_kb"] for process in processes)
    found |= {name: report["counts"][name] for name in COUNTS}
    found["min_per_min"] = report.get("totals", {}).get("min_per_min")
    if steps := report.get("steps"):
        found["sessions_max"] = max((step["sessions"] for step in steps if step["passed"]), default=0)
    return {name: float(value) for name, value in found.items() if value is not None}


def _circumstances(report: Mapping[str, Any]) -> dict[str, object]:
    """The settings and the machine, which must be equal in comparable runs.

    The URL of a service that was started for the run is left out, because its port is any free port.
    """
    given, machine = dict(report["settings"]), dict(report["machine"])
    if given["own_service"]:
        given.pop("url")
    machine.pop("load_before")
    return given | machine


# ---- Table ----


def table(found: Comparison) -> RenderableType:
    """The rows as a table, a summary and the warnings."""
    rows = Table("measure")
    for title in ("A", "B", "difference"):
        rows.add_column(title, justify="right")
    rows.add_column("verdict")
    for row in found.rows:
        verdict = row.verdict or "unknown"
        rows.add_row(row.name, _number(row.a), _number(row.b), _change(row), Text(verdict, STYLES[verdict]))
    return Group(rows, Text(_summary(found)), *(Text(f"WARNING: {warning}") for warning in found.warnings))


def _summary(found: Comparison) -> str:
    better = sum(row.verdict == "better" for row in found.rows)
    same = sum(row.verdict == "same" for row in found.rows)
    return f"{len(found.worse)} worse, {better} better, {same} the same"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _change(row: ComparisonRow) -> str:
    return f"{row.change:+.1%}" if row.change else ""
