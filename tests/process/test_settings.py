"""Sources of settings, their precedence, and the form of error messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from asr_process import settings
from asr_process.settings import Address
from asr_proto.errors import SetupError


@settings.command("asr-worker")
@click.option("--slots", type=int, default=1, envvar=["OLD_SLOTS", "OLDER_SLOTS"])
@click.option("--listen", type=settings.ADDRESS, multiple=True, default=["127.0.0.1:1"])
@click.option("--broker", type=settings.ENDPOINT)
@click.option("--fail", is_flag=True)
@click.pass_obj
def worker(
    shared: settings.Shared, /, slots: int, listen: tuple[Address, ...], broker: str, *, fail: bool, run_dir: Path
) -> None:
    """A process for tests."""
    if fail:
        raise SetupError("the engine is not there")
    click.echo(f"slots={slots} listen={','.join(map(str, listen))} level={shared.log_level} run_dir={run_dir}")


Start = Callable[..., Result]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Run the process in an empty folder; keyword arguments are its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "CONFIG_DIRS", (tmp_path / "etc", Path()))
    monkeypatch.setattr("asr_process.logs.set_up", lambda *_, **__: None)  # it would outlive the test

    def run(*args: str, **env: str) -> Result:
        return CliRunner(env={"ASR_RUN_DIR": str(tmp_path / "run"), **env}).invoke(worker, args)

    yield run


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)
    return path


# ---- Precedence ----


def test_each_place_wins_over_the_next(start: Start) -> None:
    assert "slots=1 " in start().stdout
    write("config.toml", "[worker]\nslots = 2")
    assert "slots=2 " in start().stdout
    write("config.yaml", "worker: {slots: 3}")
    assert "slots=3 " in start().stdout
    assert "slots=4 " in start(ASR_WORKER_SLOTS="4").stdout
    assert "slots=5 " in start("--slots", "5", ASR_WORKER_SLOTS="4").stdout


def test_files_add_to_each_other(start: Start) -> None:
    write("config.toml", '[worker]\nslots = 2\nlog-level = "error"')
    write("config.yaml", "worker: {listen: '10.0.0.1:7'}")
    assert "slots=2 listen=10.0.0.1:7 level=error" in start().stdout


def test_a_nearer_file_wins_within_a_kind_and_yaml_over_toml(start: Start) -> None:
    write("etc/config.yaml", "worker: {slots: 2, log_level: error}")
    write("config.yaml", "worker: {slots: 3}")
    write("config.toml", '[worker]\nslots = 4\nlog_level = "debug"')
    assert "slots=3 " in start().stdout
    assert "level=error" in start().stdout


def test_named_files_replace_the_usual_ones(start: Start) -> None:
    write("config.yaml", "worker: {slots: 3, log_level: error}")
    one, two = write("one.yaml", "worker: {slots: 7}"), write("two.yml", "worker: {slots: 8}")
    assert "slots=8 listen=127.0.0.1:1 level=info" in start("--config", one, "--config", two).stdout
    assert "slots=7 " in start(ASR_CONFIG=one).stdout
    assert "slots=8 " in start(ASR_CONFIG=f"{one}{os.pathsep}{two}").stdout


def test_other_names_of_a_variable_are_read_but_our_own_wins(start: Start) -> None:
    assert "slots=6 " in start(OLDER_SLOTS="6").stdout
    assert "slots=7 " in start(OLD_SLOTS="7", OLDER_SLOTS="6").stdout
    assert "slots=8 " in start(OLD_SLOTS="7", ASR_WORKER_SLOTS="8").stdout


def test_repeatable_settings(start: Start) -> None:
    write("config.yaml", "worker: {listen: ['10.0.0.1:7', '[::1]:8']}")
    assert "listen=10.0.0.1:7,[::1]:8 " in start().stdout
    assert "listen=10.0.0.2:1,10.0.0.2:2 " in start(ASR_WORKER_LISTEN="10.0.0.2:1 10.0.0.2:2").stdout


def test_other_sections_and_empty_settings_are_left_alone(start: Start) -> None:
    write("config.yaml", "broker: {whatever: 1}\nworker:\n  slots:\n")
    assert "slots=1 " in start().stdout
    write("config.yaml", "")
    assert "slots=1 " in start().stdout


# ---- Refusals ----


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "worker: {slotz: 3}",
            'unknown setting in section "worker" of config.yaml: "slotz" (did you mean "slots"?)',
        ),
        ("wroker: {slots: 3}", 'unknown section in config.yaml: "wroker" (did you mean "worker"?)'),
        ("worker: {slots: many}", '"slots" in section "worker" of config.yaml: \'many\' is not a valid integer.'),
        ("worker: {slots: [1, 2]}", '"slots" in section "worker" of config.yaml takes a single value'),
        ("worker: [slots]", 'section "worker" in config.yaml must hold settings by name'),
        ("- worker", "config.yaml must hold sections: broker, worker, frontend, serve"),
        ("worker: {slots", "cannot understand config.yaml: "),
    ],
)
def test_a_bad_file_is_one_sentence(start: Start, text: str, sentence: str) -> None:
    write("config.yaml", text)
    result = start()
    assert result.exit_code == 2
    assert result.stderr.startswith(f"asr-worker: {sentence}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.yaml", "cannot read missing.yaml: No such file or directory"),
        ("settings.ini", "settings.ini is no config file: its name must end in .yaml or .toml"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(start: Start, name: str, sentence: str) -> None:
    result = start("--config", name)
    assert (result.exit_code, result.stderr) == (2, f"asr-worker: {sentence}\n")


def test_malformed_toml_and_bytes_that_are_no_text(start: Start) -> None:
    write("bad.toml", "[worker")
    Path("bad.yaml").write_bytes(b"\xff\xff")
    assert "cannot understand bad.toml" in start("--config", "bad.toml").stderr
    assert "cannot understand bad.yaml" in start("--config", "bad.yaml").stderr


def test_a_setup_error_of_the_process_itself(start: Start) -> None:
    result = start("--fail")
    assert (result.exit_code, result.stderr) == (2, "asr-worker: the engine is not there\n")


# ---- Addresses and endpoints ----


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "[::1]:8000", "localhost:0", "example.org:65535"])
def test_addresses(text: str) -> None:
    assert str(settings.parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "8000", ":8000", "host:", "host:x", "host:65536", "::1:8000", "host:-1", "host:²"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(SetupError, match="write HOST:PORT"):
        settings.parse_address(text)


@pytest.mark.parametrize(
    "endpoint", ["ipc:///run/x.ipc", "tcp://127.0.0.1:5555", "tcp://127.8.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"]
)
def test_endpoints_inside_this_machine(endpoint: str) -> None:
    assert settings.check_endpoint(endpoint) == settings.check_local_endpoint(endpoint) == endpoint
    assert settings.is_local(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.5:5555", "tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://[::]:1"])
def test_endpoints_that_leave_this_machine(endpoint: str) -> None:
    """`check_endpoint` accepts them; asr_process.curve checks whether they need keys."""
    assert settings.check_endpoint(endpoint) == endpoint
    assert not settings.is_local(endpoint)
    with pytest.raises(SetupError, match="leaves this machine: use ipc:// or a loopback address"):
        settings.check_local_endpoint(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("tcp://5555", "write HOST:PORT"),
        ("udp://127.0.0.1:1", "is no endpoint"),
        ("/run/x.ipc", "is no endpoint"),
        ("ipc://", "is no endpoint"),
        (f"ipc:///{'x' * 100}", "longer than 100 bytes"),
    ],
)
def test_refused_endpoints(endpoint: str, reason: str) -> None:
    with pytest.raises(SetupError, match=reason):
        settings.check_endpoint(endpoint)


def test_a_refused_endpoint_names_its_option(start: Start) -> None:
    result = start("--broker", "tcp://5555")
    assert result.exit_code == 2
    assert "Invalid value for '--broker': '5555' is no address" in result.stderr


# ---- The run directory ----


def test_the_run_directory_is_made_for_its_owner_alone(start: Start, tmp_path: Path) -> None:
    assert f"run_dir={tmp_path}/elsewhere" in start("--run-dir", "elsewhere").stdout
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o700
    assert settings.workers_endpoint(tmp_path) == f"ipc://{tmp_path}/workers.ipc"


def test_a_run_directory_that_cannot_be_used(start: Start) -> None:
    result = start("--run-dir", write("file", ""))
    assert result.exit_code == 2
    assert "as run directory: File exists" in result.stderr


def test_where_the_run_directory_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SHARED_RUN_DIR", tmp_path / "shared")
    monkeypatch.setattr(settings, "FALLBACK_PARENT", tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert settings.default_run_dir() == tmp_path / f"asr-pool-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert settings.default_run_dir() == tmp_path / "asr-pool"
    (tmp_path / "shared").mkdir()
    assert settings.default_run_dir() == tmp_path / "shared"


def test_a_fallback_that_others_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "FALLBACK_PARENT", tmp_path)
    fallback = tmp_path / f"asr-pool-{os.getuid()}"
    assert settings.prepare_run_dir(fallback) == fallback
    fallback.chmod(0o777)
    with pytest.raises(SetupError, match="another user"):
        settings.prepare_run_dir(fallback)
