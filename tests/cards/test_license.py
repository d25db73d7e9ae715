"""Licenses: issuing, reading, and rejecting with a reason. CAI-13."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from asr_proto.errors import SetupError
from asr_workers.cards import license
from asr_workers.cards.license import License, Now
from asr_workers.cards.license_cli import main

CARD = "S7T-0123456789"
TODAY = Now(date(2027, 3, 1), "1.4.2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An issuer's folder, with its secret key."""
    license.new_issuer(tmp_path, "example")
    return tmp_path


def issue(folder: Path, name: str = "one", **changes: object) -> Path:
    fields = {"card": CARD, "holder": "Example", "version_max": "", "issued": date(2027, 1, 1)}
    document = License(**{**fields, "expires": date(2027, 12, 31), **changes})  # type: ignore[arg-type]
    path = folder / f"{name}{license.SUFFIX}"
    path.write_text(document.encode(license.read_secret(folder / "example.key_secret")))
    return path


def asr_license(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


# ---- Valid licenses ----


def test_a_license_lets_its_card_serve(folder: Path) -> None:
    issue(folder)
    found = license.find(folder, CARD, TODAY)
    assert (found.card, found.holder) == (CARD, "Example")
    assert len(found.id) == 12


def test_its_last_day_counts(folder: Path) -> None:
    issue(folder, expires=TODAY.day)
    assert license.find(folder, CARD, TODAY).expires == TODAY.day


def test_the_one_that_is_good_longest_is_taken(folder: Path) -> None:
    """Of several licenses, also if others are invalid."""
    issue(folder, "a", expires=date(2027, 6, 1))
    issue(folder, "b", expires=date(2028, 6, 1))
    issue(folder, "c", card="another")
    (folder / f"d{license.SUFFIX}").write_text("?")
    assert license.find(folder, CARD, TODAY).expires == date(2028, 6, 1)


@pytest.mark.parametrize(
    ("highest", "version", "good"),
    [
        ("", "9.9", True),
        ("1.4", "1.4.9", True),
        ("1.4", "1.3.99", True),
        ("1.4", "1.5.0", False),
        ("1.4", "1.10", False),
        ("1.4", "2.0", False),
        ("1.4", "1.4.0rc1", True),
        ("2", "2.7", True),
        ("1.4.2", "1.4.3", False),
    ],
)
def test_versions(highest: str, version: str, good: bool) -> None:
    document = License(CARD, "Example", date(2027, 12, 31), highest, date(2027, 1, 1))
    if good:
        license.check(document, CARD, Now(TODAY.day, version))
        return
    with pytest.raises(SetupError, match=f"is for versions up to {highest}, and this is {version}"):
        license.check(document, CARD, Now(TODAY.day, version))


# ---- Invalid licenses ----


def refusal(folder: Path) -> str:
    with pytest.raises(SetupError) as refused:
        license.find(folder, CARD, TODAY)
    return str(refused.value)


def test_none_at_all(folder: Path) -> None:
    assert "there is no license" in refusal(folder)


def test_of_another_card(folder: Path) -> None:
    issue(folder, card="S7T-9999")
    assert "one.license is for card S7T-9999" in refusal(folder)


def test_expired(folder: Path) -> None:
    issue(folder, expires=date(2027, 2, 28))
    assert "one.license expired on 2027-02-28" in refusal(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("expires", "2099-12-31"), ("card", CARD), ("holder", "Someone"), ("version_max", "99"), ("issued", "2020-01-01")],
)
def test_changed(folder: Path, field: str, value: str) -> None:
    """After any change, the signature is wrong."""
    path = issue(folder, card=CARD if field != "card" else "another")
    document = json.loads(path.read_text())
    document[license.CONTENT][field] = value
    path.write_text(json.dumps(document))
    assert "one.license was changed, or is from another issuer" in refusal(folder)


