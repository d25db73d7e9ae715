"""A checkpoint's table of weights, read by name into one precision and onto one device; remembers what was read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from asr_proto.errors import SetupError


class Weights:
    """Copies of a checkpoint's tensors."""

    def __init__(self, table: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._table = table
        self._device = device
        self._dtype = dtype
        self._read: set[str] = set()

    def __call__(self, name: str) -> Tensor:
        """Raises SetupError."""
        found = self.optional(name)
        if found is None:
            raise SetupError(f"the checkpoint has no {name}")
        return found

    def optional(self, name: str) -> Tensor | None:
        self._read.add(name)
        found = self._table.get(name)
        return None if found is None else found.to(self._device, self._dtype, copy=True)

    def raw(self, name: str) -> Tensor:
        """float32 on the CPU, for arithmetic at the start. Raises SetupError."""
        self._read.add(name)
        found = self._table.get(name)
        if found is None:
            raise SetupError(f"the checkpoint has no {name}")
        return found.float()

    def placed(self, tensor: Tensor) -> Tensor:
        """A tensor computed at the start, where and how the others are."""
        return tensor.to(self._device, self._dtype).contiguous()

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._table if name.startswith(prefix)]

    def unread(self, prefix: str) -> list[str]:
        """Names under `prefix` that nobody asked for, but for what only training reads."""
        asked = (name for name in self.names(prefix) if not name.endswith(".num_batches_tracked"))
        return [name for name in asked if name not in self._read]
