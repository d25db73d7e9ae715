"""CAIMAN-ASR hardware checkpoints: training's export for the card, a torch.save file of tensors and plain values.

The source of a file is not trusted: nothing in it is executed (weights_only), and every value is checked before use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from asr_proto.errors import SetupError
from asr_workers.cards import carm
from asr_workers.cards.carm import CarmConfig
from asr_workers.cards.errors import CardError
from asr_workers.engines.rnnt import archive
from asr_workers.engines.rnnt.architectures import named
from asr_workers.engines.rnnt.archive import InvalidCheckpoint
from asr_workers.engines.rnnt.features import HOP_SAMPLES, MELS, RATE_HZ, STACK_FRAMES, Floats
from asr_workers.engines.rnnt.model import Rnnt

VERSION = "1.14.0"
"""The format version that `save` writes. `load` reads all versions 1.x."""
KEYS = (
    "state_dict",
    "epoch",
    "step",
    "best_wer",
    "melmeans",
    "melvars",
    "melalpha",
    "sentpiece_model",
    "version",
    "rnnt_config",
)
"""The keys that every hardware checkpoint has. It may also have `ngram`, which is ignored."""
_FRONT_END = {
    "n_fft": carm.N_FFT,
    "n_filt": MELS,
    "normalize": "per_feature",
    "sample_rate": RATE_HZ,
    "window": "hann",
    "window_stride": HOP_SAMPLES / RATE_HZ,
}
_SPLICING = {"frame_stacking": STACK_FRAMES, "frame_subsampling": STACK_FRAMES}
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SIZES = (
    "in_feats",
    "enc_n_hid",
    "enc_pre_rnn_layers",
    "enc_post_rnn_layers",
    "enc_stack_time_factor",
    "pred_n_hid",
    "pred_rnn_layers",
    "joint_n_hid",
)


@dataclass(frozen=True, slots=True, eq=False)
class RnntCheckpoint:
    """The checked contents of a hardware checkpoint."""

    sizes: CarmConfig
    tensors: dict[str, Tensor]
    """The weights in float32, with the names and shapes of `sizes.shapes()`."""
    means: Floats
    """Mean of each log-mel band over the training data: float32 [80]."""
    variances: Floats
    """Variance of each log-mel band over the training data: float32 [80]."""
    sentencepiece: bytes
    """A serialized sentencepiece model."""
    version: str = VERSION
    checksum: str = ""
    """SHA-256 of the file in hexadecimal; empty for a checkpoint that is not written yet."""

    def model(self) -> Rnnt:
        """The network with these weights, for inference."""
        with torch.device("meta"):
            model = Rnnt(self.sizes)
        model.load_state_dict(self.tensors, assign=True)
        return model.eval().requires_grad_(False)

    def compile(self, path: Path, precision: carm.Precision) -> None:
        """Write this checkpoint as a card model (.carm). Raises CardError for weights that are not finite, OSError."""
        arrays = {name: cast(Floats, tensor.numpy()) for name, tensor in self.tensors.items()}
        carm.write(path, self.sizes, arrays, precision, self.means, self.variances, self.sentencepiece, self.checksum)


def load(path: Path) -> RnntCheckpoint:
    """Read and check a hardware checkpoint. Raises SetupError with one sentence that names the first fault."""
    try:
        return _checked(archive.content(path), archive.checksum(path))
    except InvalidCheckpoint as invalid:
        raise SetupError(f"{path} {invalid}") from invalid


def _checked(content: dict[str, object], checksum: str) -> RnntCheckpoint:
    if "ema_state_dict" in content:
        raise InvalidCheckpoint("is a training checkpoint: export a hardware checkpoint from it first")
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InvalidCheckpoint(f"is not a hardware checkpoint: it lacks {', '.join(missing)}")
    version = content["version"]
    if not isinstance(version, str) or not re.fullmatch(r"1\.\d+\.\d+", version):
        raise InvalidCheckpoint(f"is a hardware checkpoint of version {version}, and only 1.x is supported")
    _check_normalization(content)
    tensors = _tensors(content["state_dict"])
    sizes = _sizes(content["rnnt_config"], tensors)
    _check_tensors(sizes, tensors)
    means, variances = (_statistic(name, content[name]) for name in ("melmeans", "melvars"))
    if not bool((variances > 0).all()):
        raise InvalidCheckpoint("has a variance in melvars that is not positive")
    pieces = _pieces(content["sentpiece_model"], sizes)
    tensors = {name: tensors[name].detach().float().contiguous() for name in sizes.shapes()}
    return RnntCheckpoint(sizes, tensors, means, variances, pieces, version, checksum)


def _check_normalization(content: dict[str, object]) -> None:
    """The front end normalizes with the training data's statistics only, not with a moving average or a mixture."""
    alpha = _number("melalpha", content["melalpha"])
    if alpha != 0.0:
        raise InvalidCheckpoint(f"normalizes with a moving average (melalpha {alpha}), which is no longer supported")
    weight = _number("logmel_norm_weight", content.get("logmel_norm_weight", 1.0))
    if weight != 1.0:
        raise InvalidCheckpoint(f"was trained with a logmel_norm_weight of {weight} instead of 1.0")


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidCheckpoint(f"has a {name} that is not a number")
    return value


def _section(config: object, *names: str) -> dict[str, object]:
    for name in names:
        if not isinstance(config, dict) or name not in config:
            raise InvalidCheckpoint(f"lacks {'.'.join(names)} in its configuration")
        config = config[name]
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"has no section {'.'.join(names)} in its configuration")
    return config


