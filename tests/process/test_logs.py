"""Logging, tested in a separate process: `logs.set_up` changes the whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from asr_process.logs import CAUSES_MAX, REPEAT_S, Seldom

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
    assert seldom.due("a", 0.0)
    assert not seldom.due("a", REPEAT_S - 0.1)
    assert seldom.due("b", 1.0)
    assert seldom.due("a", REPEAT_S)


def test_a_flood_of_different_causes_does_not_fill_the_log() -> None:
    seldom = Seldom()
    assert sum(seldom.due(number, 0.001 * number) for number in range(10_000)) == CAUSES_MAX
    assert seldom.due("later", REPEAT_S + 10)
