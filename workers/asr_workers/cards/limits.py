"""The processor's peak speed, measured by the simulator's library: the bench compares step times with it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from asr_workers.cards import abi


@dataclass(frozen=True, slots=True)
class ProcessorLimits:
    """Peak rates of one thread, per second of its processor time."""

    multiply_adds: float
    """8-bit multiply-adds per second, with operands in the first-level cache."""
    bytes_read: float
    """Bytes per second, read sequentially from memory."""


def measured() -> ProcessorLimits:
    """Measure the limits; takes a quarter of a second. Raises SetupError if the simulator was not built."""
    calls = abi.load(None)
    multiply_adds, bytes_read = ctypes.c_double(), ctypes.c_double()
    calls.asr_simulator_limits.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    calls.asr_simulator_limits.restype = ctypes.c_int32
    abi.check(calls, calls.asr_simulator_limits(ctypes.byref(multiply_adds), ctypes.byref(bytes_read)))
    return ProcessorLimits(multiply_adds.value, bytes_read.value)
