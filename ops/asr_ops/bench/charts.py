"""Charts as SVG, made of paths and texts, with the colors of the page's style sheet (classes s0, s1, ...). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from asr_client.figures import percentile
from asr_ops.bench.axes import MARKS_MAX, Axis, linear, logarithmic, round_up
from asr_ops.bench.timeline import Point

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 46
"""Pixels between the plot and the edges, for numbers and titles."""
CURVE_POINTS_MAX = 300
"""Most points of a curve: more cannot be distinguished at this width."""
BINS_MAX = 40
SHARES = (0, 25, 50, 75, 90, 100)
"""Marks of a distribution, in percent."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that are drawn in one color."""

    name: str
    style: str
    """The class in the style sheet that gives the color."""
    points: Sequence[Point]

    @property
    def heights(self) -> list[float]:
        """The vertical values of the points, sorted."""
        return sorted(height for _, height in self.points)


# ---- Charts ----


def distributions(shown: Sequence[Series]) -> str:
    """The cumulative distribution of each series: the percentage of its latencies that are at most x ms."""
    x = logarithmic("ms (logarithmic)", (ms for series in shown for ms in series.heights))
    y = Axis("% of all that are at most x", 0, 100, SHARES)
    return _plot(x, y, [_curve(x, y, series) for series in shown], "How latencies are distributed")


def over_time(series: Series, end_s: float) -> str:
    """Each point, and the median and the 95th percentile of each interval of time."""
    x, y = linear("s since the first session began to send", end_s), linear("ms", series.heights[-1])
    marks = [_dots(x, y, series, "dots")]
    for style, q in (("median", 0.5), ("tail", 0.95)):
        line = [(at_s, percentile(values, q)) for at_s, values in _bins(series.points, end_s)]
        marks.append(_line(x, y, Series(f"{series.name}, p{q * 100:g}", style, line)))
    return _plot(x, y, marks, f"{series.name} over time")


def by_sessions(shown: Sequence[Series], failed: Sequence[float]) -> str:
    """Latencies against numbers of sessions. A cross marks each number in `failed`, which did not pass."""
    x = linear("sessions", max((MARKS_MAX, *failed, *(sessions for series in shown for sessions, _ in series.points))))
    y = linear("ms", max((ms for series in shown for ms in series.heights), default=0))
    marks = [_line(x, y, series) + _dots(x, y, series, "knots") for series in shown]
    crosses = "".join(f"M{_at(x, y, sessions, 0)}m-4,-14l8,8m0,-8l-8,8" for sessions in failed)
    return _plot(x, y, [*marks, f'<path class="failed" d="{crosses}"/>'], "Latencies by number of sessions")


def _curve(x: Axis, y: Axis, series: Series) -> str:
    """The cumulative distribution as a line, from 0 at the lowest value to 100 at the highest."""
    ranked = series.heights
    count, steps = len(ranked), min(len(ranked), CURVE_POINTS_MAX)
    ranks = [-(-count * step // steps) for step in range(1, steps + 1)]
    line = [(ranked[0], 0.0), *((ranked[rank - 1], 100 * rank / count) for rank in ranks)]
    return _line(x, y, Series(series.name, series.style, line))


def _bins(points: Sequence[Point], end_s: float) -> list[tuple[float, list[float]]]:
    """The middle and the values of each interval of time that has values."""
    width_s = round_up(max(end_s, 1) / BINS_MAX)
    found: dict[int, list[float]] = {}
    for at_s, ms in sorted(points):
        found.setdefault(int(at_s / width_s), []).append(ms)
    return [(min((number + 0.5) * width_s, end_s), values) for number, values in found.items()]


# ---- Drawing ----


def _plot(x: Axis, y: Axis, marks: Iterable[str], label: str) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        *(_mark_x(_x(x, mark), bottom, mark) for mark in x.marks),
        *(_mark_y(_y(y, mark), right, mark) for mark in y.marks),
        *marks,
        f'<text class="title" x="{middle_x}" y="{HEIGHT - 8}">{escape(x.title)}</text>',
        f'<text class="title" transform="translate(14 {middle_y}) rotate(-90)">{escape(y.title)}</text>',
        "</svg>",
    ]
    return "\n".join(parts)


def _mark_x(at: float, bottom: float, value: float) -> str:
    words = f'<text class="mark-x" x="{at:.1f}" y="{bottom + 16}">{value:g}</text>'
    return f'<path class="grid" d="M{at:.1f},{TOP}V{bottom}"/>{words}'


def _mark_y(at: float, right: float, value: float) -> str:
    words = f'<text class="mark-y" x="{LEFT - 6}" y="{at + 4:.1f}">{value:g}</text>'
    return f'<path class="grid" d="M{LEFT},{at:.1f}H{right}"/>{words}'


def _line(x: Axis, y: Axis, series: Series) -> str:
    path = "L".join(_at(x, y, *point) for point in series.points)
    words = f"<title>{escape(series.name)}</title>"
    return f'<path class="curve {series.style}" d="M{path}">{words}</path>' if path else ""


def _dots(x: Axis, y: Axis, series: Series, size: str) -> str:
    """All points as dots in one path: thousands of elements would make the page slow."""
    path = "".join(f"M{_at(x, y, *point)}h0" for point in series.points)
    return f'<path class="{size} {series.style}" d="{path}"/>'


def _at(x: Axis, y: Axis, across: float, up: float) -> str:
    return f"{_x(x, across):.1f},{_y(y, up):.1f}"


def _x(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * axis.place(value)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.place(value)
