"""Logging, tested in a separate process: `logs.set_up` changes the whole process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

from asr_process.logs import CAUSES_MAX, LINES_MAX, REPEAT_S, Seldom, Throttle

SCRIPT = """
import logging, sys, structlog
from asr_process import logs

log = structlog.get_logger()  # before the set-up, as modules do
logs.set_up("asr-worker", level="info", output=sys.argv[1])
secret = "spoken"
log.debug("unseen")
log.info("registered", slots=8, name="two\\nlines")
logging.getLogger("uvicorn").warning("from a library")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
"""


def lines(output: str) -> list[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, output]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_json_is_one_object_per_event() -> None:
    registered, library, failed = map(json.loads, lines("json"))
    assert (registered["event"], registered["slots"], registered["name"]) == ("registered", 8, "two\nlines")
    assert {event["process"] for event in (registered, library, failed)} == {"asr-worker"}
    assert [event["level"] for event in (registered, library, failed)] == ["info", "warning", "error"]
    assert registered["timestamp"].endswith("Z")
    assert "ValueError: broken" in failed["exception"]


def test_console_is_for_people_and_never_shows_local_variables() -> None:
    registered, library, *traceback = lines("console")
    assert "registered" in registered
    assert "slots=8" in registered
    assert "from a library" in library
    assert traceback[-1] == "ValueError: broken"
    assert not any("spoken" in line for line in traceback)


def test_a_cause_is_logged_seldom() -> None:
    seldom = Seldom()
    assert seldom.line("a", 0.0) == {}
    assert seldom.line("a", REPEAT_S - 0.1) is None
    assert seldom.line("b", 1.0) == {}
    assert seldom.line("a", REPEAT_S) == {"left_out": 1}
    assert seldom.line("a", 2 * REPEAT_S) == {}


def test_a_flood_of_different_causes_does_not_fill_the_log() -> None:
    seldom = Seldom()
    assert sum(seldom.line(number, 0.001 * number) is not None for number in range(10_000)) == CAUSES_MAX
    assert seldom.line("later", REPEAT_S + 10) == {}


class Clock:
    """A clock that the test sets, and a throttle that reads it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.throttle = Throttle(lambda: self.now)

    def passes(self, msg: object, level: int = logging.ERROR, *args: object) -> logging.LogRecord | None:
        record = logging.LogRecord("x", level, "file", 1, msg, args, None)
        return record if self.throttle.filter(record) else None


def test_a_flood_of_one_error_is_throttled_and_counted() -> None:
    clock = Clock()
    passed = [clock.passes({"event": "lease lost", "lease": number}, logging.WARNING) for number in range(1000)]
    assert sum(one is not None for one in passed) == LINES_MAX
    assert clock.passes({"event": "another"}) is not None
    clock.now = REPEAT_S
    record = clock.passes({"event": "lease lost", "lease": 7}, logging.WARNING)
    assert record is not None and record.msg == {"event": "lease lost", "lease": 7, "left_out": 1000 - LINES_MAX}


def test_lines_of_libraries_are_throttled_by_their_text_without_values() -> None:
    clock = Clock()
    passed = [clock.passes("connection %d failed\ndetails", logging.ERROR, number) for number in range(50)]
    assert sum(one is not None for one in passed) == LINES_MAX
    clock.now = REPEAT_S
    record = clock.passes("connection %d failed\ndetails", logging.ERROR, 7)
    assert record is not None and record.getMessage() == "connection 7 failed\ndetails (left out: 30)"


def test_lines_that_only_inform_are_not_throttled() -> None:
    clock = Clock()
    assert all(clock.passes({"event": "registered"}, logging.INFO) for _ in range(1000))
