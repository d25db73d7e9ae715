"""How many utterances a device's memory holds at once: measured before anybody is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from asr_workers.engines.memory import is_out_of_memory

USED_MAX = 0.9
"""Of what is free: allocators leave gaps."""


class Memory(Protocol):
    """The memory of one device."""

    def free(self) -> int:
        """Bytes that are free now."""

    def peak(self, work: Callable[[], object]) -> int:
        """Bytes that `work` takes at its height, beyond what is in use before."""


class CudaMemory:
    """Of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def peak(self, work: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device) - before


def memory_of(device: torch.device) -> Memory | None:
    """None where it cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


def rows_that_fit(memory: Memory, batch: Callable[[int], object]) -> int:
    """How many rows `batch`, which works on as many as it is told, may have. Raises what torch does where none fits."""
    batch(1)  # what is made once, at the first call, is no row's
    one = memory.peak(lambda: batch(1))
    try:
        two = memory.peak(lambda: batch(2))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 1
    row = max(two - one, 1)
    shared = max(one - row, 0)
    return max(int((memory.free() * USED_MAX - shared) // row), 0)


def halved_until_it_fits(rows: int, work: Callable[[int], float]) -> tuple[int, float]:
    """Work on so many rows, or on half of them, and so on: memory may be in too many pieces, or somebody else's by now.

    Returns on how many it did, and what it returned. Raises what torch does where one row is too much.
    """
    while True:
        try:
            return rows, work(rows)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        rows //= 2
