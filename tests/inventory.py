"""`make inventory`: which of the five systems' features (tests/inventory.toml) have a test that names them.

A test names a feature in its docstring or a marker: `CAI-08`, a list `CAI-19, CAI-20`, or a range `CAI-18 to CAI-31`,
`CAI-18..31`. The command prints the features of one issue that no test names. Its exit code is 1 if there are any.

    python -m tests.inventory [ISSUE]       [dialects]
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS / "inventory.toml"
ISSUES = ("dialects", "card", "engines", "bench", "no-lost-word", "later", "claims")
ID = r"(CAI|YAP|MOO|PAR|AMI)-(\d{2})"
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
RANGE = re.compile(ID + r"(?:\s*(?:\.\.|to|-)\s*(?:\1-)?(\d{2}))?")


@dataclass(frozen=True, slots=True)
class Feature:
    """One row of the table."""

    id: str
    issues: tuple[str, ...]
    what: str
    where: str


def features(path: Path = TABLE) -> dict[str, Feature]:
    """The features of the table by their ids."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Feature(name, tuple(row["issue"].split()), row["what"], row["where"]) for name, row in rows.items()}


def named_in(text: str) -> Iterator[str]:
    """All ids in the text."""
    for system, first, last in RANGE.findall(text):
        for number in range(int(first), int(last or first) + 1):
            yield f"{system}-{number:02}"


def found_in_tests(folder: Path = TESTS) -> dict[str, set[str]]:
    """Test files by the ids that their tests name."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for text in _texts_of_tests(ast.parse(path.read_text(encoding="utf-8"))):
            for name in named_in(text):
                found.setdefault(name, set()).add(str(path.relative_to(folder)))
    return found


def _texts_of_tests(module: ast.Module) -> Iterator[str]:
    """The docstrings and markers of tests. An id in other code does not count."""
    for node in ast.walk(module):
        if isinstance(node, NAMED) and node.name.lower().startswith("test"):
            yield ast.get_docstring(node) or ""
            yield from (text for text in map(ast.unparse, node.decorator_list) if "parametrize" not in text)


def untested(issue: str, table: Mapping[str, Feature], tests: Mapping[str, set[str]]) -> list[Feature]:
    """The features of this issue that no test names."""
    return [feature for feature in table.values() if issue in feature.issues and feature.id not in tests]


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    issue = arguments[0] if arguments else "dialects"
    if issue not in ISSUES:
        print(f"no such issue: {issue} (there are {', '.join(ISSUES)})", file=sys.stderr)
        return 2
    table, tests = features(), found_in_tests()
    missing = untested(issue, table, tests)
    for feature in missing:
        print(f"{feature.id}  {feature.what}  ({feature.where})")
    wanted = sum(issue in feature.issues for feature in table.values())
    print(f"{issue}: {wanted - len(missing)} of {wanted} features have a test")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
