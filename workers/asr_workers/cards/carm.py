"""The file of a compiled card model (.carm): little-endian, tensors aligned to 64 bytes, so that it can be mapped.

    offset 0    magic "ASRCARM\\0", version u32, header bytes u32 (256), file bytes u64, sha256 of all from offset 64
    offset 64   the configuration: 16 u32, a name [16], the checksum of the source checkpoint [64]
    offset 256  one entry of 128 bytes per tensor: name [64], kind, rows, columns, offsets and sizes
    then        the tensors

Weights are fp32, int8 or bfp16. int8: one scale per row (output), value = scale * q with q in -127..127. bfp16: blocks
of 8 along the row share an 8-bit exponent e, which is that of the block's largest value, biased by 127 (0 for a block
of zeros). Each value has a sign and a 7-bit mantissa: value = q * 2^(e - 127 - 6). Biases and feature statistics are
always fp32. The card quantizes activations while it computes. This module needs only numpy.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards.carm_config import N_FFT, N_MELS, STRIDE_SAMPLES, CarmConfig, bad_model
from asr_workers.cards.quantize import BFP_BLOCK, Float32, bfp_values, quantize_bfp16, quantize_int8

__all__ = [
    "N_FFT",
    "N_MELS",
    "PRECISIONS",
    "STRIDE_SAMPLES",
    "Carm",
    "CarmConfig",
    "CarmTensor",
    "Float32",
    "Precision",
    "quantize_bfp16",
    "quantize_int8",
    "read",
    "write",
]

MAGIC = b"ASRCARM\0"
VERSION = 1
HEADER_BYTES = 256
CHECKED_FROM = 64
"""Offset in bytes from which the sha256 covers the file."""
ALIGNMENT = 64

Precision = Literal["fp32", "int8", "bfp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "bfp16")

_START = struct.Struct("<8sIIQ32s8x")
_CONFIG = struct.Struct("<16I16s64s")
_ENTRY = struct.Struct("<64sIIIIQQQQ16x")
_KIND_BYTES = 3


@dataclass(frozen=True, slots=True)
class CarmTensor:
    """A tensor of the file; its arrays are read-only views of the mapped file."""

    shape: tuple[int, ...]
    precision: Precision
    values: NDArray[np.float32] | NDArray[np.int8]
    """fp32: values in `shape`. int8: values [rows, columns]. bfp16: mantissas [rows, columns rounded up to 8]."""
    scales: NDArray[np.float32] | NDArray[np.uint8] | None = None
    """int8: fp32 scales [rows]. bfp16: biased exponents [rows, blocks]. fp32: None."""

    def dequantized(self) -> Float32:
        """The values of the weights, fp32 in `shape`."""
        if self.scales is None:
            return self.values.astype(np.float32)
        if self.precision == "int8":
            return self.values.astype(np.float32) * self.scales[:, None].astype(np.float32)
        return bfp_values(self.values.astype(np.float32), self.scales)[:, : self.shape[1]]


@dataclass(frozen=True, slots=True)
class Carm:
    """A compiled model, mapped into memory."""

    config: CarmConfig
    precision: Precision
    tensors: Mapping[str, CarmTensor]
    melmeans: Float32
    """Mean of each log-mel band [80]."""
    melvars: Float32
    """Variance of each log-mel band [80]."""
    sentencepiece: bytes
    """The serialized SentencePiece model."""
    source_checksum: str
    """sha256 of the hardware checkpoint that was compiled, in hex; or the text that the writer passed."""
    checksum: str
    """sha256 of this model, in hex. Slot states and commits are valid only for this model."""


def write(
    path: Path,
    config: CarmConfig,
    tensors: Mapping[str, Float32],
    precision: Precision,
    melmeans: Float32,
    melvars: Float32,
    sentencepiece: bytes,
    source_checksum: str,
) -> None:
    """Compile a model: quantize the weight matrices to `precision` and write the file.

    `tensors` have the names and shapes of `config.shapes()`; others are ignored. melmeans and melvars are [80].
    Raises CardError for tensors that are missing, have a wrong shape or are not finite.
    """
    config.check()
    image = bytearray()
    entries = []
    sections = _sections(config, tensors, precision, melmeans, melvars, sentencepiece)
    data_at = _aligned(HEADER_BYTES + _ENTRY.size * len(sections))
    for name, kind, shape, values, scales in sections:
        offsets = []
        for part in (values, scales):
            image.extend(bytes(_aligned(len(image)) - len(image)))
            offsets += [data_at + len(image) if part else 0, len(part)]
            image.extend(part)
        rows, columns = (shape[0], 1) if len(shape) == 1 else shape
        entries.append(_ENTRY.pack(name.encode(), kind, rows, columns, len(shape), *offsets))
    numbers = (*config.numbers(), STRIDE_SAMPLES, N_FFT, N_MELS, PRECISIONS.index(precision), len(entries), 0)
    head = _CONFIG.pack(*numbers, config.name.encode(), source_checksum.encode()[:64]).ljust(HEADER_BYTES - 64, b"\0")
    checked = b"".join([head, *entries]).ljust(data_at - CHECKED_FROM, b"\0")
    digest = hashlib.sha256(checked)
    digest.update(image)
    file_bytes = CHECKED_FROM + len(checked) + len(image)
    with path.open("wb") as file:
        file.write(_START.pack(MAGIC, VERSION, HEADER_BYTES, file_bytes, digest.digest()))
        file.write(checked)
        file.write(image)


_Section = tuple[str, int, tuple[int, ...], bytes, bytes]


def _sections(
    config: CarmConfig,
    tensors: Mapping[str, Float32],
    precision: Precision,
    melmeans: Float32,
    melvars: Float32,
    sentencepiece: bytes,
) -> list[_Section]:
    """(name, kind, shape, values, scales) of each section, in the file's order."""
    sections: list[_Section] = []
    for name, given in (("melmeans", melmeans), ("melvars", melvars)):
        sections.append((name, 0, (N_MELS,), _checked(name, given, (N_MELS,)).tobytes(), b""))
    if not bool((np.asarray(melvars) > 0).all()):
        raise bad_model("a variance in melvars is not positive")
    for name, shape in config.shapes().items():
        if name not in tensors:
            raise bad_model(f"the tensor {name} is missing")
        weights = _checked(name, tensors[name], shape)
        sections.append(_quantized(name, weights, precision))
    return [*sections, ("sentencepiece", _KIND_BYTES, (len(sentencepiece),), sentencepiece, b"")]


