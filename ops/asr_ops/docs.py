"""Diagrams of the state machines: `make docs` draws each transition table into ARCHITECTURE.md.

A table named `lease` is drawn between the lines `<!-- diagram: lease -->` and `<!-- end -->`. Running it again changes
nothing. `make check` runs it with --check, so a diagram that differs from its table fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from asr_broker.leadership import LEADERSHIP
from asr_broker.peers import LEASE
from asr_frontends.session import SESSION
from asr_process.states import TransitionTable
from asr_proto.errors import SetupError
from asr_workers.session import WORKER_SESSION

Tables = Iterable[TransitionTable[Any, Any]]

TABLES: tuple[TransitionTable[Any, Any], ...] = (
    SESSION,
    LEASE,
    LEADERSHIP,
    WORKER_SESSION,
)
"""The tables that have a diagram."""

DIAGRAM = re.compile(r"(?P<start><!-- diagram: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def drawn(text: str, tables: Tables) -> str:
    """The document with the diagrams of `tables`. Raises SetupError unless each table has one place, and vice versa."""
    diagrams = {table.name: table.mermaid() for table in tables}
    places = [match["name"] for match in DIAGRAM.finditer(text)]
    if sorted(places) != sorted(diagrams):
        raise SetupError(f"the document has diagrams {sorted(places)}, the tables are {sorted(diagrams)}")
    return DIAGRAM.sub(
        lambda match: f"{match['start']}```mermaid\n{diagrams[match['name']]}\n```\n{match['end']}", text
    )


@click.command()
@click.argument("document", type=click.Path(path_type=Path, exists=True, dir_okay=False), default="ARCHITECTURE.md")
@click.option("--check", is_flag=True, help="Write nothing; exit with code 1 if a diagram differs from its table.")
def main(document: Path, check: bool) -> None:
    """Draw the transition tables into DOCUMENT (ARCHITECTURE.md)."""
    before = document.read_text(encoding="utf-8")
    try:
        after = drawn(before, TABLES)
    except SetupError as error:
        raise click.ClickException(f"{document}: {error.detail}") from error
    if not check:
        document.write_text(after, encoding="utf-8")
    elif after != before:
        click.echo(f"{document}: diagrams differ from their tables; run `make docs`", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
