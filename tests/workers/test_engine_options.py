"""The options of asr-worker: those of its engine are accepted, those of other engines are refused or ignored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from asr_process import settings
from asr_proto.errors import SetupError
from asr_workers import cli
from asr_workers.engine_options import IGNORED, EngineProcess, others_options
from asr_workers.engines import registry
from asr_workers.engines.entry import Entry
from asr_workers.engines.fake import FakeConfig, FakeEngine
from asr_workers.engines.options import EngineConfig, option

Start = Callable[..., Result]


@click.command("asr-worker", cls=EngineProcess)
@click.option("--engine", default=registry.DEFAULT)
@click.option("--name")
@click.pass_context
def worker(ctx: click.Context, /, engine: str, run_dir: Path, name: str | None, **options: Any) -> None:
    """Print the values that the command received."""
    shown = " ".join(f"{option}={value}" for option, value in options.items())
    click.echo(f"{engine}: {shown} | {' '.join(ctx.meta[IGNORED])}")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run the process in an empty folder; keyword arguments are its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "CONFIG_DIRS", (Path(),))
    monkeypatch.setattr(
        "asr_process.logs.set_up", lambda *_, **__: None
    )  # the logging set-up would stay after the test

    def run(*args: str, process: click.Command = worker, **env: str) -> Result:
        return CliRunner(env={"ASR_RUN_DIR": str(tmp_path / "run"), **env}).invoke(process, args)

    return run


# ---- Options of the engine ----


def test_the_engine_s_options_with_its_defaults(start: Start) -> None:
    assert start("--engine=fake").stdout == "fake: device=cpu slots=1000 step_ms=0.0 chunk_ms=0.0 poison=False | \n"
    assert "moonshine: device=cpu slots=None threads=1 update_ms=500 " in start().stdout


@pytest.mark.parametrize("place", ["command line", "after its options", "variable", "yaml", "toml", "named file"])
def test_the_engine_may_be_named_in_every_place_of_a_setting(place: str, start: Start) -> None:
    args, env = ["--step-ms=2"], {}
    match place:
        case "command line":
            args.insert(0, "--engine=fake")
        case "after its options":
            args += ["--engine", "fake"]
        case "variable":
            env["ASR_WORKER_ENGINE"] = "fake"
        case "yaml":
            Path("config.yaml").write_text("worker: {engine: fake}")
        case "toml":
            Path("config.toml").write_text('[worker]\nengine = "fake"\n')
        case "named file":
            Path("other.toml").write_text('[worker]\nengine = "fake"\n')
            args.append("--config=other.toml")
    assert start(*args, **env).stdout.startswith("fake: device=cpu slots=1000 step_ms=2.0 ")


def test_an_engine_option_comes_from_every_place(start: Start) -> None:
    Path("config.yaml").write_text("worker: {engine: fake, step-ms: 1}")
    assert "step_ms=1.0" in start().stdout
    assert "step_ms=2.0" in start(ASR_WORKER_STEP_MS="2").stdout
    assert "step_ms=3.0" in start("--step-ms=3", ASR_WORKER_STEP_MS="2").stdout
    assert "slots=4" in start(ASR_MAX_BATCH="4").stdout


def test_its_values_are_checked(start: Start) -> None:
    """The choices are those of this engine: fp16 is one of parakeet's."""
    assert "precision=fp16" in start("--engine=parakeet", "--precision=fp16").stdout
    refused = start("--engine=fastconformer", "--precision=fp16")
    assert refused.exit_code == 2
    assert "'fp16' is not one of 'fp32', 'bf16', 'int8'" in refused.stderr
    Path("config.yaml").write_text("worker: {engine: fake, step_ms: -1}")
    assert start().stderr.startswith('asr-worker: "step_ms" in section "worker" of config.yaml: -1')


def test_an_unknown_engine_is_one_sentence(start: Start) -> None:
    sentence = "asr-worker: unknown engine 'whisper'; there are moonshine, fastconformer, parakeet, card, fake\n"
    assert start("--engine=whisper").stderr == sentence
    assert start(ASR_WORKER_ENGINE="whisper").stderr == sentence


# ---- Options of other engines ----


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--engine=fake", "--left-s=5"], "--left-s is an option of the engine parakeet, not of fake"),
        (["--left-s", "5", "--engine", "fake"], "--left-s is an option of the engine parakeet, not of fake"),
        (["--decoder=whatever"], "--decoder is an option of the engine fastconformer, not of moonshine"),
        (
            ["--engine=card", "--trust-checkpoint"],
            "--trust-checkpoint is an option of the engines fastconformer and parakeet, not of card",
        ),
        (["--no-state-resets"], "--state-resets is an option of the engine card, not of moonshine"),
        (["--rnnt-checkpoint=x"], "--rnnt-checkpoint is an option of the engine card, not of moonshine"),
    ],
)
def test_on_the_command_line_they_are_refused(args: list[str], sentence: str, start: Start) -> None:
    result = start(*args)
    assert (result.exit_code, result.stderr) == (2, f"asr-worker: {sentence}\n")


def test_a_second_name_of_others_does_not_take_the_setting_itself(start: Start) -> None:
    """--rnnt-checkpoint is card's name for --model, which parakeet has, too."""
    shown = start("--engine=parakeet", ASR_WORKER_MODEL="mine").stdout
    assert "model=mine" in shown and shown.endswith(" | \n")


def test_an_option_that_no_engine_has_is_unknown(start: Start) -> None:
    assert "No such option" in start("--engine=fake", "--color=red").stderr
    Path("config.yaml").write_text("worker: {engine: fake, atten_context: 5}")
    assert 'unknown setting in section "worker" of config.yaml: "atten_context"' in start().stderr
    Path("config.yaml").write_text("worker: {help: true}")
    assert 'unknown setting in section "worker" of config.yaml: "help"' in start().stderr


