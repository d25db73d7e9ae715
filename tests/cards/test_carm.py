"""The file of a compiled model: a written file can be read, and a damaged one is rejected with a reason."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr_workers.cards import carm
from asr_workers.cards.carm import CarmConfig, Precision
from asr_workers.cards.library import CardError, CardLibrary, CardStatus
from tests.cards.reference import LIVELY, SMALL, random_statistics, random_tensors

TENSORS = random_tensors(SMALL, *LIVELY)
STATISTICS = random_statistics(2)
BASE = CarmConfig(240, 1024, 2, 6, 2, 512, 2, 768, 8704, 400, "base")


def written(path: Path, precision: Precision = "int8") -> Path:
    carm.write(path, SMALL, TENSORS, precision, *STATISTICS, b"pieces", "a" * 64)
    return path


@pytest.mark.parametrize("precision", carm.PRECISIONS)
def test_round_trip(tmp_path: Path, precision: Precision) -> None:
    """CAI-11"""
    read = carm.read(written(tmp_path / "m.carm", precision))
    assert (read.config, read.precision, read.sentencepiece) == (SMALL, precision, b"pieces")
    assert read.source_checksum == "a" * 64
    assert read.checksum == hashlib.sha256((tmp_path / "m.carm").read_bytes()[64:]).hexdigest()
    np.testing.assert_array_equal(read.melmeans, STATISTICS[0])
    np.testing.assert_array_equal(read.melvars, STATISTICS[1])
    assert list(read.tensors) == list(SMALL.shapes())
    for name, tensor in read.tensors.items():
        given, got = TENSORS[name], tensor.dequantized()
        assert got.shape == tensor.shape == given.shape
        assert tensor.values.ctypes.data % carm.ALIGNMENT == 0
        assert (np.abs(got - given) <= allowed_error(given, tensor.precision)).all()


def allowed_error(weights: carm.Float32, precision: Precision) -> carm.Float32:
    """Half a quantum, or a whole one if the largest mantissa of a block is rounded down, plus float32 rounding."""
    if precision == "fp32" or weights.ndim == 1:
        return np.zeros_like(weights)
    if precision == "int8":
        row: carm.Float32 = np.abs(weights).max(axis=1, keepdims=True) / 127 * 0.5001
        return row
    padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % 8)))
    largest = np.abs(padded).reshape(len(weights), -1, 8).max(axis=2)
    quanta = 2.0 ** (np.floor(np.log2(largest)) - 6)
    block: carm.Float32 = np.repeat(quanta, 8, axis=1)[:, : weights.shape[1]].astype(np.float32)
    return block


def test_the_sizes_of_base() -> None:
    """CAI-40"""
    assert sum(int(np.prod(shape)) for shape in BASE.shapes().values()) == 84_690_432


def test_quantizing_zeros() -> None:
    zeros = np.zeros((3, 20), np.float32)
    values, scales = carm.quantize_int8(zeros)
    assert not values.any() and not scales.any()
    mantissas, exponents = carm.quantize_bfp16(zeros)
    assert not mantissas.any() and not exponents.any()


def damaged(image: bytes) -> bytes:
    return image[:-70] + bytes([image[-70] ^ 1]) + image[-69:]


def with_checksum(image: bytes) -> bytes:
    """The image with a correct checksum, as from a writer that knows the format."""
    return image[:24] + hashlib.sha256(image[64:]).digest() + image[56:]


def with_field(field: int, value: int) -> Callable[[bytes], bytes]:
    """Change a number in the first statistic's entry, and correct the checksum."""
    at = 256 + field
    return lambda image: with_checksum(image[:at] + value.to_bytes(4, "little") + image[at + 4 :])


def moved(field: int, by: int) -> Callable[[bytes], bytes]:
    """Change an offset of the first weight matrix by some bytes, and correct the checksum."""
    at = 256 + 128 * 2 + field

    def change(image: bytes) -> bytes:
        offset = int.from_bytes(image[at : at + 8], "little") + by
        return with_checksum(image[:at] + offset.to_bytes(8, "little") + image[at + 8 :])

    return change


