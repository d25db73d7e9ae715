"""The costs of both sides, the sessions per core, and the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

PEER, PEER_LEAN = "moonshine-voice", "without its audio"
ENGINE, WORKER, SERVICE = "our engine", "our worker", "our service"
GOAL = 2.0
"""Goal for our sessions per core divided by the peer's."""
PARTIALS_MIN = 0.95
"""Least share of the peer's partials. A service that lacks CPU time decodes fewer partials and is not comparable."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of speech of all streams, the CPU time for it, and the numbers of results (None if not counted)."""

    audio_s: float
    cpu_s: float
    partials: int | None = None
    finals: int | None = None

    @property
    def per_s(self) -> float:
        """CPU seconds for each second of a stream."""
        return self.cpu_s / self.audio_s


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one side over all rounds."""

    name: str
    rounds: int
    per_s: float
    """CPU seconds per second of a stream: the median of the rounds."""
    per_s_min: float
    per_s_max: float
    sessions_per_core: float
    ratio: float
    """Sessions per core divided by those of the peer with its default settings."""
    ratio_lean: float
    """Sessions per core divided by those of the peer with its cheapest setting."""
    partials_per_s: float | None
    finals: int | None


def rows(rounds: Mapping[str, Sequence[Cost]]) -> list[Row]:
    """A row for each side that was measured, in that order."""
    peer, lean = (median(cost.per_s for cost in rounds[name]) for name in (PEER, PEER_LEAN))
    return [_row(name, costs, peer, lean) for name, costs in rounds.items()]


def _row(name: str, costs: Sequence[Cost], peer: float, lean: float) -> Row:
    found = sorted(cost.per_s for cost in costs)
    middle, rates = median(found), [cost.partials / cost.audio_s for cost in costs if cost.partials is not None]
    return Row(
        name=name,
        rounds=len(found),
        per_s=middle,
        per_s_min=found[0],
        per_s_max=found[-1],
        sessions_per_core=1 / middle,
        ratio=peer / middle,
        ratio_lean=lean / middle,
        partials_per_s=median(rates) if rates else None,
        finals=costs[-1].finals,
    )


def table(found: Sequence[Row]) -> Table:
    """The rows as a table."""
    shown = Table("what")
    for title in ("CPU s/s", "from", "to", "per core", "ratio", "to its best", "partials/s"):
        shown.add_column(title, justify="right")
    for row in found:
        spread = (f"{row.per_s:.4f}", f"{row.per_s_min:.4f}", f"{row.per_s_max:.4f}")
        partials = "" if row.partials_per_s is None else f"{row.partials_per_s:.2f}"
        ratios = (f"{row.ratio:.2f}", f"{row.ratio_lean:.2f}")
        shown.add_row(row.name, *spread, f"{row.sessions_per_core:.1f}", *ratios, partials)
    return shown


def verdict(found: Sequence[Row]) -> str:
    """Whether the goal is met: by the service, or by the engine if the service is missing or sent fewer partials."""
    named = {row.name: row for row in found}
    peer, service = named[PEER].partials_per_s, named.get(SERVICE)
    equal = service is not None and (service.partials_per_s or 0) >= PARTIALS_MIN * (peer or 0)
    row = service if service is not None and equal else named[ENGINE]
    met = "met" if row.ratio >= GOAL else "NOT met"
    sentence = (
        f"goal {met}: {row.name} has {row.ratio:.2f} times the sessions per core, the goal is {GOAL:g}; "
        f"{row.ratio_lean:.2f} times those of the peer without its audio"
    )
    return sentence if service is None or equal else f"{sentence}\nour service does not count: it sent fewer partials"


def as_json(found: Sequence[Row], rounds: Mapping[str, Sequence[Cost]]) -> dict[str, object]:
    """The rows and all runs as plain values for JSON."""
    runs = {name: [{**asdict(cost), "per_s": cost.per_s} for cost in costs] for name, costs in rounds.items()}
    return {"rows": [asdict(row) for row in found], "runs": runs, "goal": GOAL, "verdict": verdict(found)}


def service_costs(bench: Mapping[str, Any]) -> tuple[Cost, Cost]:
    """The costs of the worker and of all processes, from the JSON of `asr bench`."""
    audio_s = bench["settings"]["sessions"] * bench["settings"]["duration_s"]
    worker = sum(process["cpu_s"] for process in bench["processes"] if process["name"].startswith("worker"))
    everything = sum(process["cpu_s"] for process in bench["processes"])
    partials = bench["figures"].get("partial_lag_ms", {"count": 0})["count"]
    return Cost(audio_s, worker, partials), Cost(audio_s, everything, partials)
