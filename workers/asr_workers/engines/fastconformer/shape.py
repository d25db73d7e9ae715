"""The shape of a FastConformer, read from a checkpoint's configuration.

`context` checks that the model can stream. `lean_shape` checks that the lean encoder has all of its parts. Other
settings (dropout, losses, data sets) do not change the model's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asr_proto.errors import BadRequest, SetupError
from asr_workers.engines.fastconformer.streaming import Geometry

SUBSAMPLING = 8
FIRST_SHORT_FRAMES = 7
"""Feature frames that an utterance's first chunk is short of: its first encoder frame covers one feature frame, each
later one eight more."""


class Unsupported(SetupError):
    """The lean implementation does not have a part of the model. NeMo's may have it."""


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """The frames that attention covers while the model streams, in encoder frames."""

    left: int
    """Frames before the current chunk."""
    rights: tuple[int, ...]
    """Look-aheads that the model was trained with; the first is its default."""

    def geometry(self, right: int) -> Geometry:
        """The chunk sizes of a look-ahead. Raises BadRequest where the model was not trained with it."""
        if right not in self.rights:
            known = ", ".join(str(known) for known in self.rights)
            raise BadRequest(f"the model has look-aheads of {known} frames, not {right}")
        frames = SUBSAMPLING * (right + 1)
        return Geometry(right, frames - FIRST_SHORT_FRAMES, frames)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the encoder."""

    layers: int
    width: int
    heads: int
    kernel: int
    """Frames that the depthwise convolution covers, the newest one included."""
    mels: int
    """Values of a feature frame."""
    channels: int
    """Channels of the convolutions that reduce the frame rate."""
    scaled: bool
    """Whether the encoder's input is multiplied by the root of its width."""
    batch_norm: bool
    """Whether the convolution modules have a batch norm instead of a layer norm."""


def context(config: dict[str, Any]) -> AttentionContext:
    """The attention context of a model. Raises SetupError with one sentence where the model cannot stream."""
    encoder = config.get("encoder")
    if not isinstance(encoder, dict) or not str(encoder.get("_target_", "")).endswith(".ConformerEncoder"):
        raise SetupError("the checkpoint holds no Conformer encoder")
    if encoder.get("att_context_style") != "chunked_limited" or not _causal(encoder):
        raise SetupError("the model is not cache-aware: it needs causal convolutions and chunked, limited attention")
    if encoder.get("subsampling_factor") != SUBSAMPLING:
        raise SetupError(f"only models of {SUBSAMPLING} feature frames per encoder frame are supported")
    sizes = encoder.get("att_context_size") or [-1, -1]
    pairs = sizes if isinstance(sizes[0], list) else [sizes]
    if not all(len(pair) == 2 and pair[0] > 0 and pair[1] >= 0 and pair[0] % (pair[1] + 1) == 0 for pair in pairs):
        raise SetupError(f"the model cannot stream with its attention contexts {sizes}")
    lefts = {left for left, _ in pairs}
    if len(lefts) > 1:
        raise SetupError(f"the model's attention contexts {sizes} differ in their history")
    return AttentionContext(lefts.pop(), tuple(dict.fromkeys(right for _, right in pairs)))


def is_tdt(config: dict[str, Any]) -> bool:
    """Whether the transducer predicts durations and tokens (TDT)."""
    extra = (config.get("joint") or {}).get("num_extra_outputs")
    return bool(extra or (config.get("model_defaults") or {}).get("tdt_durations"))


def lean_shape(config: dict[str, Any]) -> Shape:
    """The encoder's shape. Raises Unsupported with one sentence where the lean encoder lacks a part of the model."""
    encoder = config["encoder"]
    expected = {
        "subsampling": ("dw_striding", None),
        "self_attention_model": ("rel_pos", "rel_pos"),
        "untie_biases": (True, True),
        "reduction": (None, None),
        "conv_norm_type": (("layer_norm", "batch_norm"), "batch_norm"),
        "feat_out": ((-1, encoder["d_model"]), -1),
        "conv_context_size": (("causal", [encoder.get("conv_kernel_size", 31) - 1, 0]), None),
    }
    for name, (wanted, default) in expected.items():
        value = encoder.get(name, default)
        if value not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise Unsupported(f"the lean implementation does not support {name} {value}: use nemo")
    channels = encoder.get("subsampling_conv_channels", -1)
    return Shape(
        layers=int(encoder["n_layers"]),
        width=int(encoder["d_model"]),
        heads=int(encoder.get("n_heads", 4)),
        kernel=int(encoder.get("conv_kernel_size", 31)),
        mels=int(encoder["feat_in"]),
        channels=int(channels if channels > 0 else encoder["d_model"]),
        scaled=bool(encoder.get("xscaling", True)),
        batch_norm=encoder.get("conv_norm_type", "batch_norm") == "batch_norm",
    )


def _causal(encoder: dict[str, Any]) -> bool:
    size = encoder.get("conv_context_size")
    limited = size == "causal" or (isinstance(size, list) and len(size) == 2 and size[1] == 0)
    return bool(encoder.get("causal_downsampling")) and limited
