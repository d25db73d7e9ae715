"""`asr-card`: which cards there are, their state, and whether they compute correctly. CAI-14, CAI-48."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asr_proto.errors import SetupError
from asr_workers.cards import card_cli
from asr_workers.cards.failure import EXIT_CODE
from asr_workers.cards.library import CardError, CardIdentity, CardLibrary, CardStatus
from tests.workers.card.card_parts import write_model


@pytest.fixture(autouse=True)
def simulator() -> None:
    try:
        CardLibrary()
    except SetupError as error:
        pytest.skip(error.detail)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("card") / "small.carm")


def asr_card(*args: object) -> Result:
    return CliRunner().invoke(card_cli.main, [str(arg) for arg in args])


def test_list() -> None:
    """One line for each card, by the number that --device takes."""
    listed = asr_card("list", "--card-options", "cards=3")
    assert listed.exit_code == 0
    assert [line.split()[:2] for line in listed.output.splitlines()] == [
        [f"card:{number}", f"simulator-{number}"] for number in range(3)
    ]


def test_a_card_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CardLibrary.identity

    def identity(library: CardLibrary, index: int) -> CardIdentity:
        if index == 1:
            raise CardError(CardStatus.LINK, "the link to card 1 is lost")
        return asked(library, index)

    monkeypatch.setattr(CardLibrary, "identity", identity)
    listed = asr_card("list", "--card-options", "cards=3")
    assert listed.exit_code == 1
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["card:0", "card:2"]
    assert listed.stderr == "card:1  the link to card 1 is lost (LINK)\n"


def test_info() -> None:
    shown = asr_card("info", "1")
    assert shown.exit_code == 0
    fields = dict(line.split(maxsplit=1) for line in shown.output.splitlines() if len(line.split()) > 1)
    assert (fields["id"], fields["is_physical"]) == ("simulator-1", "False")


def test_a_card_that_is_not_there() -> None:
    for command in (["info", "99"], ["selftest", "99", "--model", "any.carm"]):
        refused = asr_card(*command)
        assert refused.exit_code == 2
        assert "there is no card 99: 8 cards were found" in refused.output


def test_selftest(model: Path) -> None:
    passed = asr_card("selftest", "2", "--model", model)
    assert passed.exit_code == 0, passed.output
    assert passed.output.startswith("passed  simulator-2")


def test_selftest_of_a_sick_card(model: Path) -> None:
    failed = asr_card("selftest", "--model", model, "--card-options", "fault=ecc@60")
    assert failed.exit_code == EXIT_CODE
    assert "ended with ECC" in failed.output


def test_a_card_that_others_have_may_be_free_later(model: Path) -> None:
    """The exit code is that of a worker: 3, not 2."""
    card = CardLibrary().open(3)
    busy = asr_card("selftest", "3", "--model", model)
    card.close_card()
    assert busy.exit_code == EXIT_CODE
    assert busy.output == "asr-card: card 3 is open already (BUSY)\n"


def test_selftest_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.carm").write_bytes(bytes(1000))
    failed = asr_card("selftest", "--model", tmp_path / "model.carm")
    assert failed.exit_code == 2
    assert "model.carm is not a compiled card model" in failed.output


def test_a_library_that_is_none(tmp_path: Path) -> None:
    refused = asr_card("list", "--card-library", tmp_path / "adapter.so")
    assert refused.exit_code == 2
    assert "adapter.so" in refused.output


# ---- When there is none ----


def plug(devices: Path, address: str, vendor: str, device: str) -> None:
    (devices / address).mkdir(parents=True)
    (devices / address / "vendor").write_text(f"{vendor}\n")
    (devices / address / "device").write_text(f"{device}\n")


def test_the_cards_that_the_kernel_lists(tmp_path: Path) -> None:
    """CAI-48: 12ba:0069, among other devices and unreadable entries."""
    plug(tmp_path, "0000:25:00.0", "0x12ba", "0x0069")
    plug(tmp_path, "0000:26:00.0", "0x12ba", "0x0070")
    plug(tmp_path, "0000:01:00.0", "0x12ba", "0x0069")
    (tmp_path / "0000:02:00.0").mkdir()
    assert card_cli.on_bus(tmp_path) == ["0000:01:00.0", "0000:25:00.0"]
    assert card_cli.on_bus(tmp_path / "absent") == []


@pytest.mark.parametrize(("plugged", "advice"), [(False, "lspci -d 12ba:0069"), (True, "driver is loaded")])
def test_advice_when_no_card_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: bool, advice: str
) -> None:
    """CAI-48: the advice depends on whether the kernel lists a card."""
    if plugged:
        plug(tmp_path, "0000:25:00.0", "0x12ba", "0x0069")
    monkeypatch.setattr(card_cli, "PCI_DEVICES", tmp_path)
    monkeypatch.setattr(CardLibrary, "count", lambda self: 0)
    listed = asr_card("list")
    assert listed.exit_code == 1
    assert advice in listed.output
    assert ("0000:25:00.0" in listed.output) == plugged
