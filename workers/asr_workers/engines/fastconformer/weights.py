"""Reads a checkpoint's weights by name into one precision and onto one device, and records which were read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from asr_proto.errors import SetupError


class Weights:
    """The weights of a checkpoint; each call returns a copy of one."""

    def __init__(self, table: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._table = table
        self._device = device
        self._dtype = dtype
        self._read: set[str] = set()

    def __call__(self, name: str) -> Tensor:
        """The weight of this name. Raises SetupError where the checkpoint does not have it."""
        found = self.optional(name)
        if found is None:
            raise SetupError(f"the checkpoint has no {name}")
        return found

    def optional(self, name: str) -> Tensor | None:
        """The weight of this name; None where the checkpoint does not have it."""
        self._read.add(name)
        found = self._table.get(name)
        return None if found is None else found.to(self._device, self._dtype, copy=True)

    def raw(self, name: str) -> Tensor:
        """The weight in float32 on the CPU, for computations while the model is built. Raises SetupError."""
        self._read.add(name)
        found = self._table.get(name)
        if found is None:
            raise SetupError(f"the checkpoint has no {name}")
        return found.float()

    def placed(self, tensor: Tensor) -> Tensor:
        """A computed tensor on the device and in the precision of the weights."""
        return tensor.to(self._device, self._dtype).contiguous()

    def names(self, prefix: str) -> list[str]:
        """The names of all weights that begin with `prefix`."""
        return [name for name in self._table if name.startswith(prefix)]

    def unread(self, prefix: str) -> list[str]:
        """Names with `prefix` that were not read, without those that only training uses."""
        needed = (name for name in self.names(prefix) if not name.endswith(".num_batches_tracked"))
        return [name for name in needed if name not in self._read]
