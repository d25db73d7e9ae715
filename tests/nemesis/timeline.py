"""The run as one picture: a self-contained HTML page with a row for each process and one for each seat. Pure.

It can be read without colors, as in print. Every fault has a number, and a line in the list below the picture. Hatched
is an absent process, dotted a lasting fault. A seat's sessions follow each other: plain is text in time; the denser the
pattern, the longer the gap, and long gaps show their seconds. Curves have different dashes and names at their ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import isfinite

from tests.nemesis.gaps import Gap, gaps
from tests.nemesis.history import Conversation, History, Strike
from tests.nemesis.schedule import BadPeer, Fault, Flood, JumpClock, Poison, detail_of
from tests.nemesis.violation import Violation

WIDTH, LEFT, RIGHT = 1200, 110, 90
ROW, SEAT_MIN, SEAT_MAX, CHART, GROUP = 26, 5, 14, 70, 30
SEATS_HEIGHT = 500
LABEL_LETTER, LABEL_HEIGHT = 6.5, 11
"""Room for a letter of a fault's label, and the height of a curve's name."""
WORD_HEIGHT_MIN, LETTER_WIDTH = 9, 5
"""Least height of a seat whose gaps show their seconds, and the width of a letter in it."""
TICKS_MAX = 12
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
LEVELS = ((0.5, "g0"), (1.0, "g1"), (2.0, "g2"), (5.0, "g3"), (float("inf"), "g4"))
"""Longest gap in seconds, and its pattern."""
LEVEL_NAMES = ("gap up to 0.5 s", "1 s", "2 s", "5 s", "longer")
PATTERNS = {
    "gone": "M0,6L6,0",
    "lasting": "M1,1h1M4,4h1",
    "g0": "",
    "g1": "M0,3h3",
    "g2": "M0,6L6,0",
    "g3": "M0,6L6,0M0,0L6,6",
    "g4": "M0,1h6M0,3h6M0,5h6M1,0v6M3,0v6M5,0v6",
}
"""The lines of each pattern, in a tile of 6 by 6."""
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")
"""Dashes of the curves of one chart, in turn."""
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
.back-gone { fill: var(--gone) } .back-lasting { fill: var(--lasting) } .mark { stroke: #000; stroke-opacity: .7 }
.kill { stroke: var(--kill); stroke-width: 2 } .edge { stroke: var(--words); stroke-width: .4 }
svg text.number { fill: var(--words); font-size: 10px; font-weight: 600; paint-order: stroke; stroke: var(--ground);
  stroke-width: 2px } svg text.seconds { fill: #000; font-size: 8px;
  paint-order: stroke; stroke: #fff; stroke-width: 2px } svg text.end { fill: var(--kill); font-size: 13px;
  font-weight: 700; paint-order: stroke; stroke: var(--ground); stroke-width: 2px }
.curve { stroke: var(--curve); fill: none; stroke-width: 1.5 } .other { stroke: var(--other) }
.back-g0 { fill: #f6c445 } .back-g1 { fill: #f08c2e } .back-g2 { fill: #d9480f } .back-g3 { fill: #c2416e }
.back-g4 { fill: #7a2a57 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem }
.legend svg { display: inline-block; width: 26px; height: 12px; margin: 0 .35rem 0 0; vertical-align: -1px }
table { border-collapse: collapse; font-size: .85rem; margin-top: 1rem } td { padding: .05rem .8rem .05rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top } td.n { text-align: right; font-weight: 600 }
@media print { :root { --ground: #fff; --words: #000; --muted: #333; --line: #bbb; --row: #f3f5f7; --seat: #d5dce3;
  --kill: #000; --curve: #000; --other: #000 } svg { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
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
        f"{''.join(listed)}\n{_legend()}\n{drawing.svg()}\n{_list(history)}\n</body></html>\n"
    )


def _list(history: History) -> str:
    """All faults by their numbers in the picture, with times on its axis."""
    begin_s = history.sessions_from_s
    rows = [
        (f"{number}", f"{one.at_s - begin_s:.1f} s", one.kind, detail_of(one.fault), _whole(one), one.said)
        for number, one in enumerate(history.strikes, 1)
    ]
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return (
        "<table>" + "".join(f"<tr>{row}</tr>" for row in cells).replace("<tr><td>", '<tr><td class="n">') + "</table>"
    )


def _whole(strike: Strike) -> str:
    return f"pool whole again after {strike.whole_s - strike.at_s:.1f} s" if isfinite(strike.whole_s) else ""


def _legend() -> str:
    keys = [("gone", "no process"), ("lasting", "fault lasts"), ("seat", "session")]
    keys += [(style, name) for (_, style), name in zip(LEVELS, LEVEL_NAMES, strict=True)]
    drawn = [
        f'<span><svg viewBox="0 0 26 12">{_filled(style, 0, 0, 26, 12)}</svg>{name}</span>' for style, name in keys
    ]
    words = "<span>| a fault strikes, with its number in the list below</span><span>✕ a session ended early</span>"
    return f'<svg width="0" height="0">{_patterns()}</svg><div class="legend">{words}{"".join(drawn)}</div>'


def _patterns() -> str:
    """The definitions of the patterns: lines on the color of the same name."""
    tiles = [
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse"><rect class="back-{name}" width="6" '
        f'height="6"/><path class="mark" d="{lines}"/></pattern>'
        for name, lines in PATTERNS.items()
    ]
    return f"<defs>{''.join(tiles)}</defs>"


def _filled(style: str, x: float, y: float, width: float, height: float, words: str = "") -> str:
    """A rectangle with a pattern, or with a color for a style without one."""
    fill = f'class="edge" fill="url(#{style})"' if style in PATTERNS else f'class="{style}"'
    title = f"<title>{escape(words)}</title>" if words else ""
    return f'<rect {fill} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}">{title}</rect>'


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
            struck = [
                (number, one) for number, one in enumerate(self._history.strikes, 1) if _victim(one.fault) == name
            ]
            for _, one in struck:
                self._strike(one)
            self._labels([(self._x(one.at_s), f"{number}", one.kind) for number, one in struck])
            self._y += ROW

    def _labels(self, marks: Sequence[tuple[float, str, str]]) -> None:
        """Write each fault's number and kind beside its line, or as much as there is room for."""
        ends = [*(x for x, _, _ in marks[1:]), WIDTH - RIGHT / 2]
        free_x = 0.0
        for (x, number, kind), end in zip(marks, ends, strict=False):
            words = f"{number} {kind}"
            if end - x < LABEL_LETTER * len(words):
                words = number
            if x >= free_x:
                self._parts.append(f'<text class="number" x="{x + 3:.1f}" y="{self._y + 11:.1f}">{words}</text>')
                free_x = x + LABEL_LETTER * len(words)

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
        for gap in found:
            style = next(style for most_s, style in LEVELS if gap.length_s <= most_s)
            words = f"session {gap.session}: {gap.length_s:.2f} s without text ({gap.kind})"
            self._bar(style, gap.from_s, gap.until_s, height, words)
            self._seconds(gap, height)
        for one in sessions:
            if one.over_s is not None and not one.whole:
                at = f'x="{self._x(one.over_s) - 4:.1f}" y="{self._y + height:.1f}"'
                title = f"<title>{escape(one.name)} ended without its end</title>"
                self._parts.append(f'<text class="end" {at}>✕{title}</text>')

    def _seconds(self, gap: Gap, height: float) -> None:
        """Write the length of a gap into its bar, if there is room."""
        words, left, right = f"{gap.length_s:.1f}", self._x(gap.from_s), self._x(gap.until_s)
        if height >= WORD_HEIGHT_MIN and right - left >= LETTER_WIDTH * len(words) + 2:
            self._parts.append(
                f'<text class="seconds" x="{left + 2:.1f}" y="{self._y + height - 2:.1f}">{words}</text>'
            )

    def _curves(self) -> None:
        live = [(at_s, float(count)) for at_s, count in live_sessions(self._history.conversations)]
        slots = [(seen.at_s, float(seen.in_use)) for seen in self._history.slots]
        self._chart("slots in use, live sessions", {"slots": slots, "sessions": live})
        names = sorted({seen.name for seen in self._history.memory}, key=_rank)
        memory = {name: [(one.at_s, one.rss_mb) for one in self._history.memory if one.name == name] for name in names}
        self._chart("memory of each process, MB", memory)

    def _chart(self, title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        shown = {name: points for name, points in curves.items() if points}
        if not shown:
            return
        self._head(title)
        most = max(value for points in shown.values() for _, value in points) or 1.0
        for mark in (0.0, most):
            at = self._height(mark, most)
            self._parts.append(f'<text class="name" x="{LEFT - 8}" y="{at + 4:.1f}">{mark:.0f}</text>')
            self._parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        for number, points in enumerate(shown.values()):
            path = "L".join(f"{self._x(at):.1f},{self._height(value, most):.1f}" for at, value in points)
            style = f'class="curve{" other" if number % 2 else ""}" stroke-dasharray="{DASHES[number % len(DASHES)]}"'
            self._parts.append(f'<path {style} d="M{path}"/>')
        self._ends({name: self._height(points[-1][1], most) for name, points in shown.items()})
        self._y += CHART + 8

    def _height(self, value: float, most: float) -> float:
        return self._y + CHART * (1 - value / most)

    def _ends(self, heights: Mapping[str, float]) -> None:
        """Write the name of each curve at its end, one below the other."""
        free_y = 0.0
        for name, height in sorted(heights.items(), key=lambda item: item[1]):
            free_y = max(height + 4, free_y)
            self._parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{free_y:.1f}">{escape(name)}</text>')
            free_y += LABEL_HEIGHT

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
        self._parts.append(_filled(style, left, self._y, max(right - left, 1.5), height, words))

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
    """The name of the fault's row: its victim, or who causes it."""
    match fault:
        case Flood() | Poison():
            return "clients"
        case BadPeer():
            return "peers"
        case JumpClock():
            return "clock"
        case _:
            return fault.name


def _rank(name: str) -> tuple[int, str]:
    order = ("supervisor", "broker", "frontend", "worker", "clients", "peers", "clock")
    return order.index(name.partition("-")[0]), name