def test_one_file_serves_workers_of_several_engines(start: Start) -> None:
    Path("config.yaml").write_text("worker: {update_ms: 300, att_context: '70,6', state_resets: false, slots: 7}")
    assert start("--engine=moonshine").stdout.startswith("moonshine: device=cpu slots=7 threads=1 update_ms=300 ")
    assert "att_context=(70, 6) " in start("--engine=fastconformer").stdout
    assert start("--engine=fake").stdout.endswith(" | update_ms att_context state_resets\n")


def test_the_default_engine_does_not_check_settings_of_the_engine_that_a_file_names(start: Start) -> None:
    Path("config.yaml").write_text("worker: {engine: fake, update_ms: none, step_ms: 2}")
    assert start().stdout == "fake: device=cpu slots=1000 step_ms=2.0 chunk_ms=0.0 poison=False | update_ms\n"


def test_so_does_one_environment(start: Start) -> None:
    """Both ASR_WORKER_ names and the older systems' names. An ignored value is not checked."""
    env = {"ASR_WORKER_UPDATE_MS": "no number", "ASR_WORKER_TRUST_CHECKPOINT": "maybe", "ASR_DECODER": "ctc"}
    assert start("--engine=fake", **env).stdout.endswith(" | update_ms trust_checkpoint decoder\n")
    assert "decoder=ctc" in start("--engine=fastconformer", ASR_DECODER="ctc", ASR_WORKER_UPDATE_MS="x").stdout


def test_the_log_names_what_is_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine receives the values that the process received."""
    loaded: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **given: Any) -> None:
        loaded.append((name, given))
        raise SetupError("enough")

    monkeypatch.setattr(registry, "load", load)
    with structlog.testing.capture_logs() as logged:
        result = start("--engine=fake", "--slots=2", process=cli.main, ASR_WORKER_UPDATE_MS="300")
        start("--engine=fake", process=cli.main)
    assert result.stderr == "asr-worker: enough\n"
    assert loaded[0] == ("fake", {"device": "cpu", "slots": 2, "step_ms": 0.0, "chunk_ms": 0.0, "poison": False})
    event = "settings of other engines are ignored"
    assert logged == [{"event": event, "log_level": "info", "engine": "fake", "settings": ["update_ms"]}]


# ---- Help ----


@pytest.mark.parametrize("name", registry.ENGINES)
def test_help_shows_the_engine_s_options_and_no_others(name: str, start: Start) -> None:
    shown = start("--engine", name, "--help").stdout
    assert f"Options of the engine {name}:" in shown
    words = set(shown.replace(",", " ").split())
    own = {spelled for option in registry.find(name).options() for spelled in option.opts}
    everybodys = {
        spelled for other in registry.ENGINES for option in registry.find(other).options() for spelled in option.opts
    }
    mentioned = {"--precision", "--device"} if name == "moonshine" else set()  # in help texts
    assert own <= words
    assert (words & everybodys) - mentioned <= own
    assert "--name" in words
    others = [other for other in registry.ENGINES if other != name]
    assert f"asr-worker --engine NAME --help, where NAME is one of {', '.join(others)}." in " ".join(shown.split())


def test_completion_proposes_no_options_of_others() -> None:
    """click completes options that are not hidden."""
    others = {one.name: one.hidden for one in others_options(registry.find("fake").options())}
    assert others.keys() >= {"left_s", "decoder", "card_library", "update_ms", "model"}
    assert all(others.values())


def test_help_without_an_engine_shows_the_default_one_s(start: Start) -> None:
    assert "Options of the engine moonshine:" in start("--help").stdout
    assert "Options of the engine fake:" in start("--help", ASR_WORKER_ENGINE="fake").stdout


def test_help_needs_no_readable_config_file(start: Start) -> None:
    Path("config.yaml").write_text("worker: {")
    assert "Options of the engine moonshine:" in start("--help").stdout
    assert start("--engine=fake").stderr.startswith("asr-worker: cannot understand config.yaml")


# ---- A new engine ----


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(EngineConfig):
    color: str = option("red", "Color of the toy.", click.Choice(["red", "blue"]))


def test_a_new_engine_is_one_module_and_one_line(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its option is parsed, shown, read from every place and refused for other engines. Nothing else is changed."""
    made: list[ToyConfig] = []

    def make(config: ToyConfig) -> FakeEngine:
        made.append(config)
        return FakeEngine(FakeConfig(slots=2))

    module: Any = ModuleType("toy_engine")
    module.ENTRY = Entry(summary="a toy", config=ToyConfig, make=make)
    monkeypatch.setitem(sys.modules, "toy_engine", module)
    monkeypatch.setitem(registry.ENGINES, "toy", "toy_engine")

    assert start("--engine=toy", "--color=blue").stdout == "toy: device=cpu slots=None color=blue | \n"
    assert "color=blue" in start("--engine=toy", ASR_WORKER_COLOR="blue").stdout
    assert "Color of the toy.  [default: red]" in " ".join(start("--engine=toy", "--help").stdout.split()).replace(
        " [", "  ["
    )
    assert start("--color=red").stderr == "asr-worker: --color is an option of the engine toy, not of moonshine\n"
    Path("config.yaml").write_text("worker: {color: blue}")
    assert start("--engine=fake").stdout.endswith(" | color\n")
    assert registry.load("toy", color="blue").spec.slots == 2
    assert made == [ToyConfig(color="blue")]
