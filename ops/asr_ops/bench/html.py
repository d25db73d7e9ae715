"""A run's report as one self-contained HTML page, without network access or scripts. Pure.

It is made from the result of `report.as_json`. Parts that a run does not have are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from asr_ops.bench import charts
from asr_ops.bench.charts import Series
from asr_ops.bench.page_style import STYLE
from asr_ops.bench.report import COLUMNS, digits
from asr_ops.bench.timeline import Point

NAMES = {"first_partial_ms": "first partial", "partial_lag_ms": "partial lag", "final_ms": "final"}
"""The measures that are drawn, each in another color, and their titles."""
SLOWEST = 20
"""Number of sessions in the table of the slowest sessions."""
SESSION_COLUMNS = ("outcome", "exact", "ready_ms", "first_partial_ms", "final_ms", "end_ms", "partials", "rtf", "xrt")
ReportContent = Mapping[str, Any]


def page(content: ReportContent) -> str:
    """The whole report."""
    title = escape(content["title"])
    parts = (_head, _warnings, _tiles, _latencies, _charts, _steps, _asides, _processes, _sessions, _circumstances)
    body = "\n".join(part(content) for part in parts)
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{meta}\n<title>{title}</title>\n<style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


# ---- Summary ----


def _head(content: ReportContent) -> str:
    machine = content["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    about = f"{content['when']} · {where}"
    return f'<h1>{escape(content["title"])}</h1>\n<p class="muted">{escape(about)}</p>'


def _warnings(content: ReportContent) -> str:
    return "\n".join(f'<p class="warning">{escape(warning)}</p>' for warning in content["warnings"])


def _tiles(content: ReportContent) -> str:
    counts, figures = content["counts"], content["figures"]
    fared = f"{counts['refused']} refused, {counts['errors']} errors, {_value('lost', counts['lost'])} lost"
    tiles = [_tile("served", f"{counts['served']} of {counts['sessions']}", f"{fared} {_faults(content)}")]
    tiles += [_latency(NAMES[name], figures[name]) for name in NAMES if name in figures]
    totals = content["totals"]
    tiles.append(_tile("audio per minute", f"{totals['min_per_min']:.1f} min", f"{totals['audio_s']:.0f} s in all"))
    if content["processes"]:
        cores, kb = (sum(process[name] for process in content["processes"]) for name in ("cores", "session_kb"))
        tiles.append(_tile("server", f"{cores:.2f} cores", f"{kb:.0f} KB per session"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _faults(counted: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} x {reason}" for reason, number in counted["faults"].items())


def _latency(name: str, spread: Mapping[str, float]) -> str:
    return _tile(name, f"{spread['p50']:.1f} ms", f"p95 {spread['p95']:.1f}, p99 {spread['p99']:.1f}")


def _tile(name: str, value: str, more: str) -> str:
    return f"<div><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(more)}</span></div>"


# ---- Charts ----


def _charts(content: ReportContent) -> str:
    shown = [_series(name, points) for name, points in content["timeline"].items()]
    if not shown:
        return ""
    end_s = max(at_s for series in shown for at_s, _ in series.points)
    figures = [_figure("How latencies are distributed", _legend(shown), charts.distributions(shown))]
    for series in shown:
        keys = _keys(("dot", series.style, "each"), ("key", "median", "median"), ("key", "tail", "p95"))
        figures.append(_figure(f"{series.name.capitalize()} over time", keys, charts.over_time(series, end_s)))
    return f'<div class="charts">{"".join(figures)}</div>'


def _series(measure: str, points: Sequence[Point]) -> Series:
    """The points of a measure, with the measure's title and color, which are the same in all charts."""
    return Series(NAMES[measure], f"s{list(NAMES).index(measure)}", points)


def _figure(title: str, legend: str, drawn: str) -> str:
    return f"<figure><figcaption><h2>{escape(title)}</h2>{legend}</figcaption>\n{drawn}</figure>\n"


