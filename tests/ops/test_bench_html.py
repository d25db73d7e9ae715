"""The drawn report: a page that stands alone, whatever the run was like, and axes that hold every value."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.bench import axes, charts, html, report, search, statistics, timeline
from asr_ops.bench.charts import Series
from asr_ops.bench.plan import Aside
from tests.ops.bench_reports import FRAME, reported, spoken

VOID = {"meta"}
points = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e6)), min_size=1, max_size=50)


class Parsed(HTMLParser):
    """Raises AssertionError unless every element is closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.words = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "style"} & {name for name, _ in attrs} and not any(
            name.startswith("on") for name, _ in attrs
        )
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def content(found: report.BenchReport | None = None) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(report.as_json(found or reported())))
    return made


# ---- the page ----


def test_the_page_shows_figures_charts_and_circumstances() -> None:
    page = html.page(content(reported(others=0.5)))
    parsed = Parsed(page)
    assert parsed.seen.count("svg") == 4
    for words in ("1 of 1", "partial_lag_ms", "broker", "the machine is noisy", "ws://here", "2 x at-capacity", "a, b"):
        assert words in parsed.words, words
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert not {"script", "link", "img", "iframe"} & set(parsed.seen)


def test_the_title_says_what_is_not_as_usual() -> None:
    usual = reported()
    unusual = replace(usual, settings=replace(usual.settings, dialect="yap", shape="flood of 2"))
    load = "1 sessions of 1 s in frames of 100 ms, starting at random"
    assert [content(one)["title"] for one in (usual, unusual)] == [f"fake: {load}", f"fake, yap: {load}, flood of 2"]


def test_what_others_wrote_is_escaped() -> None:
    evil = '<script>alert("&")</script>'
    made = content()
    made["machine"]["cpu"] = made["title"] = made["settings"]["audio"] = evil
    made["faults"], made["warnings"] = {evil: 1}, [evil]
    made["processes"][0]["name"] = made["sessions"][0]["outcome"] = evil
    parsed = Parsed(html.page(made))
    assert "script" not in parsed.seen
    assert parsed.words.count(evil) == 9  # the title and the processor twice


def test_a_run_in_which_nobody_was_served() -> None:
    refused = statistics.measure(spoken(ready_s=None, fault="at-capacity"), FRAME, None)
    nobody = replace(
        reported(own_service=False, others=None),
        figures={},
        sessions=[refused],
        counts=statistics.count([refused]),
        generator=report.Generator(None, 0.1),
    )
    parsed = Parsed(html.page(content(nobody)))
    assert "svg" not in parsed.seen
    assert "0 of 1" in parsed.words
    Parsed(html.page(content(replace(nobody, sessions=[]))))


def test_the_slowest_sessions_come_first_and_the_refused_before_them() -> None:
    ends = [11.04 + number / 100 for number in range(30)]
    sessions = [statistics.measure(spoken(end_s=end_s, finals=[]), FRAME, None) for end_s in ends]
    sessions[3] = statistics.measure(spoken(ready_s=None, fault="at-capacity"), FRAME, None)
    page = html.page(content(replace(reported(), sessions=sessions)))
    section = page.partition("The slowest sessions")[2].partition("</section>")[0]
    assert re.findall(r"<tr><td>(\d+)", section) == ["3", *map(str, range(29, 10, -1))]


def test_steps_are_a_table_and_a_chart() -> None:
    passed = search.SearchStep(100, True, 9.0, None, "", False)
    failed = search.SearchStep(400, False, None, None, "3 refused", True)
    parsed = Parsed(html.page(content() | {"steps": [asdict(passed), asdict(failed)]}))
    assert parsed.seen.count("svg") == 5
    assert "did not pass" in parsed.words
    assert "3 refused" in parsed.words


def test_those_who_disturb_are_counted_apart() -> None:
    assert "Disturbances" not in html.page(content())
    disturbed = replace(reported(), asides={"churn": Aside(7, Counter({"at-capacity": 3}), 1.5)})
    words = Parsed(html.page(content(disturbed))).words
    assert all(word in words for word in ("Disturbances", "churn", "3 x at-capacity"))


# ---- charts ----


def drawn(svg: str) -> list[float]:
    """Every place named in a chart that must lie within it."""
    paths = [path.get("d", "") for path in ElementTree.fromstring(svg).iter("path")]
    return [
        float(number) for path in paths for pair in re.findall(r"[ML]([\d.,-]+)", path) for number in pair.split(",")
    ]


@given(points)
def test_no_chart_leaves_its_frame(found: list[timeline.Point]) -> None:
    series = Series("<a&b>", "s0", found)
    end_s = max(at_s for at_s, _ in found)
    for svg in (
        charts.distributions([series, series]),
        charts.over_time(series, end_s),
        charts.by_sessions([series, Series("none", "s1", [])], [end_s]),
    ):
        assert all(0 <= place <= charts.WIDTH for place in drawn(svg))


def test_a_distribution_rises_to_all() -> None:
    svg = charts.distributions([Series("x", "s0", [(0.0, ms) for ms in (1, 10, 100)])])
    curve = next(path for path in ElementTree.fromstring(svg).iter("path") if path.get("class") == "curve s0")
    corners = [tuple(map(float, pair.split(","))) for pair in curve.attrib["d"][1:].split("L")]
    assert corners == sorted(corners, key=lambda corner: (corner[0], -corner[1]))
    assert corners[0][1] == charts.HEIGHT - charts.BOTTOM
    assert corners[-1][1] == charts.TOP


# ---- axes ----


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_all_values(values: list[float]) -> None:
    axis = axes.logarithmic("ms", values)
    assert axis.low <= max(min(values), axes.LATENCY_MS_MIN)
    assert max(values) < axis.high
    assert 1 <= len(axis.marks) <= 2 * axes.MARKS_MAX
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1


@given(st.floats(0, 1e7))
def test_a_linear_axis_holds_the_highest(highest: float) -> None:
    axis = axes.linear("ms", highest)
    assert 2 <= len(axis.marks) <= axes.MARKS_MAX + 2
    assert highest <= axis.high * 1.001
    assert (axis.place(0), axis.place(axis.high), axis.place(2 * axis.high)) == (0, 1, 1)


@pytest.mark.parametrize(
    ("highest", "marks"), [(0, [0, 0.2]), (6, [0, 1, 2, 3, 4, 5, 6]), (108, [0, 20, 40, 60, 80, 100, 120])]
)
def test_marks_are_round(highest: float, marks: list[float]) -> None:
    assert list(axes.linear("ms", highest).marks) == pytest.approx(marks)


# ---- timeline ----


def test_moments_count_from_the_first_session_on() -> None:
    later = spoken(ready_s=None, fault="at-capacity")
    found = timeline.timeline([statistics.measure(session, FRAME, None) for session in (spoken(), later)])
    assert found == {
        "first_partial_ms": [(0.35, 350.0)],
        "partial_lag_ms": [(0.35, 50.0), (0.65, 150.0)],
        "final_ms": [(1.03, 30.0)],
    }
    assert timeline.timeline([]) == {}


@given(found=points, points_max=st.integers(1, 60))
def test_what_is_left_of_many_points(found: list[timeline.Point], points_max: int) -> None:
    left = timeline.thinned(found, points_max)
    assert left == sorted(left)
    assert len(left) <= points_max
    assert set(left) <= set(found)
    assert max(ms for _, ms in left) == max(ms for _, ms in found)
    assert len(left) == len(found) or len(left) * 2 > min(points_max, len(found)) - 1
    assert left == timeline.thinned(found[::-1], points_max)
