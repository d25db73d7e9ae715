"""`asr-keys` as people type it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asr_ops.keys import main
from asr_process.certificates import load_pair, load_public


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keys(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="asr-keys")


def refused(*args: str) -> str:
    """The one sentence."""
    result = keys(*args)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("asr-keys: ")
    return line


def test_the_way_of_a_key() -> None:
    """Made on two hosts, allowed, shown, revoked."""
    assert keys("new", "keys", "--name", "broker").exit_code == 0
    made = keys("new", "elsewhere", "--name", "worker-host-2")
    assert "elsewhere/worker-host-2.key_secret: keep it on this host" in made.stdout
    assert keys("allow", "allowed", "elsewhere/worker-host-2.key").stdout == "allowed allowed/worker-host-2.key\n"
    public = load_public(Path("allowed/worker-host-2.key"))
    assert public == load_pair(Path("elsewhere/worker-host-2.key_secret")).public
    assert keys("show", "allowed").stdout == f"{public.decode()}  allowed/worker-host-2.key\n"
    assert keys("revoke", "allowed", "worker-host-2").exit_code == 0
    assert not list(Path("allowed").iterdir())


def test_secrets_are_never_shown() -> None:
    keys("new", "keys", "--name", "broker")
    pair = load_pair(Path("keys/broker.key_secret"))
    shown = keys("show", "keys").stdout
    assert shown.count(pair.public.decode()) == 2
    assert pair.secret.decode() not in shown


def test_a_folder_of_public_keys_is_allowed_at_once() -> None:
    for name in ("a", "b"):
        keys("new", "keys", "--name", name)
    assert keys("allow", "allowed", "keys").exit_code == 0
    assert sorted(path.name for path in Path("allowed").iterdir()) == ["a.key", "b.key"]


def test_rotation_needs_to_be_asked_for() -> None:
    keys("new", "keys", "--name", "broker")
    before = load_pair(Path("keys/broker.key_secret"))
    assert "exists: --replace" in refused("new", "keys", "--name", "broker")
    assert keys("new", "keys", "--name", "broker", "--replace").exit_code == 0
    assert load_pair(Path("keys/broker.key_secret")) != before


def test_refusals() -> None:
    keys("new", "keys", "--name", "broker")
    assert "holds a secret key" in refused("allow", "allowed", "keys/broker.key_secret")
    assert "cannot read the key" in refused("allow", "allowed", "nobody.key")
    assert "cannot remove allowed/nobody.key" in refused("revoke", "allowed", "nobody")
    Path("empty").mkdir()
    assert "holds no .key file" in refused("allow", "allowed", "empty")
    Path("keys/broker.key_secret").chmod(0o640)
    assert "can be read by others" in refused("show", "keys")


@pytest.mark.parametrize("name", ["a/b", "../x", "", ".hidden", "two words"])
def test_names_are_names_of_files(name: str) -> None:
    result = keys("new", "keys", "--name", name)
    assert result.exit_code == 2
    assert "a name has letters" in result.stderr
    assert not Path("keys").exists()
