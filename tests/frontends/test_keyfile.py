from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from asr_frontends.access import Gate, Rules, digest
from asr_frontends.codec import Request
from asr_frontends.servers.keyfile import KeyFile
from asr_ops.key import key as key_command
from asr_proto.errors import SetupError


def write(path: Path, text: str, stamp: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(stamp, stamp))


def test_a_changed_file_takes_effect_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write(path, f"alice {digest('a')}\n", 1)
    keyfile = KeyFile(path)
    assert keyfile.keys == {digest("a"): "alice"}
    assert not keyfile.poll()
    write(path, f"bob {digest('b')}\n", 2)
    assert keyfile.poll()
    assert keyfile.keys == {digest("b"): "bob"}
    write(path, "nonsense\n", 3)
    assert not keyfile.poll()
    path.unlink()
    assert not keyfile.poll()
    assert keyfile.keys == {digest("b"): "bob"}


@pytest.mark.parametrize("content", [b"nonsense\n", b"\xff\xfe", None])
def test_an_unusable_file_is_refused_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError):
        KeyFile(path)


def test_a_client_with_a_key_of_asr_key_is_admitted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = CliRunner().invoke(key_command, ["alice", "--file", str(path)])
    assert made.exit_code == 0
    shown = made.stdout.strip()
    assert shown not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    gate = Gate(Rules(keys=KeyFile(path).keys))
    assert gate.admit(Request("/", headers={"authorization": f"Bearer {shown}"})).client.name == "alice"


@pytest.mark.parametrize("name", ["two words", "a#b", ""])
def test_asr_key_refuses_names_that_the_file_cannot_hold(name: str) -> None:
    assert CliRunner().invoke(key_command, [name]).exit_code == 2
