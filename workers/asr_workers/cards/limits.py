"""What this processor could do at most, measured by the simulator's library: the bench compares its steps with it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from asr_workers.cards import abi


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one thread, in a second of its processor time."""

    multiply_adds: float
    """8 bit products with operands from the first cache."""
    bytes_read: float
    """From memory, one after the other."""


def measured() -> Limits:
    """Takes a quarter of a second. Raises SetupError where there is no simulator."""
    calls = abi.load(None)
    multiply_adds, bytes_read = ctypes.c_double(), ctypes.c_double()
    calls.asr_simulator_limits.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    calls.asr_simulator_limits.restype = ctypes.c_int32
    abi.check(calls, calls.asr_simulator_limits(ctypes.byref(multiply_adds), ctypes.byref(bytes_read)))
    return Limits(multiply_adds.value, bytes_read.value)
