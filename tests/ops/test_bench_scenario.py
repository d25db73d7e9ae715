"""Scenario files: those that are there can be used, the command line wins, and mistakes are one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asr_ops.bench.command import bench
from tests.ops.bench_reports import ran

SCENARIOS = sorted((Path(__file__).parents[2] / "ops/bench/scenarios").glob("*.toml"))


def taken(*args: str) -> dict[str, Any]:
    """The options as the command sees them."""
    with bench.make_context("asr bench", list(args)) as ctx:
        return ctx.params


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_a_scenario_is_options(file: Path) -> None:
    found = taken(f"--scenario={file}")
    usual = taken()
    assert {name for name in usual if usual[name] != found[name]} or file.stem == "100x100ms"
    assert f"{found['sessions']}x" in f"{file.stem}x" or "x" not in file.stem


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('streams = 7\nframe-ms = 20\nserve-arg = ["--log-level=debug"]\npauses = true\n')
    found = taken("--sessions=3", f"--scenario={file}")
    assert (found["sessions"], found["frame_ms"], found["pauses"]) == (3, 20, True)
    assert found["serve_arg"] == ("--log-level=debug",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speakers = 3", "asr bench has no option --speakers"),
        ("sessions = ", "cannot parse"),
        ("sessions = 0", "--sessions"),
        (None, "cannot read"),
    ],
)
def test_mistakes(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "some.toml"
    if text is not None:
        file.write_text(text)
    result = ran(f"--scenario={file}")
    assert result.exit_code == 2
    assert said in result.output
