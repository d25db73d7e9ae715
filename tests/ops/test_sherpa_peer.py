"""The peer sherpa-onnx: its protocol and the goals by tables; the real server if it is installed. Measures no times."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from asr_dialects import client
from asr_ops.bench import audio, schedule, statistics, websocket

PEER = Path(__file__).resolve().parents[2] / "ops/bench/peers/sherpa"
sys.path.insert(0, str(PEER))  # scripts in one folder, not a package

import run  # noqa: E402
import sherpa_load  # noqa: E402
import sherpa_server  # noqa: E402
import sherpa_wire  # noqa: E402
import side_by_side  # noqa: E402
import toy_model  # noqa: E402
from side_by_side import Figures, Goal, Pair  # noqa: E402

INSTALLED = (sherpa_server.VENV / "bin" / sherpa_server.SERVER).exists()
installed = pytest.mark.skipif(not INSTALLED, reason="sherpa-onnx is not installed: make bench-peer installs it")


# ---- the wire ----


def result(text: str, *, is_final: bool = False, is_eof: bool = False) -> dict[str, Any]:
    """A message as the server sends it, without fields that are not read."""
    return {"text": text, "tokens": [], "timestamps": [], "segment": 0, "is_final": is_final, "is_eof": is_eof}


def test_samples_travel_as_float32() -> None:
    payload = sherpa_wire.payload(np.array([-32768, -1, 0, 16384, 32767], np.int16))
    assert len(payload) == 20
    assert np.frombuffer(payload, "<f4").tolist() == [-1.0, -1 / 32768, 0.0, 0.5, 32767 / 32768]


def test_both_servers_are_sent_the_same_audio() -> None:
    ours, theirs = audio.ring(audio.noise(), 100), sherpa_wire.ring(audio.noise(), 100)
    assert len(ours.wire) == len(theirs.wire)
    assert theirs.frame_samples == 1600
    header = 2 + 2 + len(websocket.MASK)
    for pcm, wire in zip(ours.pcm[:5], theirs.wire[:5], strict=True):
        unmasked = np.frombuffer(websocket.masked(wire[header:]), "<f4")
        assert np.array_equal(unmasked * 32768, pcm)


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (result("la"), client.NOTHING),
        (result("la", is_final=True), client.NOTHING),
        (result("la la", is_final=True, is_eof=True), client.Meaning("la la", final=True, ended=True)),
    ],
)
def test_a_session_is_over_with_is_eof(message: dict[str, Any], meaning: client.Meaning) -> None:
    assert sherpa_wire.read(message) == meaning


@pytest.mark.parametrize("done_first", [False, True])
def test_done_may_come_before_the_last_text(done_first: bool) -> None:
    """Under load, `Done!` arrives before the last text."""
    last = json.dumps(result("", is_final=True, is_eof=True)).encode()
    messages = [sherpa_wire.DONE, last] if done_first else [last, sherpa_wire.DONE]
    wire = b"".join(bytes([0x80 | websocket.TEXT, 126]) + len(one).to_bytes(2, "big") + one for one in messages)

    async def recognized() -> statistics.SessionRecord:
        connection = sherpa_load.SherpaConnection(sherpa_wire.DIALECT)
        connection.connection_made(Transport())
        connection.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        assert connection.takes_audio
        connection.data_received(wire)
        return connection.session

    session = asyncio.run(recognized())
    assert [text for _, text in session.finals] == [""]
    assert (session.end_s is not None, session.fault) == (True, None)


class Transport(asyncio.Transport):
    """Accepts all data and sends nothing."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ... if name == "sslcontext" else default  # so that no socket is requested

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        pass


# ---- the toy model ----


def test_the_models_metadata() -> None:
    found = toy_model.metadata(160)
    assert (found["window_size"], found["chunk_shift"], found["vocab_size"]) == ("25", "16", "3")
    assert toy_model.tokens().splitlines()[-1] == "<blk> 3"


@pytest.mark.parametrize("chunk_ms", toy_model.CHUNKS_MS)
def test_a_chunk_is_whole_encoder_frames(chunk_ms: int) -> None:
    assert int(toy_model.metadata(chunk_ms)["chunk_shift"]) % toy_model.SUBSAMPLING == 0
    assert f"end = {{1, {chunk_ms // 80}}}" in toy_model.graphs(chunk_ms)["encoder"]


def test_the_blank_always_wins() -> None:
    assert "blank = {0, 0, 0, 1}" in toy_model.graphs(160)["joiner"]


# ---- the comparison ----


def figures(scale: float = 1.0, **changed: Any) -> Figures:
    known: dict[str, Any] = {
        "served": 400,
        "faults": {},
        "final_ms_p50": 50 * scale,
        "final_ms_p95": 100 * scale,
        "final_ms_p99": 110 * scale,
        "cores": 0.5 * scale,
        "session_kb": 80 * scale,
        "lateness_ms_p99": 1.0,
        "others_cores": 0.0,
    }
    return Figures(**{**known, **changed})


def pair(sessions: int, ours: Figures, start: schedule.StartPattern = "together") -> Pair:
    return Pair(sessions, start, figures(served=sessions), replace(ours, served=sessions))