def test_of_another_issuer(folder: Path) -> None:
    other = License(CARD, "Example", date(2027, 12, 31), "", date(2027, 1, 1))
    (folder / f"one{license.SUFFIX}").write_text(other.encode(Ed25519PrivateKey.generate()))
    assert "is from another issuer" in refusal(folder)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("license") / "one.license"
    path.write_bytes(content)
    with pytest.raises(SetupError, match="is no license"):
        license.parse(path)


def test_what_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.license"
    path.write_text("[" * 60_000)
    with pytest.raises(SetupError, match="is no license"):
        license.parse(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"expires": "soon"},
        {"expires": 5},
        {"card": 7},
        {"more": "than known"},
        {"version_max": "newest"},
        {"version_max": ".5"},
        {"version_max": "1.4rc1"},
        {"version_max": "9" * 5000},
    ],
)
def test_fields_that_cannot_be_meant(folder: Path, change: dict[str, object]) -> None:
    path = issue(folder)
    document = json.loads(path.read_text())
    document[license.CONTENT] |= change
    path.write_text(json.dumps(document))
    assert "one.license is no license" in refusal(folder)


def test_an_issuer_that_is_none(folder: Path) -> None:
    issue(folder)
    (folder / license.ISSUER).write_text("nobody")
    assert "is no public key" in refusal(folder)
    (folder / license.ISSUER).unlink()
    assert "issuer's public key" in refusal(folder)


# ---- asr-license ----


def test_without_cryptography_one_sentence_names_the_extra() -> None:
    blocked = "import sys; sys.modules['cryptography'] = None; import asr_workers.cards.license_cli"
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == "asr-license: signatures need cryptography: pip install 'asr-pool[card]'\n"


def test_issue_and_show(tmp_path: Path) -> None:
    made = asr_license("issuer", tmp_path / "keys", "--name", "example")
    assert made.exit_code == 0
    secret = tmp_path / "keys" / "example.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    dated = ("--expires", "2999-12-31")
    issued = asr_license("new", tmp_path / "keys", "--key", secret, "--card", CARD, "--holder", "Example", *dated)
    assert issued.exit_code == 0, issued.output
    shown = asr_license("show", tmp_path / "keys", "--card", CARD)
    assert shown.exit_code == 0 and CARD in shown.output and "until 2999-12-31" in shown.output
    foreign = asr_license("show", tmp_path / "keys", "--card", "another")
    assert foreign.exit_code == 1 and f"REFUSED: it is for card {CARD}" in foreign.output


def test_an_issuer_is_not_replaced(folder: Path) -> None:
    """Its licenses would become invalid."""
    again = asr_license("issuer", folder, "--name", "example")
    assert again.exit_code == 2 and "is there already" in again.output
    other = asr_license("issuer", folder, "--name", "other")
    assert other.exit_code == 2 and not (folder / "other.key_secret").exists()


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_issuer_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """A disk that is full at the first or second file: no secret key is left without its public key."""
    write, written = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SetupError, match=r"cannot be written into .*: No space left on device"):
        license.new_issuer(tmp_path, "example")
    assert not list(tmp_path.iterdir())
    license.new_issuer(tmp_path, "example")


def test_what_cannot_be_signed_with(folder: Path) -> None:
    options = ("--card", CARD, "--holder", "Example", "--expires", "2999-12-31")
    for key in (folder / license.ISSUER, folder / "absent"):
        refused = asr_license("new", folder, "--key", key, *options)
        assert refused.exit_code == 2 and str(key) in refused.output
    secret = folder / "example.key_secret"
    for version in ("newest", ".5", "1.", "1..2"):
        refused = asr_license("new", folder, "--key", secret, *options, "--version-max", version)
        assert refused.exit_code == 2 and "a version is numbers" in refused.output


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = asr_license("issuer", tmp_path / "file" / "keys", "--name", "example")
    assert refused.exit_code == 2 and "the issuer's keys cannot be written into" in refused.output