def _legend(shown: Iterable[Series]) -> str:
    return _keys(*(("key", series.style, series.name) for series in shown))


def _keys(*keys: tuple[str, str, str]) -> str:
    """A legend. Each key is (shape, class of the color, text)."""
    shown = (f'<span><i class="{shape} {style}"></i>{escape(words)}</span>' for shape, style, words in keys)
    return f'<p class="legend">{"".join(shown)}</p>'


# ---- Tables ----


def _latencies(content: ReportContent) -> str:
    rows = [
        (name, str(spread["count"]), *(f"{spread[column]:.{digits(name)}f}" for column in COLUMNS))
        for name, spread in content["figures"].items()
    ]
    return _table("Figures", ("measure", "n", *COLUMNS), rows)


def _steps(content: ReportContent) -> str:
    """The steps of a search for the most sessions."""
    steps = content.get("steps") or []
    if not steps:
        return ""
    shown = [_p95(measure, steps) for measure in ("partial_lag_ms", "final_ms")]
    drawn = charts.by_sessions(shown, [step["sessions"] for step in steps if not step["passed"]])
    figure = _figure("p95 by number of sessions (a cross: did not pass)", _legend(shown), drawn)
    return f'<div class="charts">{_records("Steps", steps)}{figure}</div>'


def _p95(measure: str, steps: Iterable[Mapping[str, Any]]) -> Series:
    values = [(float(step["sessions"]), step[f"{measure}_p95"]) for step in steps]
    return _series(measure, sorted(point for point in values if point[1] is not None))


def _asides(content: ReportContent) -> str:
    """The connections that disturbed the paced sessions."""
    asides = content.get("asides") or {}
    return _records(
        "Disturbances", [{"name": name, **aside, "faults": _faults(aside)} for name, aside in asides.items()]
    )


def _processes(content: ReportContent) -> str:
    return _records("Processes", content["processes"])


def _sessions(content: ReportContent) -> str:
    """The sessions that were not served, then those with the longest latency of the last final."""
    ranked = sorted(enumerate(content["sessions"]), key=lambda one: -_waited(one[1]))[:SLOWEST]
    shown = [{"session": number} | {name: session[name] for name in SESSION_COLUMNS} for number, session in ranked]
    return _records("The slowest sessions", shown)


def _waited(session: ReportContent) -> float:
    return float("inf") if session["final_ms"] is None else float(session["final_ms"])


def _circumstances(content: ReportContent) -> str:
    """The settings, the machine, and the load generator's lateness and CPU use."""
    generator = content["generator"]
    lateness = generator["lateness_ms"] or {}
    load = {"cores": generator["cores"], "others_cores": content["others_cores"]}
    load |= {f"lateness_ms_{name}": lateness.get(name) for name in ("p50", "p99", "max")}
    named = {"Settings": content["settings"], "Machine": content["machine"], "Load generator": load}
    tables = (_pairs(name, values) for name, values in named.items())
    return f'<div class="charts">{"".join(tables)}</div>'


def _records(title: str, records: Sequence[Mapping[str, object]]) -> str:
    """A table with one line a record. The keys of the first record are its headings."""
    return _table(title, list(records[0]), [_shown(record) for record in records]) if records else ""


def _pairs(title: str, values: Mapping[str, object]) -> str:
    return _table(title, (), zip(values, _shown(values), strict=True))


def _table(title: str, head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [_row("th", head)] if head else []
    lines += [_row("td", row) for row in rows]
    return f'<section><h2>{escape(title)}</h2>\n<div class="wide"><table>\n{"".join(lines)}</table></div></section>'


def _row(tag: str, values: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values) + "</tr>\n"


def _shown(record: Mapping[str, object]) -> list[str]:
    return [_value(name, value) for name, value in record.items()]


def _value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits(name)}f}"
    return str(value)
