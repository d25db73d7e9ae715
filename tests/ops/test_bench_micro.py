"""`asr bench micro`: every part gives figures, and the broker gets the intended load. Measures no times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.bench.micro import broker, codec, costs, frontends, peers, report, workers
from asr_ops.bench.micro.command import PARTS, micro
from asr_ops.bench.micro.costs import Cost, Laps
from asr_ops.bench.statistics import spread
from asr_proto import messages as m
from asr_proto import wire

LEASE = 5 << 32


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few and short rounds."""
    for module in (costs, workers, frontends):
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(costs, "ROUND_S", 0.0)
    monkeypatch.setattr(workers, "SLOTS", (3, 40))
    monkeypatch.setattr(frontends, "SESSIONS", (3,))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_figures(part: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(micro, [part, f"--json={file}"], catch_exceptions=False)
    assert result.exit_code == 0
    assert part in result.output
    (found,) = json.loads(file.read_text()).values()
    assert len({cost["what"] for cost in found}) == len(found)
    assert all(cost["us"] >= cost["best_us"] >= 0 for cost in found)
    assert all(cost["what"].split(",")[0] in result.output for cost in found)


def test_an_unknown_part_is_refused() -> None:
    assert CliRunner().invoke(micro, ["tape"]).exit_code == 2


def test_a_core_is_shared_out() -> None:
    """20 us for each of 50 frames a second is 1 ms a second; 1,000 sessions take one core."""
    assert Cost("x", 20.0, 10.0, 50.0).cores == pytest.approx(1.0)
    laps = Laps({"x": [9.0, 1e-6, 3e-6, 2e-6]})
    assert laps.cost("x", 1.0) == Cost("x", pytest.approx(2.0), pytest.approx(1.0), 1.0)


@pytest.mark.parametrize("name", codec.NAMES)
def test_every_codec_takes_frames_and_sends_text(name: str) -> None:
    """A codec that ignores frames, or sends nothing, would seem cheap."""
    conversation = codec.conversation(name)
    events = [event for _ in range(4) for event in conversation.receive(bytes(codec.BYTES.get(name, 640)))]
    assert events
    results = codec._results()
    which = 1 if name == "caiman" else 0
    assert all(conversation.send(next(results)[which]) for _ in range(4))


# ---- The broker's load ----


@given(st.integers(1, 100), st.integers(0, m.SAMPLES_MAX))
def test_the_time_of_departure_is_in_a_valid_bundle(count: int, now_ns: int) -> None:
    leases = list(range(LEASE, LEASE + count))
    one = peers.bundle(b"W1", leases, bytes(6))
    peers.stamp(one.body, now_ns)
    first, *others = wire.decode_frames(bytes(one.body))
    assert first == m.Audio(LEASE, now_ns, bytes(6))
    assert [frame.lease for frame in others] == leases[1:]
    assert wire.decode(one.routing) == m.Bundle(b"W1", tuple(leases))
    assert peers.arrival(one.body, now_ns + 7) == peers.Arrival(count, 7)


def test_a_round_robin_serves_every_bundle_of_every_frontend() -> None:
    made = [
        [[peers.ReadyBundle(b"%d%d" % (frontend, phase), bytearray(), 1)] for phase in range(2)] for frontend in (0, 1)
    ]
    queue = peers.round_robin([*made, [[], []]])
    assert [next(queue)[1].routing for _ in range(5)] == [b"00", b"10", b"01", b"11", b"00"]


def test_a_broker_forwards_all_of_it() -> None:
    row = broker.paced(40, 0.5)
    assert row.missing == 0
    assert row.frames >= row.bundles > 0
    assert row.hop_ms is not None and row.hop_ms.p50 > 0
    fast = broker.messages(0.3)
    assert fast.missing == 0
    assert (fast.hop_ms, fast.cores_per_1000) == (None, None)
    assert fast.frames == fast.bundles > 0


def row(**changes: object) -> broker.BrokerRow:
    values = {"name": "x", "sessions": 1000, "seconds": 2.0, "frames": 800, "bundles": 100, "main_s": 1.0, "io_s": 0.5}
    values |= {"hop_ms": spread([0.25]), "late_ms": spread([0.5]), "missing": 0, "others_cores": 0.0, **changes}
    return broker.BrokerRow(**values)  # type: ignore[arg-type]


def test_the_figures_of_a_row() -> None:
    one = row()
    assert (one.frames_per_s, one.bundles_per_s, one.cores_per_1000, one.busiest) == (400.0, 50.0, 0.75, 0.5)
    assert report.warnings(one) == []
    (as_json,) = report.as_json({}, [one])["broker"]  # type: ignore[misc]
    assert as_json["cores_per_1000"] == 0.75


def test_an_unreliable_row_has_a_warning() -> None:
    assert "5 bundles late" in report.warnings(row(missing=5))[0]
    assert "left up to 20 ms late" in report.warnings(row(late_ms=spread([20.0])))[0]
    assert "noisy" in report.warnings(row(others_cores=0.5))[0]
    assert "the generator was the bottleneck" in report.warnings(row(sessions=None))[0]
    assert report.warnings(row(sessions=None, io_s=1.9)) == []
