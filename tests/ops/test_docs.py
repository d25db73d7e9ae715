"""Diagrams from tables: where they are drawn, what stays unchanged, and what `--check` finds."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import pytest
from click.testing import CliRunner

from asr_ops.docs import TABLES, drawn, main
from asr_process.states import TransitionTable
from asr_proto.errors import SetupError

ROOT = Path(__file__).parents[2]


class Light(Enum):
    RED = "red"
    GREEN = "green"


class Event(Enum):
    SWITCH = "switch"


TABLE = TransitionTable("light", Light.RED, {Light.RED: {Event.SWITCH: Light.GREEN}})
EMPTY = "before\n<!-- diagram: light -->\n<!-- end -->\nafter\n"
DRAWN = """before
<!-- diagram: light -->
```mermaid
stateDiagram-v2
    [*] --> red
    red --> green: switch
    green --> [*]
```
<!-- end -->
after
"""


def test_a_table_is_drawn_between_its_markers() -> None:
    assert drawn(EMPTY, [TABLE]) == DRAWN


def test_drawing_again_changes_nothing() -> None:
    assert drawn(DRAWN, [TABLE]) == DRAWN


def test_an_older_diagram_is_replaced() -> None:
    assert drawn(DRAWN.replace("switch", "toggle"), [TABLE]) == DRAWN


def test_two_diagrams_stay_apart() -> None:
    other = TransitionTable("lamp", Light.GREEN, {Light.GREEN: {Event.SWITCH: Light.RED}})
    text = drawn(EMPTY + EMPTY.replace("light", "lamp"), [other, TABLE])
    assert (
        text
        == DRAWN + "before\n<!-- diagram: lamp -->\n```mermaid\n" + other.mermaid() + "\n```\n<!-- end -->\nafter\n"
    )


@pytest.mark.parametrize("text", ["", EMPTY + EMPTY, EMPTY.replace("light", "lamp")], ids=["none", "two", "unknown"])
def test_each_table_has_one_place(text: str) -> None:
    with pytest.raises(SetupError, match="light"):
        drawn(text, [TABLE])


def test_check_finds_a_stale_diagram_and_writes_nothing(tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    stale = "".join(f"<!-- diagram: {table.name} -->\n<!-- end -->\n" for table in TABLES)
    document.write_text(stale)
    result = CliRunner().invoke(main, [str(document), "--check"])
    assert result.exit_code == 1
    assert "make docs" in result.output
    assert document.read_text() == stale
    assert CliRunner().invoke(main, [str(document)]).exit_code == 0
    assert CliRunner().invoke(main, [str(document), "--check"]).exit_code == 0
    assert document.read_text() == drawn(stale, TABLES)


def test_the_architecture_shows_the_tables_as_they_are() -> None:
    assert CliRunner().invoke(main, [str(ROOT / "ARCHITECTURE.md"), "--check"]).exit_code == 0
