"""Key files: pyzmq's format, file modes, rejected files, and what readers see during a replacement."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq.auth

from asr_process import certificates
from asr_process.certificates import load_pair, load_public, load_publics, make_pair
from asr_proto.errors import SetupError


def test_a_pair_is_a_certificate_of_pyzmq(tmp_path: Path) -> None:
    public, secret = make_pair(tmp_path / "keys", "broker")
    assert (public, secret) == (tmp_path / "keys/broker.key", tmp_path / "keys/broker.key_secret")
    pair = load_pair(secret)
    assert zmq.auth.load_certificate(secret) == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(public) == (pair.public, None)
    assert load_public(public) == pair.public
    assert len(pair.public) == len(pair.secret) == 40


def test_only_the_owner_reads_a_secret(tmp_path: Path) -> None:
    public, secret = make_pair(tmp_path / "keys", "broker")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    assert public.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in public.parent.iterdir()) == ["broker.key", "broker.key_secret"]


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    pair = load_pair(make_pair(tmp_path, "broker")[1])
    assert pair.secret.decode() not in repr(pair)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    _, secret = make_pair(tmp_path, "broker")
    secret.chmod(mode)
    with pytest.raises(SetupError, match=r"can be read by others: chmod 600 .*broker.key_secret"):
        load_pair(secret)


def test_a_pair_is_replaced_when_that_is_asked_for_only(tmp_path: Path) -> None:
    _, secret = make_pair(tmp_path, "broker")
    before = load_pair(secret)
    with pytest.raises(SetupError, match="exists: --replace"):
        make_pair(tmp_path, "broker")
    assert load_pair(secret) == before
    public, _ = make_pair(tmp_path, "broker", replace=True)
    after = load_pair(secret)
    assert after.public != before.public
    assert load_public(public) == after.public
    assert secret.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no key file"),
        ("hello", "is no key file"),
        ('public-key = "short"', "is damaged"),
        (f'public-key = "{"a" * 39}"', "is damaged"),
        (f'public-key = "{"#" * 40}"', "is damaged"),
        (f'public-key = "{"é" * 20}"', "is damaged"),
        (f'public-key = "{" " * 40}"', "is damaged"),
    ],
)
def test_files_that_are_no_keys(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "x.key"
    file.write_text(text)
    file.chmod(0o600)
    for load in (load_public, load_pair):
        with pytest.raises(SetupError, match=reason):
            load(file)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for load in (load_public, load_pair, load_publics):
        with pytest.raises(SetupError, match=r"cannot read the key .*nothing\.key"):
            load(tmp_path / "nothing.key")


def test_the_halves_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    public, secret = make_pair(tmp_path, "broker")
    public.chmod(0o600)
    with pytest.raises(SetupError, match="holds no secret key"):
        load_pair(public)
    with pytest.raises(SetupError, match=r"holds a secret key: name the \.key file"):
        load_public(secret)


def test_the_public_keys_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"holds no \.key file"):
        load_publics(tmp_path)
    keys = [load_public(make_pair(tmp_path, name)[0]) for name in ("a", "b")]
    assert load_publics(tmp_path) == keys
    assert load_publics(tmp_path / "b.key") == keys[1:]


def test_public_keys_are_copied_under_their_names(tmp_path: Path) -> None:
    public, secret = make_pair(tmp_path / "made", "worker")
    allowed = tmp_path / "allowed"
    assert certificates.copy_public(public, allowed).read_bytes() == public.read_bytes()
    with pytest.raises(SetupError, match="holds a secret key"):
        certificates.copy_public(secret, allowed)
    with pytest.raises(SetupError, match=r"must be called NAME\.key"):
        certificates.copy_public(public.rename(tmp_path / "worker.pub"), allowed)
    assert [path.name for path in allowed.iterdir()] == ["worker.key"]