def _quantized(name: str, weights: Float32, precision: Precision) -> _Section:
    if precision == "fp32" or weights.ndim == 1:
        return name, 0, weights.shape, weights.tobytes(), b""
    if precision == "int8":
        values, scales = quantize_int8(weights)
        return name, 1, weights.shape, values.tobytes(), scales.tobytes()
    mantissas, exponents = quantize_bfp16(weights)
    return name, 2, weights.shape, mantissas.tobytes(), exponents.tobytes()


def _checked(name: str, tensor: Float32, shape: tuple[int, ...]) -> Float32:
    if tensor.shape != shape:
        raise bad_model(f"the tensor {name} has the shape {list(tensor.shape)} instead of {list(shape)}")
    checked = np.ascontiguousarray(tensor, np.dtype("<f4"))
    if not bool(np.isfinite(checked).all()):
        raise bad_model(f"the tensor {name} has values that are not finite")
    return checked


def read(path: Path) -> Carm:
    """Map a compiled model and check all of it. Raises CardError with one sentence that names the first fault."""
    mapped = _mapped(path)
    digest = _check_start(path, mapped)
    *numbers, name, source = _CONFIG.unpack_from(mapped, CHECKED_FROM)
    config = CarmConfig(
        in_feats=numbers[0],
        enc_n_hid=numbers[1],
        enc_pre_rnn_layers=numbers[2],
        enc_stack_time_factor=numbers[3],
        enc_post_rnn_layers=numbers[4],
        pred_n_hid=numbers[5],
        pred_rnn_layers=numbers[6],
        joint_n_hid=numbers[7],
        n_classes=numbers[8],
        window_samples=numbers[9],
        name=_text(name),
    )
    config.check()
    if numbers[10:13] != [STRIDE_SAMPLES, N_FFT, N_MELS] or numbers[13] >= len(PRECISIONS):
        raise bad_model(f"{path.name} has a front end or precision that this version does not support")
    parts = dict(_entry(path, mapped, HEADER_BYTES + index * _ENTRY.size) for index in range(numbers[14]))
    expected = {**config.shapes(), "melmeans": (N_MELS,), "melvars": (N_MELS,)}
    tensors = {key: part for key, part in parts.items() if isinstance(part, CarmTensor)}
    shapes = {key: part.shape for key, part in tensors.items()}
    if shapes != expected or "sentencepiece" not in parts or len(parts) != numbers[14]:
        raise bad_model(f"the tensors in {path.name} are not those of its configuration")
    for key in ("melmeans", "melvars"):
        _check_statistic(path, key, tensors[key])
    return Carm(
        config=config,
        precision=PRECISIONS[numbers[13]],
        tensors={key: tensors[key] for key in config.shapes()},
        melmeans=tensors["melmeans"].dequantized(),
        melvars=tensors["melvars"].dequantized(),
        sentencepiece=cast(bytes, parts["sentencepiece"]),
        source_checksum=_text(source),
        checksum=digest,
    )


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise bad_model(f"there is no model {path}") from error
    except (OSError, ValueError) as error:
        raise bad_model(f"the model {path} cannot be read: {error}") from error


