"""Encoder and decoder of a Parakeet-TDT checkpoint for windows of audio. Knows nothing of sessions, slots or text.

NeMo's modules are built one by one from the checkpoint's configuration. Classes that the configuration names, and a
pickle in the weights, are never run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from asr_proto.audio import Pcm16, to_float32
from asr_proto.errors import SetupError
from asr_workers.engines.nemo.building import building, check_device
from asr_workers.engines.nemo.checkpoint import NemoCheckpoint, read_checkpoint
from asr_workers.engines.parakeet.config import ParakeetConfig
from asr_workers.engines.parakeet.tdt import JointNetwork, PredictionNetwork, TdtDecoder
from asr_workers.engines.parakeet.windows import FEATURE_SAMPLES, FRAME_FEATURES
from asr_workers.engines.transducer.token_text import TokenText

if TYPE_CHECKING:
    from torch import nn

SYMBOLS_MAX = 10
"""Most tokens at one frame, where the checkpoint sets no limit."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
_CLASSES = {
    "preprocessor": "AudioToMelSpectrogramPreprocessor",
    "encoder": "ConformerEncoder",
    "decoder": "RNNTDecoder",
    "joint": "RNNTJoint",
}


class ParakeetModel:
    """A loaded checkpoint. Raises SetupError with one sentence where it cannot be used here."""

    def __init__(self, config: ParakeetConfig) -> None:
        checkpoint = read_checkpoint(config.model, trusted=config.trust_checkpoint)
        self.checksum, self.license = checkpoint.checksum, checkpoint.license
        self.text = TokenText(checkpoint.tokenizer)
        self.device = check_device(config.device)
        self.dtype = _dtype(config)
        modules = _modules(checkpoint, len(self.text))
        with building(f"{checkpoint.path} does not fit on {config.device}"):
            for part, module in modules.items():
                module.eval().to(self.device, torch.float32 if part == "preprocessor" else self.dtype)
        if config.weights_precision == "int8":
            modules["encoder"] = _quantized(modules["encoder"])
        self._preprocessor, self._encoder = modules["preprocessor"], modules["encoder"]
        self.decoder = TdtDecoder(
            cast(PredictionNetwork, modules["decoder"]),
            cast(JointNetwork, modules["joint"]),
            _durations(checkpoint.config),
            len(self.text),
            _symbols_max(checkpoint.config),
            self.device,
        )

    def encode(self, windows: Sequence[Pcm16]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder frames of int16 windows of any lengths: [B, T, D], and the number of each row's frames: int64 [B]."""
        lengths = torch.tensor([len(window) for window in windows], device=self.device)
        audio = np.zeros((len(windows), max(len(window) for window in windows)), np.float32)
        for row, window in zip(audio, windows, strict=True):
            row[: len(window)] = to_float32(window)
        signal = torch.from_numpy(audio).to(self.device)
        features, feature_lengths = self._preprocessor(input_signal=signal, length=lengths)
        encoded, frames = self._encoder(audio_signal=features.to(self.dtype), length=feature_lengths)
        return encoded.transpose(1, 2)[:, : int(frames.max())], frames


def _dtype(config: ParakeetConfig) -> torch.dtype:
    kind = check_device(config.device).type
    if config.weights_precision == "fp16" and kind == "cpu":
        raise SetupError("fp16 needs CUDA: use bf16, int8 or fp32 on a CPU")
    if config.weights_precision == "int8" and kind != "cpu":
        raise SetupError(f"int8 is for CPUs: use bf16, fp16 or fp32 on {config.device}")
    return _DTYPES[config.weights_precision]


def _modules(checkpoint: NemoCheckpoint, vocabulary: int) -> dict[str, nn.Module]:
    """The four NeMo modules with the checkpoint's weights."""
    with building(f"the configuration of {checkpoint.path} is not understood"):
        options = {part: _options(checkpoint, part) for part in _CLASSES}
        options["preprocessor"] |= {"dither": 0.0, "pad_to": 0}
        options["decoder"]["vocab_size"] = vocabulary
        options["joint"]["num_classes"] = vocabulary
        options["joint"].setdefault("vocabulary", None)
        _check_shape(checkpoint, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NeMo's imports and layers emit many
        import nemo.utils  # noqa: PLC0415 - takes seconds
        from nemo.collections.asr import modules as nemo_modules  # noqa: PLC0415

        nemo.utils.logging.setLevel(logging.ERROR)
        return {
            part: _built(checkpoint, part, getattr(nemo_modules, name), options[part])
            for part, name in _CLASSES.items()
        }


def _built(checkpoint: NemoCheckpoint, part: str, make: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    prefix = f"{part}."
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint.weights.items() if name.startswith(prefix)
    }
    with building(f"the {part} of {checkpoint.path} cannot be built"):
        module = make(**options)
        module.load_state_dict(weights)
    return module


def _options(checkpoint: NemoCheckpoint, part: str) -> dict[str, Any]:
    options = checkpoint.config.get(part)
    target = options.get("_target_", "") if isinstance(options, dict) else ""
    if not isinstance(options, dict) or target.rsplit(".", maxsplit=1)[-1] != _CLASSES[part]:
        raise SetupError(f"{checkpoint.path} is not a Parakeet-TDT: its {part} is {target or 'missing'}")
    return {name: value for name, value in options.items() if name != "_target_"}


def _check_shape(checkpoint: NemoCheckpoint, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises SetupError where frames or durations are not as the windows and the decoder need them."""
    factor = options["encoder"].get("subsampling_factor")
    stride = round(float(options["preprocessor"].get("window_stride", 0.0)) * 16000)
    durations = _durations(checkpoint.config)
    if factor != FRAME_FEATURES or stride != FEATURE_SAMPLES:
        raise SetupError(f"{checkpoint.path} has frames of {factor} x {stride} samples: only 8 x 160 are supported")
    if not durations or options["joint"].get("num_extra_outputs") != len(durations):
        raise SetupError(f"{checkpoint.path} is not a TDT model: its joint network has no durations")


def _durations(config: Mapping[str, Any]) -> list[int]:
    defaults, decoding = config.get("model_defaults") or {}, config.get("decoding") or {}
    return [int(duration) for duration in defaults.get("tdt_durations") or decoding.get("durations") or ()]


def _symbols_max(config: Mapping[str, Any]) -> int:
    greedy = (config.get("decoding") or {}).get("greedy") or {}
    return int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or SYMBOLS_MAX)


def _quantized(encoder: nn.Module) -> nn.Module:
    """The encoder with int8 linear layers: weights are quantized now, activations in each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates this function
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return cast("nn.Module", quantize(encoder, {torch.nn.Linear}, dtype=torch.qint8))
