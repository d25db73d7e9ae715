"""`asr bench`: its pure parts by tables and properties, and one small run against a real service. Measures no times."""

from __future__ import annotations

import csv
import json
import sys
from array import array
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asr_ops.bench import audio, plan, processes, report, schedule, statistics, websocket
from asr_proto.errors import AudioError, DecodeError
from tests.ops.bench_reports import FRAME, SERVED_MEASURES, ran, reported, spoken

# ---- schedule ----


@given(
    starts=st.lists(st.integers(0, 2_000_000), max_size=8),
    frames=st.integers(1, 30),
    frame_ms=st.sampled_from([20, 60, 100]),
)
def test_every_frame_leaves_once_in_order_when_it_has_been_spoken(
    starts: list[int], frames: int, frame_ms: int
) -> None:
    found = list(schedule.departures(starts, frames, frame_ms * 1000))
    assert [due_us for due_us, _, _ in found] == sorted(due_us for due_us, _, _ in found)
    assert {(session, frame): due_us for due_us, session, frame in found} == {
        (session, frame): start + (frame + 1) * frame_ms * 1000
        for session, start in enumerate(starts)
        for frame in range(frames)
    }
    assert len(found) == len(starts) * frames


def test_starts() -> None:
    assert schedule.starts_us(3, "together", 1) == [0, 0, 0]
    drawn = schedule.starts_us(1000, "random", 1)
    assert drawn == schedule.starts_us(1000, "random", 1) != schedule.starts_us(1000, "random", 2)
    assert 0 <= min(drawn) < 50_000
    assert 950_000 < max(drawn) < schedule.SPREAD_US


@pytest.mark.parametrize(("end_sample", "frame"), [(0, 0), (1, 0), (1600, 0), (1601, 1), (3200, 1), (99_999, 9)])
def test_the_frame_that_completes_some_audio(end_sample: int, frame: int) -> None:
    assert schedule.frame_holding(end_sample, FRAME, 10) == frame


# ---- websocket ----


