"""The libraries that the interface's tests run against: the simulator, and a vendor's if one is given.

pytest tests/cards/test_abi.py --card-library adapter.so [--card-model base.carm] [--card-index 0] tests an adapter;
the environment variables ASR_CARD_LIBRARY, ASR_CARD_MODEL and ASR_CARD_INDEX do the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asr_proto.errors import SetupError
from asr_workers.cards import carm
from asr_workers.cards.library import Card, CardLibrary
from tests.cards import reference


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cards")
    group.addoption("--card-library", default=None, help="shared library of a card to test besides the simulator")
    group.addoption("--card-model", default=None, help="compiled model for that card (default: a small random one)")
    group.addoption("--card-index", default=None, help="which of its cards (default: 0)")


def _asked(config: pytest.Config, option: str) -> str | None:
    name = option.removeprefix("--").replace("-", "_")
    return config.getoption(name, default=None) or os.environ.get(f"ASR_{name.upper()}")


@dataclass(frozen=True, slots=True)
class Subject:
    """A library under test, with the model and card for the tests."""

    library: CardLibrary
    model: Path
    index: int = 0
    options: str = ""

    def opened(self, options: str = "") -> Card:
        """An open card with the model loaded."""
        card = self.library.open(self.index, ",".join(part for part in (self.options, options) if part))
        card.load(self.model)
        return card


@pytest.fixture(scope="session")
def simulator() -> CardLibrary:
    try:
        return CardLibrary()
    except SetupError as error:
        pytest.skip(error.detail)


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model, int8."""
    path = tmp_path_factory.mktemp("model") / "lively.carm"
    tensors = reference.random_tensors(reference.SMALL, *reference.LIVELY)
    carm.write(path, reference.SMALL, tensors, "int8", *reference.random_statistics(2), b"pieces", "random")
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        names = ["simulator", "timing"]
        names += ["vendor"] if _asked(metafunc.config, "--card-library") else []
        metafunc.parametrize("subject", names, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest, lively: Path) -> Subject:
    """The library that this run of a test checks."""
    if request.param == "vendor":
        model, index = (_asked(request.config, option) for option in ("--card-model", "--card-index"))
        library = CardLibrary(Path(str(_asked(request.config, "--card-library"))))
        return Subject(library, Path(model) if model else lively, int(index or 0))
    simulator = request.getfixturevalue("simulator")
    options = "mode=timing,capacity=40,latency_ms=2" if request.param == "timing" else "capacity=40"
    return Subject(simulator, lively, options=options)


@pytest.fixture
def card(subject: Subject) -> Iterator[Card]:
    """An open card with a model."""
    opened = subject.opened()
    yield opened
    opened.close_card()
