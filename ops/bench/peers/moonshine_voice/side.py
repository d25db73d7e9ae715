"""What was measured on each side, what it means for a core, and the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

PEER, PEER_LEAN = "moonshine-voice", "without its audio"
ENGINE, WORKER, SERVICE = "our engine", "our worker", "our service"
GOAL = 2.0
"""Sessions per core, ours to the peer's."""
PARTIALS_MIN = 0.95
"""A service that is given too little CPU time decodes fewer partials: it is cheaper, and not comparable."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time for so much speech, all streams together, and how much was said about it (None where not counted)."""

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
    """One way of serving, over all rounds."""

    name: str
    rounds: int
    per_s: float
    """Median."""
    per_s_min: float
    per_s_max: float
    sessions_per_core: float
    ratio: float
    """Of sessions per core, to the peer as it comes."""
    ratio_lean: float
    """The same, to the peer at its cheapest."""
    partials_per_s: float | None
    finals: int | None


def rows(rounds: Mapping[str, Sequence[Cost]]) -> list[Row]:
    """A row for each way that was measured, in that order."""
    peer, lean = (median(cost.per_s for cost in rounds[name]) for name in (PEER, PEER_LEAN))
    return [_row(name, costs, peer, lean) for name, costs in rounds.items()]


def _row(name: str, costs: Sequence[Cost], peer: float, lean: float) -> Row:
    found = sorted(cost.per_s for cost in costs)
    middle, said = median(found), [cost.partials / cost.audio_s for cost in costs if cost.partials is not None]
    return Row(
        name=name,
        rounds=len(found),
        per_s=middle,
        per_s_min=found[0],
        per_s_max=found[-1],
        sessions_per_core=1 / middle,
        ratio=peer / middle,
        ratio_lean=lean / middle,
        partials_per_s=median(said) if said else None,
        finals=costs[-1].finals,
    )


def table(found: Sequence[Row]) -> Table:
    """For people."""
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
    """Whether the goal is met: by the service, or by the engine where no service was measured or it gave less."""
    named = {row.name: row for row in found}
    peer, service = named[PEER].partials_per_s, named.get(SERVICE)
    equal = service is not None and (service.partials_per_s or 0) >= PARTIALS_MIN * (peer or 0)
    row = service if service is not None and equal else named[ENGINE]
    met = "met" if row.ratio >= GOAL else "NOT met"
    said = (
        f"goal {met}: {row.name} has {row.ratio:.2f} times the sessions per core, {GOAL:g} are wanted; "
        f"{row.ratio_lean:.2f} times those of the peer without its audio"
    )
    return said if service is None or equal else f"{said}\nour service does not count: it gave fewer partials"


def as_json(found: Sequence[Row], rounds: Mapping[str, Sequence[Cost]]) -> dict[str, object]:
    """For programs: the rows, and every run behind them."""
    runs = {name: [{**asdict(cost), "per_s": cost.per_s} for cost in costs] for name, costs in rounds.items()}
    return {"rows": [asdict(row) for row in found], "runs": runs, "goal": GOAL, "verdict": verdict(found)}


def service_costs(bench: Mapping[str, Any]) -> tuple[Cost, Cost]:
    """The worker alone and all processes, from the JSON of `asr bench`."""
    audio_s = bench["settings"]["sessions"] * bench["settings"]["duration_s"]
    worker = sum(process["cpu_s"] for process in bench["processes"] if process["name"].startswith("worker"))
    everything = sum(process["cpu_s"] for process in bench["processes"])
    partials = bench["figures"].get("partial_lag_ms", {"count": 0})["count"]
    return Cost(audio_s, worker, partials), Cost(audio_s, everything, partials)