def served(payload: bytes, opcode: int = websocket.TEXT) -> bytes:
    """A frame as a server sends it, unmasked."""
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + payload


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 65_535, 65_536])
def test_what_is_sent_is_one_masked_frame(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    encoded = websocket.encode(websocket.BINARY, payload)
    header = 2 if size < 126 else 4 if size < 65_536 else 10
    assert (encoded[0], encoded[1] & 0x80) == (0x82, 0x80)
    assert encoded[header : header + 4] == websocket.MASK
    assert websocket.masked(encoded[header + 4 :]) == payload


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_any_cut_of_the_bytes_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"HTTP/1.1 101 Switching Protocols\r\nserver: x\r\n\r\n" + b"".join(map(served, payloads))
    reader, found, at = websocket.Reader(), [], 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        found += list(reader.feed(data[at : at + size]))
        at += size
    assert reader.status == 101
    assert found == [websocket.Frame(websocket.TEXT, payload) for payload in payloads]


def test_a_refused_upgrade_has_a_status_and_no_frames() -> None:
    reader = websocket.Reader()
    assert list(reader.feed(b"HTTP/1.1 401 Unauthorized\r\n\r\n" + served(b"x"))) == []
    assert reader.status == 401


@pytest.mark.parametrize(
    "data", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n\x01\x00", b"HTTP/1.1 101 x\r\n\r\n\x81\xff" + b"\xff" * 8]
)
def test_what_no_server_of_ours_sends(data: bytes) -> None:
    with pytest.raises(DecodeError):
        list(websocket.Reader().feed(data))


# ---- audio ----


def test_a_session_sends_the_ring_from_its_entry() -> None:
    ring = audio.ring(np.arange(10, dtype=np.int16).repeat(FRAME), 100)
    assert [ring.entry(session, 4) for session in range(4)] == [0, 2, 5, 7]
    assert ring.session_samples(8, 4)[::FRAME].tolist() == [8, 9, 0, 1]
    assert websocket.masked(ring.wire[3][8:]) == np.full(FRAME, 3, "<i2").tobytes()
    assert plan.entries(ring, 4) == [0, 2, 5, 7]


def test_audio_shorter_than_a_frame() -> None:
    with pytest.raises(AudioError):
        audio.ring(np.zeros(FRAME - 1, np.int16), 100)


# ---- statistics ----


def test_the_figures_of_a_session() -> None:
    found = statistics.measure(spoken(), FRAME, "one two three")
    assert (found.outcome, found.exact) == ("served", True)
    assert found.ready_ms == pytest.approx(50)
    assert found.first_partial_ms == pytest.approx(350)
    assert found.partial_lag_ms == pytest.approx((50, 150))
    assert found.final_ms == pytest.approx(30)
    assert found.end_ms == pytest.approx(40)
    assert (found.rtf, found.xrt) == pytest.approx((1.04, 1 / 1.04))
    assert (found.partials, found.avg_partial_gap_ms) == (2, pytest.approx(300))
    assert (found.audio_s, found.began_s, found.last_sent_s) == pytest.approx((1.0, 10.0, 11.0))
    assert found.partial_at_s == (10.35, 10.65)


def test_with_no_final_missing_at_the_end_the_end_counts() -> None:
    assert statistics.measure(spoken(finals=[(10.9, "x")]), FRAME, None).final_ms == pytest.approx(40)


@pytest.mark.parametrize(
    ("changed", "expected", "outcome", "exact"),
    [
        ({}, None, "served", None),
        ({}, "one two", "served", False),
        ({"end_s": None, "fault": "session-lost"}, "one two three", "session-lost", True),
        ({"end_s": None}, None, "no end", None),
        ({"ready_s": None, "sent_s": array("d"), "fault": "at-capacity"}, "one", "at-capacity", None),
        ({"ready_s": None, "end_s": None, "partials": [], "finals": []}, None, "no end", None),
    ],
)
def test_how_a_session_fared(changed: dict[str, Any], expected: str | None, outcome: str, exact: bool | None) -> None:
    found = statistics.measure(spoken(**changed), FRAME, expected)
    assert (found.outcome, found.exact) == (outcome, exact)


def test_counts() -> None:
    sessions = [
        statistics.measure(spoken(), FRAME, "one two three"),
        statistics.measure(spoken(), FRAME, "another"),
        statistics.measure(spoken(end_s=None), FRAME, "another"),
        statistics.measure(spoken(ready_s=None, fault="at-capacity"), FRAME, None),
    ]
    assert statistics.count(sessions) == statistics.SessionCounts(sessions=4, served=2, refused=1, errors=1, lost=2)
    assert [statistics.count(part).clean for part in (sessions, sessions[:1], sessions[:2])] == [False, True, False]
    assert report.faults(sessions) == {"at-capacity": 1, "no end": 1}


def test_the_measures_over_all_sessions() -> None:
    found = statistics.overall([statistics.measure(spoken(), FRAME, None)] * 3)
    assert tuple(found) == SERVED_MEASURES
    assert (found["ready_ms"].count, found["partial_lag_ms"].count) == (3, 6)
    assert statistics.overall([]) == {}


def test_what_all_sessions_add_up_to() -> None:
    one, later = (statistics.measure(spoken(end_s=end_s), FRAME, None) for end_s in (11.04, 12.0))
    refused = statistics.measure(spoken(ready_s=None, fault="at-capacity"), FRAME, None)
    found = statistics.totals([one, later, refused])
    assert (found.audio_s, found.elapsed_s) == pytest.approx((2.0, 2.0))
    assert (found.min_per_min, found.sec_per_min) == pytest.approx((1.0, 60.0))
    assert statistics.totals([refused]) == statistics.Totals(0.0, 0.0, 0.0, 0.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_a_spread_is_ordered_and_made_of_the_values(values: list[float]) -> None:
    found = statistics.spread(values)
    assert found is not None
    ranks = [found.p50, found.p90, found.p95, found.p99, found.max]
    assert ranks == sorted(ranks)
    assert set(ranks) <= set(values)
    assert (found.count, found.max) == (len(values), max(values))
    assert found.avg == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_of_nothing_there_is_no_spread() -> None:
    assert statistics.spread([]) is None


# ---- processes ----


def snapshot(at_s: float, cpu_s: float, pss: int) -> processes.UsageSnapshot:
    return processes.UsageSnapshot(at_s, {7: processes.Sample("broker", cpu_s, 2 * pss, pss)}, cpu_s, 3 * cpu_s)


def test_usage_is_the_difference_of_snapshots() -> None:
    idle, begin, memory, end = (snapshot(*at) for at in ((0, 0, 10**6), (1, 1, 0), (2, 2, 3 * 10**6), (3, 5, 0)))
    assert processes.usage(idle, begin, memory, end, 10) == [processes.Usage("broker", 4, 2.0, 6.0, 3.0, 200.0)]
    assert processes.others_cores(begin, end) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -m asr_broker.cli --run-dir=x", "broker"),
        ("python -m asr_workers.cli --name=worker-2", "worker-2"),
        ("python -m asr_workers.witness 3", "witness"),
        ("python -m asr_frontends.cli", "frontend"),
        ("python bin/asr serve", "serve"),
    ],
)
def test_processes_are_named_after_their_command_lines(command: str, name: str) -> None:
    assert processes.role(command.split()) == name


