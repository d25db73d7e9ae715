"""The verdict of a soak: planted leaks are detected, and a steady run is clean; a short real run passes."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import uvloop

from tests.nemesis import soak as command
from tests.nemesis.soak_report import Finished, Sample, Soak, lives, picture, table, verdict

RUN_S = 1000.0


def steady(growth_mb_per_s: float = 0.0, drift_s: float = 0.0, name: str = "broker") -> Soak:
    """A run with one sample per second, and one session per second."""
    soak = Soak(slots_left=0, ended_s=RUN_S, resting={name: 30}, rested={name: 31})
    for second in range(int(RUN_S)):
        settling_mb = min(second, 50) / 10
        soak.samples.append(Sample(second, name, 1, 100 + settling_mb + second * growth_mb_per_s, 30))
        soak.finished.append(Finished(second, "native", 0.03 + second / RUN_S * drift_s, right=True))
    return soak


def test_a_steady_run_is_clean() -> None:
    """The growth of the warm-up is no leak."""
    assert list(verdict(steady())) == list(verdict(steady(), 0.0)) == []
    assert "1000 sessions ended" in table(steady())


def test_a_leak_is_detected() -> None:
    assert list(verdict(steady(growth_mb_per_s=0.02))) == ["broker (1) grew from 111.0 to 124.9 MB"]
    slow = steady(growth_mb_per_s=0.002)
    assert list(verdict(slow)) == [] and len(list(verdict(slow, 0.0))) == 1


def test_a_process_that_was_killed_has_two_lives() -> None:
    soak = steady()
    soak.samples = [one if one.at_s < 600 else replace(one, pid=2, rss_mb=one.rss_mb + 50) for one in soak.samples]
    assert [(life.pid, life.seconds) for life in lives(soak)] == [(1, 599.0), (2, 399.0)]
    assert list(verdict(soak)) == []


def test_a_life_that_is_too_short_is_not_judged() -> None:
    soak = steady(growth_mb_per_s=1.0)
    soak.samples = soak.samples[:105]
    assert lives(soak) == []


def test_descriptors_slots_drift_and_texts_are_checked() -> None:
    soak = steady(drift_s=0.2)
    soak.rested = {"broker": 33}
    soak.slots_left = None
    soak.finished[5] = replace(soak.finished[5], right=False)
    assert list(verdict(soak)) == [
        "broker has 33 descriptors at rest, 30 before the first session",
        "None slots are in use without a session",
        "the latency grew from 63 to 197 ms",
        "1 sessions have a wrong text",
    ]


@pytest.mark.parametrize("soak", [Soak(), steady()])
def test_every_run_has_a_picture(soak: Soak) -> None:
    drawn = picture(soak)
    assert drawn.startswith("<svg") and drawn.count("<polyline") == len({one.pid for one in soak.samples})


@pytest.mark.parametrize("load", [["--connects=200"], ["--hours=0.002", "--sessions=10", "--kills-per-hour=0"]])
def test_a_short_run_is_clean(load: list[str]) -> None:
    file = io.StringIO()
    soak = uvloop.run(command.run(command.parser().parse_args(load), file))
    assert list(verdict(soak)) == []
    assert not soak.failed and soak.aborted + len(soak.finished) >= 10
    names = {json.loads(line)["name"] for line in file.getvalue().splitlines()}
    assert names == {"broker-1", "broker-2", "worker-1", "worker-2", "frontend-1", "frontend-2"}