def bias_of_kind(kind: int) -> Callable[[bytes], bytes]:
    """Mark the first bias as quantized, with a matching size."""

    def change(image: bytes) -> bytes:
        entry = bytearray(image[256 + 128 * 4 : 256 + 128 * 5])
        rows = int.from_bytes(entry[68:72], "little")
        struct.pack_into("<I", entry, 64, kind)
        struct.pack_into("<Q", entry, 88, rows if kind == 1 else 8 * rows)
        struct.pack_into("<QQ", entry, 96, 64, 4 * rows if kind == 1 else rows)
        return with_checksum(image[: 256 + 128 * 4] + bytes(entry) + image[256 + 128 * 5 :])

    return change


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda image: b"", "cannot be read"),
    "a checkpoint": (lambda image: b"PK\x03\x04" + image, "asr-compile"),
    "text": (lambda image: b"hello" * 100, "not a compiled card model"),
    "short": (lambda image: image[:-100], "truncated"),
    "head alone": (lambda image: image[:256], "truncated"),
    "long": (lambda image: image + bytes(100), "truncated"),
    "version": (lambda image: image[:8] + b"\2" + image[9:], "version 2"),
    "damaged": (damaged, "checksum"),
    "sizes": (lambda image: with_checksum(image[:68] + b"\xff\xff\xff\xff" + image[72:]), "out of range"),
    "another size": (lambda image: with_checksum(image[:68] + b"\x31" + image[69:]), "tensor"),
    "features": (lambda image: with_checksum(image[:64] + b"\xa0\0" + image[66:]), "60 ms|front end"),
    "front end": (lambda image: with_checksum(image[:104] + b"\x50" + image[105:]), "front end"),
    "entries": (lambda image: with_checksum(image[:120] + b"\xff\xff\0\0" + image[124:]), "outside"),
    "layers": (lambda image: with_checksum(image[:72] + b"\x41" + image[73:]), "out of range"),
    "values by a byte": (moved(80, 1), "aligned to 64"),
    "values by a number": (moved(80, 4), "aligned to 64"),
    "scales by a number": (moved(96, -4), "aligned to 64"),
    "values at the end": (moved(80, 1 << 40), "outside"),
    "values that wrap": (moved(80, (1 << 64) - (1 << 20)), "outside"),
    "an unknown kind": (with_field(64, 9), "wrong kind"),
    "a vector with columns": (with_field(72, 2), "wrong kind or size"),
    "three axes": (with_field(76, 3), "wrong kind or size"),
    "scales of fp32": (with_field(104, 64), "wrong kind or size"),
    "bias of int8": (bias_of_kind(1), "wrong kind"),
    "bias of bfp16": (bias_of_kind(2), "wrong kind"),
    "offset": (lambda image: with_checksum(image[: 256 + 80] + b"\xff" * 8 + image[256 + 88 :]), "outside"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    change, reason = BAD[name]
    path = tmp_path / "bad.carm"
    path.write_bytes(change(written(tmp_path / "m.carm").read_bytes()))
    with pytest.raises(CardError, match=reason) as error:
        carm.read(path)
    assert error.value.code == CardStatus.MODEL


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        (0, np.nan, "melmeans in bad.carm has values that are not finite"),
        (1, np.inf, "melvars in bad.carm has values that are not finite"),
        (1, 0.0, "a variance in bad.carm is not positive"),
        (1, -1.0, "a variance in bad.carm is not positive"),
    ],
)
def test_statistics_that_normalize_nothing(tmp_path: Path, entry: int, value: float, reason: str) -> None:
    """In a file whose checksum is correct."""
    image = written(tmp_path / "m.carm").read_bytes()
    at = int.from_bytes(image[256 + 128 * entry + 80 :][:8], "little")
    path = tmp_path / "bad.carm"
    path.write_bytes(with_checksum(image[:at] + struct.pack("<f", value) + image[at + 4 :]))
    with pytest.raises(CardError, match=reason) as error:
        carm.read(path)
    assert error.value.code == CardStatus.MODEL


