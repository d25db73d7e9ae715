"""Linear layers with int8 weights, made from floating-point layers.

On a CPU the inputs are quantized to int8, too. Each row has its own scale, so that a row does not depend on the rest of
the batch. On other devices the weights are converted back in each call: a quarter of fp32's memory, but not less time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 127.0
SCALE_MIN = 1e-12
"""Smallest scale, so that rows of zeros are not divided by zero."""


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale for each output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / LEVELS).clamp_min(SCALE_MIN)
        self.weight = nn.Buffer((weight / scale[:, None]).round().to(torch.int8))
        self.scale = nn.Buffer(scale)
        self.bias = nn.Buffer(linear.bias.detach().float()) if linear.bias is not None else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [..., in] to outputs [..., out]."""
        if inputs.device.type != "cpu":
            bias = None if self.bias is None else self.bias.to(inputs.dtype)
            return nn.functional.linear(inputs, (self.weight * self.scale[:, None]).to(inputs.dtype), bias)
        rows = inputs.reshape(-1, inputs.shape[-1])
        steps = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp_min(SCALE_MIN)
        product = torch._int_mm((rows / steps).round().to(torch.int8), self.weight.t())
        outputs = product.float().mul_(steps).mul_(self.scale)
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], -1)


def to_int8(module: nn.Module) -> None:
    """Replace every linear layer inside the module by an Int8Linear."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            to_int8(child)
