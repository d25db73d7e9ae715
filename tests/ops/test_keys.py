"""`asr-keys` from the command line."""

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
    """The one sentence that a failing command prints."""
    result = keys(*args)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("asr-keys: ")
    return line


def test_the_way_of_a_key() -> None:
    """Keys are made on two hosts, allowed, shown and revoked."""
    assert keys("new", "keys", "--name", "broker").exit_code == 0
    made = keys("new", "elsewhere", "--name", "worker-host-2")
    assert "elsewhere/worker-host-2.key_secret: keep it on this host" in made.stdout
    assert keys("allow", "allowed", "elsewhere/worker-host-2.key").stdout == "allowed allowed/worker-host-2.key\n"
    public = load_public(Path("allowed/worker-host-2.key"))
    assert public == load_pair(Path("elsewhere/worker-host-2.key_secret")).public
    assert keys("show", "allowed").stdout == f"{public.decode()}  allowed/worker-host-2.key\n"
    assert keys("revoke", "allowed", "worker-host-2").exit_code == 0
    assert not list(Path("allowed").iterdir())


def listed() -> set[str]:
    return {str(path.relative_to("allowed")) for path in Path("allowed").rglob("*.key")}


def test_a_key_has_a_role() -> None:
    """It keeps its role when it is replaced, and loses it only on request."""
    keys("new", "keys", "--name", "w")
    assert keys("allow", "allowed", "--role", "worker", "keys/w.key").stdout == "allowed allowed/worker/w.key\n"
    keys("new", "keys", "--name", "w", "--replace")
    assert keys("allow", "allowed", "keys/w.key").stdout == "allowed allowed/worker/w.key\n"
    assert load_public(Path("allowed/worker/w.key")) == load_public(Path("keys/w.key"))
    assert "  allowed/worker/w.key\n" in keys("show", "allowed").stdout
    keys("allow", "allowed", "--role", "frontend", "keys/w.key")
    assert listed() == {"frontend/w.key"}
    keys("allow", "allowed", "--role", "any", "keys/w.key")
    assert listed() == {"w.key"}
    assert "is not one of" in keys("allow", "allowed", "--role", "broker", "keys/w.key").stderr


def test_keys_without_a_role_get_one() -> None:
    """Those of an allow-list from before there were roles, in the list itself."""
    for name in ("a", "b"):
        keys("new", "keys", "--name", name)
    keys("allow", "allowed", "keys")
    assert keys("allow", "allowed", "--role", "worker", "allowed").exit_code == 0
    assert listed() == {"worker/a.key", "worker/b.key"}


def test_a_key_is_revoked_in_all_its_roles() -> None:
    keys("new", "keys", "--name", "w")
    for role in ("worker", "frontend"):
        Path("allowed", role).mkdir(parents=True)
        Path("allowed", role, "w.key").write_bytes(Path("keys/w.key").read_bytes())
    assert keys("allow", "allowed", "keys/w.key").stdout.count("allowed allowed/") == 2
    assert keys("revoke", "allowed", "w").stdout.count("revoked") == 2
    assert listed() == set()


def test_the_folder_of_a_role_can_be_read_by_whoever_reads_the_list() -> None:
    keys("new", "keys", "--name", "w")
    Path("allowed").mkdir()
    Path("allowed").chmod(0o755)
    keys("allow", "allowed", "--role", "worker", "keys/w.key")
    assert Path("allowed/worker").stat().st_mode == Path("allowed").stat().st_mode


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