def verdicts(pairs: list[Pair], frame_ms: int = 100) -> list[bool | None]:
    return [goal.met for goal in side_by_side.goals(pairs, frame_ms)]


def test_goals_that_are_met_missed_and_not_measured() -> None:
    good, bad = figures(0.5), figures(2.0)
    assert verdicts([pair(200, good), pair(400, good)]) == [True] * 4
    assert verdicts([pair(200, bad), pair(400, bad)]) == [False] * 4
    assert verdicts([pair(400, good)]) == [None, True, True, True]
    assert verdicts([pair(400, good, "random")]) == [None] * 4
    assert verdicts([pair(400, good)], frame_ms=20) == [None, None, True, True]


def test_a_run_with_failed_sessions_meets_no_goal() -> None:
    assert verdicts([replace(pair(400, figures(0.5)), ours=figures(0.5, served=399))]) == [None] * 4


@pytest.mark.parametrize(("figure", "met"), [(60.0, True), (60.1, False)])
def test_a_limit_may_be_reached(figure: float, met: bool) -> None:
    assert Goal("x", 60.0, figure).met is met


def test_ratios_are_ours_to_the_peers() -> None:
    found = Pair(400, "together", figures(cores=0.0), figures(0.5)).ratios
    assert found == {"final_ms_p50": 0.5, "final_ms_p95": 0.5, "final_ms_p99": 0.5, "cores": None, "session_kb": 0.5}


def test_rounds_count_by_their_median() -> None:
    rounds = [figures(1.0), figures(9.0, served=399, faults={"lost": 1}), figures(2.0)]
    found = side_by_side.middle(rounds)
    assert (found.served, found.faults, found.final_ms_p95, found.cores) == (399, {"lost": 1}, 200.0, 1.0)


def test_the_table_and_the_sentences() -> None:
    good = pair(400, figures(0.5))
    disturbed = figures(served=399, faults={"late": 1}, lateness_ms_p99=11.0, others_cores=0.5)
    console = Console(width=100, record=True, file=StringIO())
    console.print(side_by_side.table([good, pair(9, figures(), "random")], "together"))
    shown = [" ".join(line.strip(" │").replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert "400 sherpa-onnx 50 100 110 0.500 80" in shown
    assert "asr-pool 25 50 55 0.250 40" in shown
    assert "ratio 0.50 0.50 0.50 0.50 0.50" in shown
    assert not any(line.startswith("9 ") for line in shown)
    assert [side_by_side.sentence(goal) for goal in side_by_side.goals([good], 100)] == [
        "final p95 ms at 200 sessions: not measured",
        "final p95 ms at 400 sessions: 50, at most 120: met",
        "cores at 400 sessions: 0.25, at most 0.5: met",
        "KB per session at 400 sessions: 40, at most 100: met",
    ]
    assert side_by_side.warnings([replace(good, ours=disturbed)]) == [
        "asr-pool, 400 sessions, together: only 399 were served; 1 x late",
        "asr-pool, 400 sessions, together: frames left 11 ms late (p99)",
        "asr-pool, 400 sessions, together: others kept 0.50 cores busy",
    ]


# ---- the command ----


@pytest.mark.parametrize("sessions", ["", "20,", "20,x", "0", "-1"])
def test_what_is_no_list_of_numbers(sessions: str) -> None:
    result = CliRunner().invoke(run.main, ["--sessions", sessions])
    assert result.exit_code == 2
    assert "--sessions" in result.output


def test_a_peer_that_is_not_installed(tmp_path: Path) -> None:
    result = CliRunner().invoke(run.main, ["--peer-venv", str(tmp_path)])
    assert result.exit_code == 2
    assert "make bench-peer" in result.output


def test_a_report_that_has_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "check", lambda _: None)
    result = CliRunner().invoke(run.main, ["--json", str(tmp_path / "none" / "peer.json")])
    assert result.exit_code == 2
    assert "no folder" in result.output


# ---- the real server ----


@installed
def test_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ["--sessions=2,3", "--duration=1", "--start=both", "--peer-arg=--num-work-threads=2", f"--json={out}"]
    result = CliRunner().invoke(run.main, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert [(pair["sessions"], pair["start"]) for pair in content["pairs"]] == [
        (2, "together"),
        (3, "together"),
        (2, "random"),
        (3, "random"),
    ]
    for pair in content["pairs"]:
        for side in (pair["peer"], pair["ours"]):
            assert side["served"] == pair["sessions"]
            assert side["final_ms_p50"] > 0
            assert side["cores"] > 0
    assert [goal["met"] for goal in content["goals"]] == [None] * 4
    assert content["settings"]["peer"] == ["sherpa-onnx==2.0.1", "sherpa-onnx-bin==2.0.1"]
    assert content["settings"]["peer_arguments"] == ["--num-work-threads=2"]


@installed
def test_a_server_that_does_not_start_gives_the_reason() -> None:
    result = CliRunner().invoke(run.main, ["--sessions=1", "--peer-arg=--no-such-option=1"])
    assert result.exit_code == 2
    assert "no-such-option" in result.output
