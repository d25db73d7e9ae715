"""Which signal counts, and the supervisor's order on its way to a child: the rules, then real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_process import stop_signals as module
from asr_process.stop_signals import SIGNALS, stop_signals
from asr_process.stopping import AGAIN_S, ORPHANED, Order, Request, StopRequests, parsed
from asr_process.supervised import VARIABLE

CHILD = """
import os, sys, threading
from asr_process.supervised import watch_parent

supervised = watch_parent()
if sys.argv[1] == "serving":
    supervised.serve(lambda order: os.write(1, f"{order.drain_s:g} {order.end_s:g}\\n".encode()))
os.write(1, b"started\\n")
threading.Event().wait()
"""


# ---- Signals ----


@given(st.floats(0, 1e6), st.lists(st.floats(0, 10), max_size=8))
def test_another_signal_counts_two_seconds_after_the_first(first: float, later: list[float]) -> None:
    requests = StopRequests()
    assert requests.take(first) is Request.FIRST
    for now in sorted(first + pause_s for pause_s in later):
        assert requests.take(now) is (Request.AGAIN if now - first >= AGAIN_S else Request.REPEATED)


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_process_stops_once_and_a_later_signal_ends_it(monkeypatch: pytest.MonkeyPatch, sign: signal.Signals) -> None:
    now, stops, exits = [100.0], list[str](), list[int]()
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    before = [signal.getsignal(one) for one in SIGNALS]
    with stop_signals(lambda: stops.append("stop")):
        for after_s in (0.0, 0.0, AGAIN_S - 0.01):
            now[0] = 100.0 + after_s
            signal.raise_signal(sign)
        assert (stops, exits) == (["stop"], [])
        now[0] = 100.0 + AGAIN_S
        signal.raise_signal(sign)
        assert (stops, exits) == (["stop"], [128 + sign])
    assert [signal.getsignal(one) for one in SIGNALS] == before


# ---- Orders ----


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_an_order_arrives_as_it_was_written(drain_s: float, end_s: float) -> None:
    order = parsed(Order(drain_s, end_s).line().strip())
    assert order is not None
    assert order.drain_s == pytest.approx(drain_s, abs=1e-3)
    assert order.end_s == pytest.approx(end_s, abs=1e-3)


@given(st.binary(max_size=40))
def test_no_line_raises(line: bytes) -> None:
    parsed(line)


@pytest.mark.parametrize(
    "line", [b"", b"stop", b"stop 1", b"stop 1 2 3", b"stop a b", b"stop -1 2", b"stop nan 1", b"go 1 2"]
)
def test_a_line_that_is_no_order_is_skipped(line: bytes) -> None:
    assert parsed(line) is None


class Child:
    """A process under this one, which is its supervisor."""

    def __init__(self, state: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, state],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {VARIABLE: "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.stdout.readline() == b"started\n"

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


@pytest.fixture
def serving() -> Iterator[Child]:
    child = Child("serving")
    with child.process:
        yield child
        child.process.kill()


@pytest.fixture
def starting() -> Iterator[Child]:
    child = Child("starting")
    with child.process:
        yield child
        child.process.kill()


def test_an_order_reaches_the_process_and_ends_it_when_its_time_is_over(serving: Child) -> None:
    serving.stdin.write(b"some other line\nsto")
    serving.stdin.write(b"p 0.1 0.2\n")
    assert serving.stdout.readline() == b"0.1 0.2\n"
    assert serving.process.wait(30) == 1  # this child does nothing about it


def test_the_end_of_the_supervisor_is_an_order(serving: Child) -> None:
    serving.stdin.close()
    assert serving.stdout.readline() == f"{ORPHANED.drain_s:g} {ORPHANED.end_s:g}\n".encode()
    assert ORPHANED.drain_s + ORPHANED.end_s <= 5


def test_a_process_that_does_not_serve_yet_ends_at_once(starting: Child) -> None:
    """Such as a worker that loads its model."""
    starting.stdin.write(Order(600.0, 600.0).line())
    assert starting.process.wait(30) == 0
