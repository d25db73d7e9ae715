"""The peer moonshine-voice: its arithmetic by tables, and the input of our side. Measures no times."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from asr_proto.errors import SetupError

PEER = Path(__file__).resolve().parents[2] / "ops/bench/peers/moonshine_voice"
sys.path.append(str(PEER))  # scripts in one folder, not a package

import ours  # noqa: E402
import side  # noqa: E402
import speech  # noqa: E402

COSTS = {
    side.PEER: [side.Cost(80, 16, 120, 25), side.Cost(80, 20, 120, 25), side.Cost(80, 40, 120, 25)],
    side.ENGINE: [side.Cost(160, 16, 240, 30)],
    side.PEER_LEAN: [side.Cost(80, 8)],
    side.SERVICE: [side.Cost(160, 32, 236)],
}


def test_ratios_are_of_sessions_per_core_and_of_medians() -> None:
    peer, engine, lean, service = side.rows(COSTS)
    assert (peer.per_s, peer.per_s_min, peer.per_s_max, peer.rounds) == (0.25, 0.2, 0.5, 3)
    assert peer.sessions_per_core == 4
    assert [row.ratio for row in (peer, engine, lean, service)] == [1, 2.5, 2.5, 1.25]
    assert [row.ratio_lean for row in (peer, engine, lean, service)] == pytest.approx([0.4, 1, 1, 0.5])
    assert (peer.partials_per_s, service.partials_per_s, lean.partials_per_s) == (1.5, 1.475, None)


def test_the_verdict_is_the_services_where_there_is_one() -> None:
    assert side.verdict(side.rows(COSTS)).startswith("goal NOT met: our service has 1.25")
    alone = {name: costs for name, costs in COSTS.items() if name != side.SERVICE}
    assert side.verdict(side.rows(alone)).startswith("goal met: our engine has 2.50")


def test_a_service_that_gave_fewer_partials_does_not_count() -> None:
    found = side.verdict(side.rows({**COSTS, side.SERVICE: [side.Cost(160, 8, 200)]}))
    assert found.startswith("goal met: our engine has 2.50") and found.endswith("fewer partials")


def test_people_and_programs_see_every_row() -> None:
    found = side.rows(COSTS)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(side.table(found))
    assert all(name in shown.get() for name in COSTS)
    content: Any = side.as_json(found, COSTS)
    assert [row["name"] for row in content["rows"]] == list(COSTS)
    assert [run["per_s"] for run in content["runs"][side.PEER]] == [0.2, 0.25, 0.5]


def test_the_services_cost_is_in_the_benchs_figures() -> None:
    processes = [{"name": "frontend-1", "cpu_s": 1.0}, {"name": "worker-1", "cpu_s": 6.0}, {"name": "x", "cpu_s": 1.0}]
    figures = {"partial_lag_ms": {"count": 120}}
    bench = {"settings": {"sessions": 8, "duration_s": 10.0}, "processes": processes, "figures": figures}
    worker, everything = side.service_costs(bench)
    assert (worker.per_s, everything.per_s, everything.partials) == (0.075, 0.1, 120)


def test_each_slot_gets_its_share_from_another_place_in_the_order_of_time() -> None:
    expected = np.arange(4000, dtype=np.int16)
    found = ours.chunks(expected, 2, 3000, 1024)
    assert all(one.deadline_s <= other.deadline_s for one, other in pairwise(found))
    for slot, first in ((0, 0), (1, 2000)):
        mine = [chunk for chunk in found if chunk.slot == slot]
        assert [chunk.flush for chunk in mine] == [False, False, True]
        assert (np.concatenate([chunk.pcm for chunk in mine]) == np.roll(expected, -first)[:3000]).all()


def test_what_is_spoken() -> None:
    found = speech.paths(None)
    assert [path.name for path in found].count("two_cities.wav") == 1 and len(found) > 10
    assert len(speech.paths(speech.DATA)) == len(found) - 1
    assert len(speech.ring(found[-2:], 2.0)) == 32_000
    with pytest.raises(SetupError):
        speech.ring([], 2.0)
