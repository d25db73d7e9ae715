"""The run as one picture: a self-contained HTML page with a row for each process and one for each seat. Pure.

Red is an absent process, yellow a lasting fault, a red line a momentary fault. A seat's sessions follow each other:
grey is text in time; the darker the color, the longer the gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from tests.nemesis.checker import Violation
from tests.nemesis.gaps import Gap, gaps
from tests.nemesis.history import Conversation, History, Strike
from tests.nemesis.schedule import Fault

WIDTH, LEFT, RIGHT = 1200, 110, 20
ROW, SEAT_MIN, SEAT_MAX, CHART, GROUP = 26, 5, 14, 70, 30
SEATS_HEIGHT = 500
TICKS_MAX = 12
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
LEVELS = ((0.5, "g0"), (1.0, "g1"), (2.0, "g2"), (5.0, "g3"), (float("inf"), "g4"))
"""Longest gap in seconds, and its color class."""
LEVEL_NAMES = ("gap up to 0.5 s", "1 s", "2 s", "5 s", "longer")
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --words: #1b2027; --muted: #5c6673; --line: #dfe3e8; --row: #f3f5f7;
  --seat: #d5dce3; --kill: #b3261e; --gone: #f2b8b5; --lasting: #e8b339; --curve: #0072b2; --other: #c8500a }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --words: #e7eaee; --muted: #98a2af; --line: #323841;
  --row: #1b1f25; --seat: #38414c; --kill: #ff8a80; --gone: #6b2a27; --lasting: #a87c17; --curve: #5ab4f0;
  --other: #f29a5c } }
body { max-width: 80rem; margin: 0 auto; padding: 1.2rem; background: var(--ground); color: var(--words);
  font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 0 .3rem }
p { margin: .2rem 0; color: var(--muted) }
p.bad { color: var(--kill) }
pre { overflow-x: auto; font-size: .8rem; color: var(--muted) }
svg { display: block; width: 100%; height: auto; margin-top: .6rem }
svg text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums }
text.name { text-anchor: end } text.tick { text-anchor: middle } text.head { fill: var(--words); font-weight: 600 }
.grid { stroke: var(--line); fill: none } .row { fill: var(--row) } .seat { fill: var(--seat) }
.gone { fill: var(--gone) } .lasting { fill: var(--lasting) } .kill { stroke: var(--kill); stroke-width: 2 }
.broken { fill: var(--kill) }
.curve { stroke: var(--curve); fill: none; stroke-width: 1.5 } .other { stroke: var(--other) }
.g0 { fill: #f6c445 } .g1 { fill: #f08c2e } .g2 { fill: #d9480f } .g3 { fill: #a61e4d } .g4 { fill: #5f0a3d }
.legend span { margin-right: 1.1rem; white-space: nowrap; font-size: .85rem }
.legend i { display: inline-block; width: .9rem; height: .7rem; margin-right: .35rem; vertical-align: baseline }
i.g0 { background: #f6c445 } i.g1 { background: #f08c2e } i.g2 { background: #d9480f } i.g3 { background: #a61e4d }
i.g4 { background: #5f0a3d } i.gone { background: var(--gone) } i.lasting { background: var(--lasting) }
i.seat { background: var(--seat) } i.kill { background: var(--kill); width: 2px }
"""


def page(title: str, history: History, violations: Sequence[Violation]) -> str:
    """The whole page."""
    drawing = _Drawing(history)
    listed = [
        f'<p class="bad">{escape(violation.sentence)} ({violation.invariant})</p>' for violation in violations[:20]
    ]
    verdict = "all promises kept" if not violations else f"{len(violations)} violations"
    counts = f"{len(history.conversations)} sessions, {len(history.strikes)} faults, {verdict}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>Nemesis: {escape(title)}</h1>\n<p>{counts}</p>\n"
        f"{''.join(listed)}\n{_legend()}\n{drawing.svg()}\n</body></html>\n"
    )


def _legend() -> str:
    keys = [("kill", "strikes"), ("gone", "no process"), ("lasting", "fault lasts"), ("seat", "session")]
    keys += [(style, name) for (_, style), name in zip(LEVELS, LEVEL_NAMES, strict=True)]
    return (
        '<p class="legend">' + "".join(f'<span><i class="{style}"></i>{name}</span>' for style, name in keys) + "</p>"
    )


