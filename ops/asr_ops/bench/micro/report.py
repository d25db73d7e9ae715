"""The figures as tables and as plain values for JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asr_ops.bench.micro.broker import BrokerRow
from asr_ops.bench.micro.costs import Cost
from asr_ops.bench.report import LATENESS_MS_MAX, OTHERS_CORES_MAX

BROKER = (
    *("frames/s", "bundles/s", "bundle", "main", "I/O", "us/bundle", "us/frame", "cores/1,000"),
    *("hop p50", "p99", "late p99"),
)


def costs_table(title: str, costs: Iterable[Cost]) -> Table:
    """The costs of one part as a table."""
    table = _table(title, "us", "best", "per s", "cores/1,000")
    for cost in costs:
        table.add_row(cost.what, f"{cost.us:.2f}", f"{cost.best_us:.2f}", f"{cost.per_s:.3g}", f"{cost.cores:.3f}")
    return table


def broker_table(rows: Sequence[BrokerRow]) -> RenderableType:
    """The broker's figures under load as a table, with warnings."""
    table = _table("broker", *BROKER)
    for row in rows:
        table.add_row(row.name, *_cells(row))
    return Group(table, *(Text(f"WARNING: {warning}") for row in rows for warning in warnings(row)))


def warnings(row: BrokerRow) -> list[str]:
    """Reasons why a row may not describe the broker."""
    found = []
    if row.missing:
        found.append(f"{row.name}: the broker was {row.missing} bundles late at the end")
    if row.generator_was_slow:
        found.append(f"{row.name}: the generator was the bottleneck, the broker was busy for {row.busiest:.0%} only")
    if row.late_ms is not None and row.late_ms.p99 > LATENESS_MS_MAX:
        found.append(f"{row.name}: bundles left up to {row.late_ms.p99:.0f} ms late (p99), then many together")
    if row.others_cores > OTHERS_CORES_MAX:
        found.append(f"{row.name}: the machine is noisy, others kept {row.others_cores:.2f} cores busy")
    return found


def as_json(costs: dict[str, list[Cost]], rows: Sequence[BrokerRow]) -> dict[str, object]:
    """All figures as plain values, including the derived ones."""
    parts: dict[str, object] = {
        part: [{**asdict(cost), "cores_per_1000": cost.cores} for cost in found] for part, found in costs.items()
    }
    derived = ("frames_per_s", "bundles_per_s", "cpu_s", "cores_per_1000")
    broker = [{**asdict(row), **{name: getattr(row, name) for name in derived}} for row in rows]
    return {**parts, "broker": broker} if rows else parts


def _cells(row: BrokerRow) -> list[str]:
    thousand = row.cores_per_1000
    return [
        f"{row.frames_per_s:,.0f}",
        f"{row.bundles_per_s:,.0f}",
        f"{row.frames / row.bundles:.1f}",
        f"{row.main_s / row.seconds:.2f}",
        f"{row.io_s / row.seconds:.2f}",
        f"{row.cpu_s / row.bundles * 1e6:.1f}",
        f"{row.cpu_s / row.frames * 1e6:.2f}",
        "" if thousand is None else f"{thousand:.3f}",
        *(["", ""] if row.hop_ms is None else [f"{row.hop_ms.p50:.2f}", f"{row.hop_ms.p99:.2f}"]),
        "" if row.late_ms is None else f"{row.late_ms.p99:.1f}",
    ]


def _table(title: str, *headings: str) -> Table:
    table = Table(title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