# ---- report ----


def shown(found: report.BenchReport) -> str:
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(report.tables(found))
    return captured.get()


def test_people_see_figures_processes_and_faults() -> None:
    text = shown(reported())
    assert "1 of 1 served, 0 refused, 0 errors, 0 lost; 2 x at-capacity" in text
    assert "1.0 s of audio in 1.0 s: 58 sec/min = 0.96 min/min" in text
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")] == [
        *SERVED_MEASURES,
        *("broker", "broker", "server"),
    ]
    assert "WARNING" not in text


def test_a_service_that_is_not_ours_has_no_table_of_processes() -> None:
    assert "broker" not in shown(reported(own_service=False, others=None))


@pytest.mark.parametrize(
    ("late_ms", "others", "reasons"),
    [(1.0, 0.1, []), (1.0, None, []), (11.0, 0.1, ["bottleneck"]), (11.0, 0.5, ["bottleneck", "noisy"])],
)
def test_the_report_warns_when_it_is_not_reliable(late_ms: float, others: float | None, reasons: list[str]) -> None:
    found = report.warnings(reported(late_ms=late_ms, others=others))
    assert len(found) == len(reasons)
    assert all(word in warning for word, warning in zip(reasons, found, strict=True))


# ---- the command ----


def test_a_small_run(tmp_path: Path) -> None:
    files = (f"--json={tmp_path}/run.json", f"--history={tmp_path}/history.csv")
    result = ran("--sessions", "5", "--duration", "1", "--frame-ms", "20", *files)
    assert result.exit_code == 0, result.output
    assert "5 of 5 served, 0 refused, 0 errors, 0 lost" in result.output
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["counts"] == {"sessions": 5, "served": 5, "refused": 0, "errors": 0, "lost": 0}
    assert set(found["figures"]) == set(SERVED_MEASURES)
    assert {use["name"] for use in found["processes"]} == {"serve", "broker", "worker-1", "witness", "frontend"}
    assert [session["exact"] for session in found["sessions"]] == [True] * 5
    header, row = csv.reader((tmp_path / "history.csv").read_text().splitlines())
    assert dict(zip(header, row, strict=True))["served"] == "5"


def test_no_server_answers() -> None:
    result = ran("--url", "127.0.0.1:9", "--sessions", "2")
    assert result.exit_code == 2
    assert "asr bench: no server answers at ws://127.0.0.1:9/v1/stream" in result.output


def test_a_file_that_could_not_be_written_is_refused_before_the_bench(tmp_path: Path) -> None:
    result = ran(f"--json={tmp_path}/missing/run.json")
    assert result.exit_code == 2
    assert "missing for run.json" in result.output


def test_psutil_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = ran()
    assert result.exit_code == 2
    assert "asr bench needs psutil, of the extra 'dev'" in result.output