def _check_start(path: Path, mapped: memoryview) -> str:
    """Check the file's header and checksum. Returns the checksum in hex. Raises CardError."""
    if len(mapped) < HEADER_BYTES or bytes(mapped[:8]) != MAGIC:
        hint = "; compile a hardware checkpoint with asr-compile first" if bytes(mapped[:2]) == b"PK" else ""
        raise bad_model(f"{path.name} is not a compiled card model{hint}")
    _, version, header_bytes, file_bytes, digest = _START.unpack_from(mapped, 0)
    if version != VERSION or header_bytes != HEADER_BYTES:
        raise bad_model(
            f"{path.name} is a card model of version {version}, and this version reads {VERSION}: compile again"
        )
    if file_bytes != len(mapped):
        raise bad_model(f"{path.name} is truncated: it has {len(mapped)} bytes instead of {file_bytes}")
    if hashlib.sha256(mapped[CHECKED_FROM:]).digest() != digest:
        raise bad_model(f"{path.name} is damaged: its checksum is wrong")
    return cast(bytes, digest).hex()


def _entry(path: Path, mapped: memoryview, at: int) -> tuple[str, CarmTensor | bytes]:
    """The name of the section at offset `at`, and its tensor or its bytes. Raises CardError."""
    if at + _ENTRY.size > len(mapped):
        raise bad_model(f"{path.name} has a tensor outside of the file")
    name, kind, rows, columns, axes, values_at, values_bytes, scales_at, scales_bytes = _ENTRY.unpack_from(mapped, at)
    if max(values_at + values_bytes, scales_at + scales_bytes) > len(mapped):
        raise bad_model(f"{path.name} has a tensor outside of the file")
    if values_at % ALIGNMENT or scales_at % ALIGNMENT:
        raise bad_model(f"{path.name} has a tensor that is not aligned to {ALIGNMENT} bytes")
    values, scales = mapped[values_at : values_at + values_bytes], mapped[scales_at : scales_at + scales_bytes]
    if kind == _KIND_BYTES:
        return _text(name), bytes(values)
    shape = (rows,) if axes == 1 else (rows, columns)
    blocks = -(-columns // BFP_BLOCK)
    try:
        if axes != 2 and (axes, columns, kind) != (1, 1, 0):
            raise ValueError("neither a matrix nor a vector of fp32")
        if kind == 0 and not scales_bytes:
            tensor = CarmTensor(shape, "fp32", np.frombuffer(values, np.float32).reshape(shape))
        elif kind == 1:
            factors = np.frombuffer(scales, np.float32).reshape(rows)
            tensor = CarmTensor(shape, "int8", np.frombuffer(values, np.int8).reshape(shape), factors)
        elif kind == 2:
            mantissas = np.frombuffer(values, np.int8).reshape(rows, blocks * BFP_BLOCK)
            tensor = CarmTensor(shape, "bfp16", mantissas, np.frombuffer(scales, np.uint8).reshape(rows, blocks))
        else:
            raise ValueError("an unknown kind")
    except ValueError as error:
        raise bad_model(f"the tensor {_text(name)} in {path.name} has a wrong kind or size") from error
    return _text(name), tensor


def _check_statistic(path: Path, name: str, tensor: CarmTensor) -> None:
    """Raise CardError unless the statistic can normalize features: finite, and variances positive."""
    if not bool(np.isfinite(tensor.values).all()):
        raise bad_model(f"{name} in {path.name} has values that are not finite")
    if name == "melvars" and not bool((tensor.values > 0).all()):
        raise bad_model(f"a variance in {path.name} is not positive")


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