class _Drawing:
    """Groups from top to bottom under one axis of time."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._end_s = max(history.end_s, 1.0)
        self._begin_s = history.sessions_from_s
        self._parts: list[str] = []
        self._y = 0.0

    def svg(self) -> str:
        self._processes()
        self._seats()
        self._curves()
        ticks = "".join(self._ticks())
        height = self._y + 26
        body = "\n".join(self._parts)
        label = "faults by process, gaps by session, slots and memory over time"
        return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">\n{ticks}\n{body}\n</svg>'

    # ---- Groups ----

    def _processes(self) -> None:
        self._head("processes")
        names = {seen.name for seen in self._history.memory} | {_victim(one.fault) for one in self._history.strikes}
        for name in sorted(names, key=_rank):
            self._name(name, ROW)
            self._bar("row", self._begin_s, self._end_s, ROW - 4)
            for absence in self._history.absences:
                if absence.name == name:
                    self._bar("gone", absence.from_s, absence.until_s, ROW - 4, f"{name}: no process")
            for strike in self._history.strikes:
                if _victim(strike.fault) == name:
                    self._strike(strike)
            self._y += ROW

    def _strike(self, strike: Strike) -> None:
        words = f"{strike.kind} at {strike.at_s:.2f} s: {strike.fault}"
        if strike.released_s - strike.at_s > 0.05:
            self._bar("lasting", strike.at_s, strike.released_s, ROW - 4, words)
        line = f"M{self._x(strike.at_s):.1f},{self._y + 1:.1f}v{ROW - 6}"
        self._parts.append(f'<path class="kill" d="{line}"><title>{escape(words)}</title></path>')

    def _seats(self) -> None:
        self._head("sessions: when they ran, and where they waited for text")
        seats: dict[int, list[Conversation]] = {}
        for one in self._history.conversations:
            seats.setdefault(one.seat, []).append(one)
        found: dict[int, list[Gap]] = {}
        for gap in gaps(self._history):
            found.setdefault(gap.seat, []).append(gap)
        height = min(SEAT_MAX, max(SEAT_MIN, SEATS_HEIGHT // max(1, len(seats))))
        for seat in sorted(seats):
            self._seat(seats[seat], found.get(seat, []), height - 1)
            self._y += height

    def _seat(self, sessions: Sequence[Conversation], found: Sequence[Gap], height: float) -> None:
        for one in sessions:
            if one.ready_s is not None:
                over_s = one.over_s if one.over_s is not None else self._end_s
                self._bar("seat", one.ready_s, over_s, height, one.name)
                if not one.whole:
                    self._bar("broken", over_s - 0.01, over_s, height, f"{one.name} ended without its end")
        for gap in found:
            style = next(style for most_s, style in LEVELS if gap.length_s <= most_s)
            words = f"session {gap.session}: {gap.length_s:.2f} s without text ({gap.kind})"
            self._bar(style, gap.from_s, gap.until_s, height, words)

    def _curves(self) -> None:
        live = [(at_s, float(count)) for at_s, count in live_sessions(self._history.conversations)]
        slots = [(seen.at_s, float(seen.in_use)) for seen in self._history.slots]
        self._chart("slots in use (blue), live sessions (orange)", [("curve", slots), ("curve other", live)])
        names = sorted({seen.name for seen in self._history.memory}, key=_rank)
        memory = [[(one.at_s, one.rss_mb) for one in self._history.memory if one.name == name] for name in names]
        self._chart("memory of each process, MB", [("curve", points) for points in memory])

    def _chart(self, title: str, curves: Iterable[tuple[str, Sequence[tuple[float, float]]]]) -> None:
        shown = [(style, points) for style, points in curves if points]
        if not shown:
            return
        self._head(title)
        most = max(value for _, points in shown for _, value in points) or 1.0
        for mark in (0.0, most):
            at = self._y + CHART * (1 - mark / most)
            self._parts.append(f'<text class="name" x="{LEFT - 8}" y="{at + 4:.1f}">{mark:.0f}</text>')
            self._parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        for style, points in shown:
            path = "L".join(f"{self._x(at):.1f},{self._y + CHART * (1 - value / most):.1f}" for at, value in points)
            self._parts.append(f'<path class="{style}" d="M{path}"/>')
        self._y += CHART + 8

    # ---- Pieces ----

    def _x(self, at_s: float) -> float:
        share = (min(max(at_s, self._begin_s), self._end_s) - self._begin_s) / (self._end_s - self._begin_s)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def _head(self, words: str) -> None:
        self._y += GROUP
        self._parts.append(f'<text class="head" x="{LEFT}" y="{self._y - 9:.1f}">{escape(words)}</text>')

    def _name(self, words: str, height: float) -> None:
        at = self._y + height / 2 + 2
        self._parts.append(f'<text class="name" x="{LEFT - 8}" y="{at:.1f}">{escape(words)}</text>')

    def _bar(self, style: str, from_s: float, until_s: float, height: float, words: str = "") -> None:
        left, right = self._x(from_s), self._x(until_s)
        title = f"<title>{escape(words)}</title>" if words else ""
        self._parts.append(
            f'<rect class="{style}" x="{left:.1f}" y="{self._y:.1f}" width="{max(right - left, 1.5):.1f}" '
            f'height="{height:g}">{title}</rect>'
        )

    def _ticks(self) -> Iterator[str]:
        span_s = self._end_s - self._begin_s
        step_s = next((step for step in STEPS_S if span_s / step <= TICKS_MAX), STEPS_S[-1])
        for number in range(int(span_s / step_s) + 1):
            at = self._x(self._begin_s + number * step_s)
            yield f'<path class="grid" d="M{at:.1f},{GROUP - 4}V{self._y:.1f}"/>'
            yield f'<text class="tick" x="{at:.1f}" y="{self._y + 18:.1f}">{number * step_s} s</text>'


def live_sessions(conversations: Iterable[Conversation]) -> list[tuple[float, int]]:
    """The number of live sessions over time, as points (seconds, number) before and after each change."""
    changes: list[tuple[float, int]] = []
    for one in conversations:
        if one.ready_s is not None:
            changes.append((one.ready_s, 1))
            if one.over_s is not None:
                changes.append((one.over_s, -1))
    points, count = [], 0
    for at_s, change in sorted(changes):
        points.append((at_s, count))
        count += change
        points.append((at_s, count))
    return points


def _victim(fault: Fault) -> str:
    """The name of the fault's row: its victim, or "clock" for a fault of the whole machine."""
    return getattr(fault, "name", "clock")


def _rank(name: str) -> tuple[int, str]:
    order = ("broker", "frontend", "worker", "clock")
    return order.index(name.partition("-")[0]), name