def test_statistics_that_are_quantized(tmp_path: Path) -> None:
    image = written(tmp_path / "m.carm").read_bytes()
    means = bytearray(image[256:384])
    struct.pack_into("<I", means, 64, 2)
    struct.pack_into("<QQQQ", means, 80, 384, 640, 384, 80)
    struct.pack_into("<II", means, 68, 80, 1)
    path = tmp_path / "bad.carm"
    path.write_bytes(with_checksum(image[:256] + bytes(means) + image[384:]))
    with pytest.raises(CardError, match=r"melmeans in bad\.carm has a wrong kind"):
        carm.read(path)


def test_a_tensor_that_is_there_twice(tmp_path: Path) -> None:
    """It would be unclear which of the two counts."""
    image = written(tmp_path / "m.carm").read_bytes()
    count = int.from_bytes(image[120:124], "little")
    entries = bytearray(image[256 : 256 + 128 * count] + image[256 + 128 * 2 : 256 + 128 * 3])
    for at in range(0, len(entries), 128):
        for field in (at + 80, at + 96):
            offset = int.from_bytes(entries[field : field + 8], "little")
            struct.pack_into("<Q", entries, field, offset + 128 if offset else 0)
    head = image[:16] + (len(image) + 128).to_bytes(8, "little") + image[24:120] + (count + 1).to_bytes(4, "little")
    path = tmp_path / "bad.carm"
    path.write_bytes(with_checksum(head + image[124:256] + bytes(entries) + image[256 + 128 * count :]))
    with pytest.raises(CardError, match=r"tensors in bad\.carm are not those of its configuration"):
        carm.read(path)


@pytest.mark.parametrize("name", BAD)
def test_cards_refuse_them_too(tmp_path: Path, simulator: CardLibrary, name: str) -> None:
    """CAI-12: also an uncompiled checkpoint."""
    path = tmp_path / "bad.carm"
    path.write_bytes(BAD[name][0](written(tmp_path / "m.carm").read_bytes()))
    card = simulator.open(0)
    with pytest.raises(CardError) as error:
        card.load(path)
    assert error.value.code == CardStatus.MODEL
    assert "bad.carm" in error.value.sentence or "tensor" in error.value.sentence
    card.close_card()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no model"):
        carm.read(tmp_path / "none.carm")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"in_feats": 250}, "60 ms"),
        ({"enc_stack_time_factor": 3}, "60 ms"),
        ({"window_samples": 1024}, "window"),
        ({"enc_n_hid": 0}, "sizes"),
        ({"name": "a name that is too long"}, "name"),
    ],
)
def test_shapes_that_are_no_model(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    config = replace(SMALL, **change)
    with pytest.raises(CardError, match=reason):
        carm.write(tmp_path / "m.carm", config, TENSORS, "fp32", *STATISTICS, b"", "")


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    name = "joint_enc.weight"
    infinite = TENSORS[name].copy()
    infinite[1, 2] = np.inf
    bad = {
        "missing": {key: tensor for key, tensor in TENSORS.items() if key != name},
        "shape": {**TENSORS, name: TENSORS[name].T},
        "finite": {**TENSORS, name: infinite},
    }
    for reason, tensors in bad.items():
        with pytest.raises(CardError, match=reason):
            carm.write(tmp_path / "m.carm", SMALL, tensors, "int8", *STATISTICS, b"", "")
    means, variances = STATISTICS
    with pytest.raises(CardError, match="variance"):
        carm.write(tmp_path / "m.carm", SMALL, TENSORS, "int8", means, variances * 0, b"", "")
