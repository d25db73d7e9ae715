"""All decision records have the same form: number, title, date, status, context, decision, consequences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "ops/adr"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
FORM = re.compile(
    r"# (\d+)\. [^\n]+\n\n"
    r"- Date: \d{4}-\d\d-\d\d\n- Status: (accepted|superseded by \[ADR \d+\]\(\d{4}-[a-z0-9-]+\.md\))\n\n"
    r"## Context\n\n.+\n\n## Decision\n\n.+\n\n## Consequences\n\n.+\n",
    re.DOTALL,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_has_the_form(record: Path) -> None:
    found = FORM.fullmatch(record.read_text(encoding="utf-8"))
    assert found is not None
    assert int(found.group(1)) == int(record.name[:4])


def test_numbers_are_used_once() -> None:
    numbers = [record.name[:4] for record in RECORDS]
    assert numbers and len(set(numbers)) == len(numbers)
