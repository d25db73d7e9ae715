"""The number of utterances that a device's memory holds in one batch, measured before the worker serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from asr_workers.engines.memory import is_out_of_memory

USED_MAX = 0.9
"""Share of the free memory that a batch may take; allocators leave gaps."""


class Memory(Protocol):
    """The memory of one device."""

    def free(self) -> int:
        """Bytes that are free now."""

    def peak(self, work: Callable[[], object]) -> int:
        """The most bytes that `work` has in use, without those in use before."""


class CudaMemory:
    """The memory of one CUDA device."""

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
    """The memory of a device; None where it cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


def rows_that_fit(memory: Memory, batch: Callable[[int], object]) -> int:
    """The number of rows with which `batch` can be called. Raises torch's error where it cannot run with one row."""
    batch(1)  # the first call also allocates memory that does not belong to rows
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
    """Call `work` with this number of rows, and with half of it after each out-of-memory error.

    Memory can be fragmented, or taken by other processes since it was measured. Returns the number of rows that fitted
    and the result of `work`. Raises torch's error where one row does not fit.
    """
    while True:
        try:
            return rows, work(rows)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        rows //= 2
