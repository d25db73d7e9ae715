"""A run's figures, as tables and as JSON. Pure.

The report warns if its figures are not reliable: the load generator was late, or other programs kept the machine busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asr_ops.bench.plan import Aside
from asr_ops.bench.processes import Usage
from asr_ops.bench.statistics import SessionCounts, SessionFigures, Spread, Totals, spread, totals
from asr_ops.bench.timeline import timeline

LATENESS_MS_MAX = 10.0
"""Highest lateness in milliseconds (p99). A later generator also reads late, so it falsifies the latencies."""
OTHERS_CORES_MAX = 0.25
"""Most cores kept busy by other programs. Above it, the figures cannot be repeated."""
COLUMNS = ("avg", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The settings of a run."""

    url: str
    own_service: bool
    engine: str
    sessions: int
    duration_s: float
    frame_ms: int
    start: str
    audio: str
    dialect: str = "native"
    processes: int = 1
    """Number of load generators."""
    shape: str = ""
    """Description of what differs from the default load; empty for the default."""


@dataclass(frozen=True, slots=True)
class Generator:
    """Lateness and CPU use of the load generators."""

    lateness_ms: Spread | None
    cores: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All results of a run."""

    when: str
    settings: BenchSettings
    machine: dict[str, object]
    counts: SessionCounts
    faults: dict[str, int]
    """Number of sessions by the reason why they were not served."""
    figures: dict[str, Spread]
    processes: Sequence[Usage]
    generator: Generator
    others_cores: float | None
    sessions: Sequence[SessionFigures]
    asides: Mapping[str, Aside] = field(default_factory=dict)
    """Counts of the disturbing connections, by kind."""

    @property
    def server_cores(self) -> float:
        """Cores used by all processes of the server."""
        return sum(process.cores for process in self.processes)

    @property
    def session_kb(self) -> float:
        """Memory growth per session in kilobytes, of all processes of the server."""
        return sum(process.session_kb for process in self.processes)

    @property
    def totals(self) -> Totals:
        """The totals of all sessions that were served."""
        return totals(self.sessions)


def digits(name: str) -> int:
    """The number of decimal places with which a figure of that name is shown."""
    if name in {"rtf", "xrt"} or name.endswith("cores"):
        return 3
    return 0 if name == "partials" else 1


def faults(sessions: Sequence[SessionFigures]) -> dict[str, int]:
    """The reasons why sessions were not served, with the number of sessions for each."""
    outcomes = [session.outcome for session in sessions if session.outcome != "served"]
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def warnings(report: BenchReport) -> list[str]:
    """Reasons why the figures may not describe the server."""
    found, lateness = [], report.generator.lateness_ms
    if lateness is not None and lateness.p99 > LATENESS_MS_MAX:
        late = f"the load generator was the bottleneck: frames left {lateness.p99:.1f} ms late (p99)"
        found.append(f"{late}, so these figures partly describe the generator")
    if report.others_cores is not None and report.others_cores > OTHERS_CORES_MAX:
        found.append(f"the machine is noisy: others kept {report.others_cores:.2f} cores busy")
    return found


# ---- Tables ----


def tables(report: BenchReport) -> RenderableType:
    """The latencies and processes as tables, then the counts and warnings as lines."""
    parts: list[RenderableType] = [Text(_title(report.settings)), _latencies(report.figures)]
    if report.processes:
        parts.append(_processes(report))
    lines = (_fared(report), _served(report.totals), _generated(report.generator), _machine(report.machine))
    parts += [Text(line) for line in lines]
    parts += [Text(f"WARNING: {warning}") for warning in warnings(report)]
    return Group(*parts)


def _title(settings: BenchSettings) -> str:
    load = f"{settings.sessions} sessions of {settings.duration_s:g} s in frames of {settings.frame_ms} ms"
    named = settings.engine if settings.dialect == "native" else f"{settings.engine}, {settings.dialect}"
    parts = [load, f"starting {_starting(settings.start)}", settings.shape]
    return f"{named}: {', '.join(filter(None, parts))}"


def _starting(start: str) -> str:
    return "at random" if start == "random" else start


def _latencies(figures: dict[str, Spread]) -> Table:
    table = Table("measure")
    for title in ("n", *COLUMNS):
        table.add_column(title, justify="right")
    for name, row in figures.items():
        table.add_row(name, str(row.count), *(f"{getattr(row, column):.{digits(name)}f}" for column in COLUMNS))
    return table


def _processes(report: BenchReport) -> Table:
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


def _fared(report: BenchReport) -> str:
    counts = report.counts
    lost = "lost unknown" if counts.lost is None else f"{counts.lost} lost"
    why = "".join(f"; {number} x {reason}" for reason, number in report.faults.items())
    return f"{counts.served} of {counts.sessions} served, {counts.refused} refused, {counts.errors} errors, {lost}{why}"


def _served(totals: Totals) -> str:
    rate = f"{totals.sec_per_min:.0f} sec/min = {totals.min_per_min:.2f} min/min"
    return f"{totals.audio_s:.1f} s of audio in {totals.elapsed_s:.1f} s: {rate}"


def _generated(generator: Generator) -> str:
    late = generator.lateness_ms
    lateness = "no frame left" if late is None else f"frames left {late.p50:.1f} ms late (p50), {late.p99:.1f} (p99)"
    return f"load generator: {lateness}, {generator.cores:.3f} cores"


def _machine(machine: dict[str, object]) -> str:
    shown = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB", str(machine["system"])]
    return ", ".join([*shown, f"Python {machine['python']}, load {machine['load_before']} before"])


# ---- JSON ----


def as_json(report: BenchReport) -> dict[str, object]:
    """All figures as plain values.

    The partial lags of one session are given as a distribution. The timeline has the lags of all sessions with their
    times.
    """
    content = asdict(report)
    content["title"] = _title(report.settings)
    content["totals"] = asdict(report.totals)
    content["warnings"] = warnings(report)
    content["asides"] = {name: _aside(aside) for name, aside in report.asides.items()}
    content["timeline"] = timeline(report.sessions)
    content["sessions"] = [_session(session) for session in report.sessions]
    return content


def _aside(aside: Aside) -> dict[str, object]:
    """The counts as a dict. asdict() cannot copy a Counter, so `faults` becomes a plain dict."""
    return asdict(aside) | {"faults": dict(aside.faults)}


def _session(session: SessionFigures) -> dict[str, object]:
    """A session's figures without points in time, which have no meaning outside the process that measured them."""
    content = asdict(session)
    for moment in ("began_s", "spoken_s", "partial_at_s"):
        del content[moment]
    return content | {"partial_lag_ms": _spread(session.partial_lag_ms)}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    found = spread(values)
    return None if found is None else asdict(found)
