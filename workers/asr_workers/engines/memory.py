"""When a device's memory is full: how torch says so. No torch is needed to understand it."""

from __future__ import annotations

SIGNS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""Of the allocators of CUDA and MPS and of CUDA itself; of cuBLAS and cuDNN; of the CPU's allocator."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory did not suffice. Libraries below torch say so in a RuntimeError's text only."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
