"""8-bit weights: int8 with one scale for each row, or block floating point with one exponent for each block of 8.

Block floating point: Wilkinson 1963, Rounding Errors in Algebraic Processes; for neural networks, Drumond et al. 2018,
arXiv:1804.01526.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
BFP_BLOCK = 8


def quantize_int8(weights: Float32) -> tuple[NDArray[np.int8], Float32]:
    """Weights [rows, columns] -> values in -127..127 [rows, columns] and scales [rows]."""
    scales = (np.abs(weights).max(axis=1) / 127.0).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return np.rint(weights / divisors[:, None]).clip(-127, 127).astype(np.int8), scales


def quantize_bfp16(weights: Float32) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Weights [rows, columns] -> mantissas [rows, columns rounded up to 8] and biased exponents [rows, blocks]."""
    rows, columns = weights.shape
    blocks = -(-columns // BFP_BLOCK)
    padded = np.zeros((rows, blocks * BFP_BLOCK), np.float32)
    padded[:, :columns] = weights
    blocked = padded.reshape(rows, blocks, BFP_BLOCK)
    _, exponents = np.frexp(np.abs(blocked).max(axis=2))
    largest = blocked.any(axis=2)
    biased = np.where(largest, (exponents - 1 + 127).clip(1, 254), 0).astype(np.uint8)
    quanta = np.ldexp(np.float32(1), biased.astype(np.int32) - 127 - 6)
    mantissas = np.rint(blocked / quanta[:, :, None]).clip(-127, 127).astype(np.int8)
    return mantissas.reshape(rows, -1), biased


def bfp_values(mantissas: Float32, exponents: NDArray[np.float32] | NDArray[np.uint8]) -> Float32:
    """The values [rows, columns] of mantissas [rows, columns] with biased exponents [rows, blocks]."""
    quanta = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127 - 6).astype(np.float32)
    return mantissas * np.repeat(quanta, BFP_BLOCK, axis=1)