def _sizes(config: object, tensors: dict[str, Tensor]) -> CarmConfig:
    front_end = _section(config, "input_val", "filterbank_features")
    for section, expected in ((front_end, _FRONT_END), (_section(config, "input_val", "frame_splicing"), _SPLICING)):
        for name, value in expected.items():
            found = section.get(name)
            if isinstance(found, Tensor) or found != value:
                raise InvalidCheckpoint(f"has a front end of another kind: {name} is {found} instead of {value}")
    network = _section(config, "rnnt")
    numbers = {name: _whole(name, network.get(name)) for name in _SIZES}
    if numbers["in_feats"] != MELS * STACK_FRAMES:
        raise InvalidCheckpoint(f"has in_feats {numbers['in_feats']} instead of {MELS * STACK_FRAMES}")
    window_s = front_end.get("window_size")
    if not isinstance(window_s, float) or window_s not in (0.02, 0.025):
        raise InvalidCheckpoint(f"has a window_size of {window_s} s, and only 0.02 and 0.025 are supported")
    last = tensors.get("joint_net.2.bias")
    if last is None or last.ndim != 1:
        raise InvalidCheckpoint("lacks the tensor joint_net.2.bias")
    sizes = CarmConfig(
        in_feats=numbers["in_feats"],
        enc_n_hid=numbers["enc_n_hid"],
        enc_pre_rnn_layers=numbers["enc_pre_rnn_layers"],
        enc_post_rnn_layers=numbers["enc_post_rnn_layers"],
        enc_stack_time_factor=numbers["enc_stack_time_factor"],
        pred_n_hid=numbers["pred_n_hid"],
        pred_rnn_layers=numbers["pred_rnn_layers"],
        joint_n_hid=numbers["joint_n_hid"],
        n_classes=len(last),
        window_samples=round(window_s * RATE_HZ),
    )
    try:
        sizes.check()
    except CardError as error:
        raise InvalidCheckpoint(f"is not a model for a card: {error.sentence}") from error
    return named(sizes)


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidCheckpoint(f"has {name} {value} in its configuration")
    return value


def _tensors(state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InvalidCheckpoint("has a state_dict that is not a table of tensors")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise InvalidCheckpoint(
                f"has {name} in its state_dict, which is not a plain tensor of floating point numbers"
            )
    return cast(dict[str, Tensor], state)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor can be read as float32: dense, on the CPU, floating point, and with all its data in the file."""
    is_strided = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_neg()
    is_readable = is_strided and tensor.device.type == "cpu" and tensor.dtype in _KINDS
    return is_readable and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _check_tensors(sizes: CarmConfig, tensors: dict[str, Tensor]) -> None:
    shapes = sizes.shapes()
    odd = [name for name in (*shapes, *tensors) if name not in tensors or name not in shapes]
    if odd:
        raise InvalidCheckpoint(
            f"{'lacks' if odd[0] in shapes else 'has a tensor that is not known:'} {odd[0]} in its state_dict"
        )
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InvalidCheckpoint(
                f"has {name} of shape {list(tensor.shape)} where its configuration means {list(shape)}"
            )
        if not bool(tensor.float().isfinite().all()):
            raise InvalidCheckpoint(f"has values in {name} that are not finite numbers")


def _statistic(name: str, value: object) -> Floats:
    if not isinstance(value, Tensor) or not _is_plain(value) or tuple(value.shape) != (MELS,):
        raise InvalidCheckpoint(f"has no {MELS} values in {name}")
    numbers = value.detach().float().numpy()
    if not bool(np.isfinite(numbers).all()):
        raise InvalidCheckpoint(f"has values in {name} that are not finite numbers")
    return cast(Floats, numbers)


def _pieces(model: object, sizes: CarmConfig) -> bytes:
    if not isinstance(model, bytes):
        raise InvalidCheckpoint("has a sentpiece_model that is not bytes")
    try:
        count = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    except RuntimeError as error:
        raise InvalidCheckpoint("has a sentpiece_model that is not a sentencepiece model") from error
    if count != sizes.n_classes - 1:
        raise InvalidCheckpoint(f"has {count} sentencepieces for {sizes.n_classes} classes, of which one is the blank")
    return model


def save(path: Path, checkpoint: RnntCheckpoint, *, step: int, best_wer: float) -> None:
    """Write a hardware checkpoint with its weights in half precision. `best_wer` is a fraction, 0.1 for 10 %."""
    content = {
        "state_dict": {name: tensor.detach().half() for name, tensor in checkpoint.tensors.items()},
        "epoch": 1,
        "step": step,
        "best_wer": best_wer,
        "melmeans": torch.from_numpy(checkpoint.means),
        "melvars": torch.from_numpy(checkpoint.variances),
        "melalpha": 0.0,
        "sentpiece_model": checkpoint.sentencepiece,
        "version": checkpoint.version,
        "rnnt_config": _config(checkpoint.sizes),
    }
    torch.save(content, path)


def _config(sizes: CarmConfig) -> dict[str, object]:
    window_s = sizes.window_samples / RATE_HZ
    return {
        "input_val": {
            "filterbank_features": {"dither": 1e-5, "window_size": window_s, **_FRONT_END},
            "frame_splicing": dict(_SPLICING),
        },
        "rnnt": {name: getattr(sizes, name) for name in _SIZES},
        "tokenizer": {"labels": list(" abcdefghijklmnopqrstuvwxyz'"), "sentpiece_model": "sentencepiece.model"},
    }
