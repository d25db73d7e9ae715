"""The inventory of the five systems' features, and how tests name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inventory import ISSUES, Feature, features, found_in_tests, main, named_in, untested

COUNTS = {"CAI": 50, "YAP": 26, "MOO": 24, "PAR": 22, "AMI": 33}
ROOT = Path(__file__).parents[2]


def test_every_feature_has_an_issue() -> None:
    table = features()
    assert list(table) == [
        f"{system}-{number:02}" for system, count in COUNTS.items() for number in range(1, count + 1)
    ]
    assert {issue for feature in table.values() for issue in feature.issues} == set(ISSUES)


def test_every_place_exists() -> None:
    missing = [
        feature for feature in features().values() if feature.where != "-" and not (ROOT / feature.where).exists()
    ]
    assert not missing


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("CAI-19, CAI-20", ["CAI-19", "CAI-20"]),
        ("CAI-18 to CAI-20", ["CAI-18", "CAI-19", "CAI-20"]),
        ("(YAP-09..11, 25)", ["YAP-09", "YAP-10", "YAP-11"]),
        ("CAI-01, YAP-02", ["CAI-01", "YAP-02"]),
        ("nothing", []),
    ],
)
def test_names_in_a_docstring(text: str, names: list[str]) -> None:
    assert list(named_in(text)) == names


def test_what_no_test_names() -> None:
    table = {name: Feature(name, ("card",), "", "-") for name in ("CAI-02", "CAI-03")}
    assert [feature.id for feature in untested("card", table, {"CAI-02": {"test_card.py"}})] == ["CAI-03"]
    assert untested("bench", table, {}) == []


SOURCE = '''
"""YAP-01: about the module."""

@pytest.mark.feature("YAP-02")
@pytest.mark.parametrize("name", ["YAP-03"])
def test_one():
    """YAP-04."""

class TestTwo:
    """YAP-05."""

def helper():
    """YAP-06."""
'''


def test_tests_are_found_by_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text(SOURCE)
    assert found_in_tests(tmp_path) == {name: {"test_one.py"} for name in ("YAP-02", "YAP-04", "YAP-05")}


def test_an_unknown_issue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lunch"]) == 2
    assert "no such issue: lunch" in capsys.readouterr().err
