"""A linear layer in the form that a device computes fastest.

On a CPU the weights are packed once for oneDNN, which also computes the activation and the residual. For the few rows
of a step this is 1.5 to 2 times as fast as torch's own linear function. int8 multiplies integers, with a scale for each
output channel and for each batch of inputs. On other devices torch's linear function is called.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

Activation = Literal["none", "relu", "swish"]


_POINTWISE: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's linear operator. Its overloads are called by name, which saves torch's search for the matching one."""


class Linear(Protocol):
    """A linear layer: x [..., inputs] -> [..., outputs]."""

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """The layer's output after the activation."""

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output plus `residual` [..., outputs]."""


def make_linear(weight: Tensor, bias: Tensor | None, *, quantized: bool = False) -> Linear:
    """A layer with weight [outputs, inputs] and bias [outputs], on their device and in their precision.

    `quantized` rounds the weight to int8; the weight must be float32 on a CPU then.
    """
    weight = weight.contiguous()
    if quantized:
        return PackedInt8Linear(weight, bias)
    if weight.device.type == "cpu" and cast(Any, torch.backends.mkldnn).is_available() and packs(weight.dtype):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes packed weights of this precision here."""
    if _POINTWISE is None:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PlainLinear:
    """torch's own linear function."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        return activated(F.linear(x, self._weight, self._bias), activation)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias).add_(residual)


class PackedLinear:
    """Weights in oneDNN's own layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        return cast(Tensor, _POINTWISE.default(x, self._weight, self._bias, activation, [], ""))

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return cast(Tensor, _POINTWISE.binary(x, residual, self._weight, self._bias, "add"))


class PackedInt8Linear:
    """int8 weights; inputs are quantized in each call."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = weight.abs().amax(1).clamp(min=1e-8) / 127
        zeros = torch.zeros(weight.shape[0], dtype=torch.long)
        with warnings.catch_warnings():
            # torch deprecates quantized tensors, but not the packed operator that is made from one here.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self._packed: Any = torch.ops.quantized.linear_prepack(quantized, bias)

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        # The last argument is reduce_range: without it, sums overflow on processors without VNNI instructions.
        return activated(torch.ops.quantized.linear_dynamic(x, self._packed, True), activation)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)


def activated(x: Tensor, activation: Activation) -> Tensor:
    """The activation of x, computed in place."""
    if activation == "relu":
        return x.relu_()
    return F.silu(x, inplace=True) if activation == "swish" else x
