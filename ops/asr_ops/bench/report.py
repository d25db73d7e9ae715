"""A run's figures as tables for people, as JSON for programs and as one line of a history. Pure.

The report says when its own figures are not to be trusted: the generator was late, or the machine was busy otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asr_ops.bench.processes import Usage
from asr_ops.bench.statistics import Counts, SessionFigures, Spread, spread

LATENESS_MS_MAX = 10.0
"""A generator later than this (p99) also reads late, and its figures are its own."""
OTHERS_CORES_MAX = 0.25
"""More than this used by others, and another run will differ."""
QUANTILES = ("p50", "p90", "p95", "p99", "max")
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
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for."""

    url: str
    own_service: bool
    engine: str
    sessions: int
    duration_s: float
    frame_ms: int
    start: str
    audio: str


@dataclass(frozen=True, slots=True)
class Generator:
    """How well the load was made."""

    lateness_ms: Spread | None
    cores: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of a run."""

    when: str
    settings: Settings
    machine: dict[str, object]
    counts: Counts
    faults: dict[str, int]
    """How often each reason for not being served was heard."""
    figures: dict[str, Spread]
    processes: Sequence[Usage]
    generator: Generator
    others_cores: float | None
    sessions: Sequence[SessionFigures]

    @property
    def server_cores(self) -> float:
        """Of all processes of the server."""
        return sum(process.cores for process in self.processes)

    @property
    def session_kb(self) -> float:
        """Memory for each session, in all processes of the server."""
        return sum(process.session_kb for process in self.processes)


def faults(sessions: Sequence[SessionFigures]) -> dict[str, int]:
    """The reasons of those not served, each with its number."""
    outcomes = [session.outcome for session in sessions if session.outcome != "served"]
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def warnings(report: Report) -> list[str]:
    """Why the figures may not be the server's."""
    found, lateness = [], report.generator.lateness_ms
    if lateness is not None and lateness.p99 > LATENESS_MS_MAX:
        late = f"the load generator was the bottleneck: frames left {lateness.p99:.1f} ms late (p99)"
        found.append(f"{late}, so these figures are partly its own")
    if report.others_cores is not None and report.others_cores > OTHERS_CORES_MAX:
        found.append(f"the machine is noisy: others kept {report.others_cores:.2f} cores busy")
    return found


# ---- For people ----


def tables(report: Report) -> RenderableType:
    """Latencies, processes, and what is to be said in words."""
    parts: list[RenderableType] = [Text(_title(report.settings)), _latencies(report.figures)]
    if report.processes:
        parts.append(_processes(report))
    parts += [Text(line) for line in (_fared(report), _generated(report.generator), _machine(report.machine))]
    parts += [Text(f"WARNING: {warning}") for warning in warnings(report)]
    return Group(*parts)


def _title(settings: Settings) -> str:
    load = f"{settings.sessions} sessions of {settings.duration_s:g} s in frames of {settings.frame_ms} ms"
    return f"{settings.engine}: {load}, starting {_starting(settings.start)}"


def _starting(start: str) -> str:
    return "at random" if start == "random" else start


def _latencies(figures: dict[str, Spread]) -> Table:
    table = Table("measure")
    for title in ("n", *QUANTILES):
        table.add_column(title, justify="right")
    for name, row in figures.items():
        digits = 3 if name == "rtf" else 1
        table.add_row(name, str(row.count), *(f"{getattr(row, quantile):.{digits}f}" for quantile in QUANTILES))
    return table


def _processes(report: Report) -> Table:
    table = Table("process")
    for title in ("CPU s", "cores", "RSS MB", "PSS MB", "KB per session"):
        table.add_column(title, justify="right")
    for use in report.processes:
        values = (f"{use.cpu_s:.2f}", f"{use.cores:.3f}", f"{use.rss_mb:.0f}", f"{use.pss_mb:.0f}")
        table.add_row(use.name, *values, f"{use.session_kb:.0f}")
    table.add_section()
    cpu_s, pss_mb = sum(use.cpu_s for use in report.processes), sum(use.pss_mb for use in report.processes)
    totals = (f"{cpu_s:.2f}", f"{report.server_cores:.3f}", "", f"{pss_mb:.0f}", f"{report.session_kb:.0f}")
    table.add_row("server", *totals)
    return table


def _fared(report: Report) -> str:
    counts = report.counts
    lost = "lost unknown" if counts.lost is None else f"{counts.lost} lost"
    why = "".join(f"; {number} x {reason}" for reason, number in report.faults.items())
    return f"{counts.served} of {counts.sessions} served, {counts.refused} refused, {counts.errors} errors, {lost}{why}"


def _generated(generator: Generator) -> str:
    late = generator.lateness_ms
    lateness = "no frame left" if late is None else f"frames left {late.p50:.1f} ms late (p50), {late.p99:.1f} (p99)"
    return f"load generator: {lateness}, {generator.cores:.3f} cores"


def _machine(machine: dict[str, object]) -> str:
    shown = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB", str(machine["system"])]
    return ", ".join([*shown, f"Python {machine['python']}, load {machine['load_before']} before"])


# ---- For programs ----


def as_json(report: Report) -> dict[str, object]:
    """Everything; the partial lags of each session as a distribution."""
    content = asdict(report)
    content["warnings"] = warnings(report)
    content["sessions"] = [
        {**asdict(session), "partial_lag_ms": _spread(session.partial_lag_ms)} for session in report.sessions
    ]
    return content


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    found = spread(values)
    return None if found is None else asdict(found)


def history_row(report: Report) -> list[str]:
    """The values of HISTORY, in its order; what is unknown is empty."""
    values: dict[str, object] = {"when": report.when, **report.machine, **asdict(report.settings)}
    values |= asdict(report.counts)
    values["sessions"] = report.settings.sessions
    for name, row in report.figures.items():
        values |= {f"{name}_{quantile}": round(getattr(row, quantile), 1) for quantile in QUANTILES}
    if report.processes:
        values |= {"server_cores": round(report.server_cores, 3), "session_kb": round(report.session_kb)}
    if report.generator.lateness_ms is not None:
        values["lateness_ms_p99"] = round(report.generator.lateness_ms.p99, 1)
    if report.others_cores is not None:
        values["others_cores"] = round(report.others_cores, 2)
    return ["" if values.get(name) is None else str(values[name]) for name in HISTORY]
