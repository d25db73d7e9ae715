"""Variables of the five systems: what they mean for our processes, and where they stand among the other sources."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from asr_compat.aliases import ALIASES, PROCESSES, aliases, environment_of, main, sections, to_toml, to_yaml
from asr_process import settings
from asr_proto.errors import SetupError

DOCUMENT = Path(__file__).parents[2] / "ops/compat/environment.md"
MODULES = {
    "broker": ("asr_broker.cli", "main"),
    "worker": ("asr_workers.cli", "main"),
    "frontend": ("asr_frontends.cli", "main"),
    "serve": ("asr_ops.serve", "serve"),
}


def values(process: str, **environment: str) -> dict[str, Any]:
    return {option: given.value for option, given in aliases(process, environment).items()}


# ---- Where clients connect ----


@pytest.mark.parametrize(
    ("environment", "listen"),
    [
        ({"ASR_HOST": "10.0.0.1", "ASR_PORT": "8080"}, ["10.0.0.1:8080"]),
        ({"ASR_PORT": "8080"}, ["0.0.0.0:8080"]),
        ({"ASR_HOST": "::1"}, ["[::1]:8000"]),
        ({"AMIRA_SERVER_HOST": "0.0.0.0"}, ["0.0.0.0:8057"]),
        ({"SERVER_PORT": "1", "AMIRA_SERVER_PORT": "2", "SERVER_HOST": "h"}, ["h:2"]),
        ({"ASR_PORT": "8000", "AMIRA_SERVER_PORT": "8057"}, ["0.0.0.0:8000", "0.0.0.0:8057"]),
        ({"ASR_PORT": "8000", "SERVER_PORT": "8000"}, ["0.0.0.0:8000"]),
    ],
)
def test_hosts_and_ports(environment: dict[str, str], listen: list[str]) -> None:
    """YAP-01, YAP-02, MOO-08, AMI-01, AMI-09: two variables become an address; every old port is served."""
    assert values("serve", **environment) == {"listen": listen}
    assert values("frontend", **environment)["listen"] == listen
    assert values("worker", **environment) == values("broker", **environment) == {}


def test_what_is_not_set_or_empty_says_nothing() -> None:
    for process in PROCESSES:
        assert values(process, HOME="/root", ASR_HOST="", ASR_DEVICE="") == {}


# ---- The other variables ----


def test_amira_s_limits() -> None:
    """AMI-10, AMI-13, AMI-15: by the names of its document."""
    given = values(
        "frontend",
        AMIRA_MAX_CONCURRENT_STREAMS="50",
        AMIRA_MAX_CONCURRENT_BATCHES="200",
        AMIRA_MAX_BATCH_AUDIO_LENGTH_SECS="20.0",
        AMIRA_MAX_REQUEST_SIZE="1000",
        AMIRA_STREAM_TIMEOUT_SECS="15",
        AMIRA_AUDIO_BUFFER_CAPACITY="1048576",
    )
    assert given == {
        "amira_streams_max": "50",
        "amira_batches_max": "200",
        "amira_batch_s_max": "20.0",
        "amira_request_bytes_max": "1000",
        "idle_s": "15",
        "credit_s": "32.768",
    }


def test_the_first_name_of_the_webrtc_path_wins() -> None:
    """MOO-01, MOO-08: both are read (decision 4)."""
    assert values("frontend", WEBRTC_OFFER_PATH="/a") == {"webrtc_path": "/a"}
    assert values("frontend", WEBRTC_OFFER_PATH="/a", ASR_WEBRTC_PATH="/b") == {"webrtc_path": "/b"}


def test_a_worker_s_device_and_slots() -> None:
    """YAP-06, YAP-08."""
    assert values("worker", ASR_DEVICE="cuda:0", ASR_MAX_BATCH="96") == {"device": "cuda:0", "slots": "96"}


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"ASR_MODEL": "m", "MOONSHINE_MODEL_ID": "other"}, {"model": "m"}),
        ({"MOONSHINE_MODEL_ID": "m"}, {"model": "m"}),
        ({"ASR_ATT_CTX": "70,13", "ASR_DECODER": "ctc"}, {"att_context": "70,13", "decoder": "ctc"}),
        ({"ASR_ATT_CTX": "wide"}, {}),
        ({"MOONSHINE_PRECISION": "bf16"}, {"precision": "bf16"}),
        ({"MOONSHINE_PRECISION": "fp8"}, {"precision": "fp16"}),
        ({"MAX_BATCH_SIZE": "8", "MAX_BATCH_WAIT_MS": "20"}, {"batch_size_max": "8", "batch_wait_ms": "20"}),
        ({"STEP_MS": "240", "RIGHT_CONTEXT_MS": "160"}, {"chunk_s": "0.24", "right_s": "0.16"}),
        ({"ASR_STEP_MS": "20", "MAX_INFLIGHT_STEPS": "4", "MAX_BUFFER_SECONDS": "120"}, {}),
    ],
)
def test_the_engines_settings(environment: dict[str, str], settings: dict[str, str]) -> None:
    """YAP-03..05, YAP-07, MOO-09..12, PAR-06; what is malformed is the default, as it was there (MOO-10, YAP-04)."""
    assert values("worker", **environment) == settings


def test_milliseconds_that_are_none() -> None:
    with pytest.raises(SetupError, match="STEP_MS: 'short' is not a number of milliseconds"):
        values("worker", STEP_MS="short")


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({"ASR_LOG_LEVEL": "INFO"}, "info"),
        ({"RUST_LOG": "info,amira_rust_asr_server=debug"}, "info"),
        ({"RUST_LOG": "trace"}, "debug"),
        ({"RUST_LOG": "warn", "ASR_LOG_LEVEL": "DEBUG"}, "debug"),
        ({"RUST_LOG": "hyper=debug"}, None),
        ({"RUST_LOG": "hyper"}, None),
    ],
)
def test_levels(environment: dict[str, str], level: str | None) -> None:
    """RUST_LOG is also set for other programs: what it does not say about everything is not for us."""
    for process in PROCESSES:
        assert values(process, **environment).get("log_level") == level


def test_bytes_that_are_none() -> None:
    with pytest.raises(SetupError, match="AMIRA_AUDIO_BUFFER_CAPACITY: '1 MB' is not a number of bytes"):
        values("frontend", AMIRA_AUDIO_BUFFER_CAPACITY="1 MB")


# ---- AMIRA's file ----


@pytest.mark.parametrize(
    ("name", "text"),
    [("amira.toml", "server_port = 9000\nmax_concurrent_streams = 4\nenable_cors = true"),
     ("amira.yaml", "server_port: 9000\nmax_concurrent_streams: 4\nvocabulary_path:")],
)  # fmt: skip
def test_a_file_in_amira_s_form(name: str, text: str, tmp_path: Path) -> None:
    """AMI-09, AMI-11: AMIRA_CONFIG_FILE, beneath the variables."""
    (tmp_path / name).write_text(text)
    environ = {"AMIRA_CONFIG_FILE": str(tmp_path / name)}
    found = values("frontend", **environment_of(environ))
    assert found.pop("origin", "*") == "*"
    assert found == {"listen": ["0.0.0.0:9000"], "amira_streams_max": "4"}
    for variable in ("AMIRA_SERVER_PORT", "SERVER_PORT"):
        assert values("serve", **environment_of(environ | {variable: "1"})) == {"listen": ["0.0.0.0:1"]}
    assert environment_of({"HOME": "/"}) == {"HOME": "/"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("frontend: {listen: 1}", "has sections"), ("- 1", "has sections"), ("{", "cannot parse")],
)
def test_a_file_in_another_form(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "amira.yaml").write_text(text)
    with pytest.raises(SetupError, match=sentence):
        environment_of({"AMIRA_CONFIG_FILE": str(tmp_path / "amira.yaml")})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"AMIRA_CONFIG_FILE: cannot read .*: No such file"):
        environment_of({"AMIRA_CONFIG_FILE": str(tmp_path / "none.toml")})


# ---- As a config file ----


ENVIRON = {"ASR_PORT": "8080", "ASR_DEVICE": 'cuda:"0"', "AMIRA_MAX_REQUEST_SIZE": "5"}


def test_the_environment_as_a_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    """AMI-12: both forms say the same, and each process finds its section."""
    expected = sections(ENVIRON)
    assert expected["worker"] == {"device": 'cuda:"0"'}
    assert tomllib.loads(to_toml(expected)) == yaml.safe_load(to_yaml(expected)) == expected
    assert main(["toml"], ENVIRON) == 0
    assert tomllib.loads(capsys.readouterr().out) == expected
    assert main([], ENVIRON) == 0
    assert yaml.safe_load(capsys.readouterr().out) == expected
    assert main([], {}) == 0
    assert capsys.readouterr().out == ""


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ini"], {}) == 2
    assert main([], {"AMIRA_CONFIG_FILE": "/none.toml"}) == 2
    usage, refusal = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ")
    assert refusal.startswith("AMIRA_CONFIG_FILE: cannot read")


# ---- Against the rest ----


def test_every_option_that_is_meant_exists() -> None:
    """An alias of an option that nobody has would be dropped silently."""
    for alias in ALIASES:
        for process in alias.processes:
            module, name = MODULES[process]
            command = getattr(importlib.import_module(module), name)
            assert alias.option in {param.name for param in command.get_params(click.Context(command))}, alias


def test_every_variable_is_explained() -> None:
    """YAP-22, AMI-14, AMI-16: the document has a line for each variable, those without a meaning here too."""
    explained = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", DOCUMENT.read_text()))
    assert {variable for alias in ALIASES for variable in alias.variables} <= explained
    named = "ASR_HOST ASR_PORT SERVER_HOST AMIRA_SERVER_PORT AMIRA_CONFIG_FILE ASR_MODEL ASR_ATT_CTX STEP_MS HF_HOME"
    assert set(named.split()) <= explained


# ---- Precedence ----


@settings.command("asr-worker")
@click.option("--slots", type=int, default=1)
def worker(slots: int, run_dir: Path) -> None:
    """A process for tests."""
    click.echo(f"slots={slots}")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if not hasattr(settings, "aliases"):
        pytest.skip("the processes do not read the older variables yet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "CONFIG_DIRS", (Path(),))
    monkeypatch.setattr("asr_process.logs.set_up", lambda *_, **__: None)

    def run(*args: str, **env: str) -> Result:
        return CliRunner(env={"ASR_RUN_DIR": str(tmp_path / "run"), **env}).invoke(worker, args)

    return run


def test_older_variables_stand_between_ours_and_the_files(start: Any) -> None:
    """AMI-09: environment > config.yaml > config.toml > defaults."""
    Path("config.toml").write_text("[worker]\nslots = 2")
    assert "slots=2" in start().stdout
    Path("config.yaml").write_text("worker: {slots: 3}")
    assert "slots=3" in start().stdout
    assert "slots=4" in start(ASR_MAX_BATCH="4").stdout
    assert "slots=5" in start(ASR_MAX_BATCH="4", ASR_WORKER_SLOTS="5").stdout
    assert "slots=6" in start("--slots", "6", ASR_MAX_BATCH="4", ASR_WORKER_SLOTS="5").stdout


def test_an_option_that_a_process_lacks_is_left_alone(start: Any) -> None:
    assert "slots=1" in start(ASR_DEVICE="cuda:0").stdout


def test_a_bad_value_names_its_variable(start: Any) -> None:
    result = start(ASR_MAX_BATCH="many")
    assert result.exit_code == 2
    assert result.stderr == "asr-worker: ASR_MAX_BATCH: 'many' is not a valid integer.\n"


def test_cors_is_off_unless_asked_for() -> None:
    """AMI-15"""
    assert aliases("frontend", {"AMIRA_ENABLE_CORS": "true"})["origin"].value == "*"
    assert "origin" not in aliases("frontend", {"AMIRA_ENABLE_CORS": "false"})
    assert "origin" not in aliases("frontend", {})
