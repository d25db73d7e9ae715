"""A linear layer in the form that a device computes fastest.

On CPU its weights are packed once for oneDNN, which also takes the activation and the residual into the product: 1.5 to
2 times as fast as the plain call for the few rows of a step. int8 multiplies in integers, with scales per output
channel and per batch of inputs. Elsewhere it is the plain call.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

Activation = Literal["none", "relu", "swish"]


_POINTWISE: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""Its overloads are called by name: where torch must find the right one, it first describes the operands of others."""


class Linear(Protocol):
    """x [..., inputs] -> [..., outputs]."""

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """The product, with the activation applied."""

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """The product plus `residual` [..., outputs]."""


def make_linear(weight: Tensor, bias: Tensor | None, *, quantized: bool = False) -> Linear:
    """A layer of these weights [outputs, inputs], on their device and in their precision."""
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
    """Whatever torch does with it."""

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
    """int8 weights, inputs quantized as they come."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = weight.abs().amax(1).clamp(min=1e-8) / 127
        zeros = torch.zeros(weight.shape[0], dtype=torch.long)
        with warnings.catch_warnings():
            # Quantized tensors are deprecated as values of their own; the packed product made of one is not.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self._packed: Any = torch.ops.quantized.linear_prepack(quantized, bias)

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        # reduce_range: without it, processors that have no VNNI instructions overflow.
        return activated(torch.ops.quantized.linear_dynamic(x, self._packed, True), activation)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)


def activated(x: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return x.relu_()
    return F.silu(x, inplace=True) if activation == "swish" else x
