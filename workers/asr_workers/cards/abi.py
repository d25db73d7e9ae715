"""asr_card.h in ctypes: the structs, with asserted sizes, and the loading of a library."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from asr_proto.errors import SetupError
from asr_workers.cards.errors import CardError, CardStatus

MAJOR, MINOR = 1, 0

CHUNK = np.dtype([("slot", "<u4"), ("flags", "<u4"), ("tag", "<u8")])
COMPLETION = np.dtype(
    [
        ("slot", "<u4"),
        ("status", "<i4"),
        ("tag", "<u8"),
        ("step", "<u8"),
        ("token_offset", "<u4"),
        ("token_count", "<u4"),
        ("packet_offset", "<u4"),
        ("packet_count", "<u4"),
    ]
)
PACKET = np.dtype([("value", "<f4", 32), ("which", "u1", 32)])
"""The largest logits of 256 classes: value[i] is the largest of 8, that of class 256 * packet + 32 * which[i] + i."""


class Identity(ctypes.Structure):
    """asr_card_identity"""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("is_physical", ctypes.c_uint32),
        ("capacity", ctypes.c_uint32),
        ("slots_max", ctypes.c_uint32),
        ("temperature_c", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("id", ctypes.c_char * 64),
        ("serial", ctypes.c_char * 64),
        ("firmware", ctypes.c_char * 64),
        ("name", ctypes.c_char * 64),
        ("link", ctypes.c_char * 64),
    )


class Health(ctypes.Structure):
    """asr_card_health"""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("is_ok", ctypes.c_uint32),
        ("temperature_c", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("completed", ctypes.c_uint64),
        ("errors", ctypes.c_uint64),
        ("ecc_errors", ctypes.c_uint64),
        ("deadline_misses", ctypes.c_uint64),
        ("resets", ctypes.c_uint64),
    )


class Results(ctypes.Structure):
    """asr_card_results"""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("completion_max", ctypes.c_uint32),
        ("token_max", ctypes.c_uint32),
        ("packet_max", ctypes.c_uint32),
        ("completion_count", ctypes.c_uint32),
        ("token_count", ctypes.c_uint32),
        ("packet_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("completions", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("log_probs", ctypes.c_void_p),
        ("packets", ctypes.c_void_p),
    )


# The sizes in C on every 64-bit machine; tests/cards compares them with a compiler's output.
assert (ctypes.sizeof(Identity), ctypes.sizeof(Health), ctypes.sizeof(Results)) == (344, 56, 64)
assert (CHUNK.itemsize, COMPLETION.itemsize, PACKET.itemsize) == (16, 40, 160)

Calls = Any
"""A loaded library; its functions are attributes."""
Call = Callable[..., int]
_Struct = TypeVar("_Struct", bound=ctypes.Structure)

_POINTER, _U32, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "asr_card_count": (_TEXT, _POINTER),
    "asr_card_identify": (_U32, _TEXT, _POINTER),
    "asr_card_open": (_U32, _TEXT, _POINTER),
    "asr_card_close": (_POINTER,),
    "asr_card_get_identity": (_POINTER, _POINTER),
    "asr_card_get_health": (_POINTER, _POINTER),
    "asr_card_load": (_POINTER, _TEXT),
    "asr_card_reserve": (_POINTER, _U32),
    "asr_card_slot_open": (_POINTER, _U32),
    "asr_card_slot_close": (_POINTER, _U32),
    "asr_card_slot_reset": (_POINTER, _U32),
    "asr_card_state_size": (_POINTER, _POINTER),
    "asr_card_state_export": (_POINTER, _U32, _POINTER, _SIZE),
    "asr_card_state_import": (_POINTER, _U32, _POINTER, _SIZE),
    "asr_card_submit": (_POINTER, _POINTER, _U32, _POINTER),
    "asr_card_submit_features": (_POINTER, _POINTER, _U32, _POINTER),
    "asr_card_poll": (_POINTER, _U32, _POINTER),
}


def new(kind: type[_Struct]) -> _Struct:
    """A zeroed struct with its struct_size set, as asr_card.h requires."""
    return kind(struct_size=ctypes.sizeof(kind))


def load(path: Path | None) -> Calls:
    """Load the library at `path`, or the simulator that was built with the package. Raises SetupError."""
    # Resolved, because dlopen searches a bare name only in the system's folders.
    found = path.resolve() if path else simulator()
    if not found.is_file():
        raise SetupError(f"there is no card library {found}")
    try:
        calls: Calls = ctypes.CDLL(str(found))
        calls.asr_card_abi_version.restype = ctypes.c_uint32
        version = calls.asr_card_abi_version()
        if version >> 16 != MAJOR or version & 0xFFFF < MINOR:
            raise SetupError(
                f"{found} has version {version >> 16}.{version & 0xFFFF} of the card interface, which must be "
                f"{MAJOR}.{MINOR} or a later {MAJOR}.x"
            )
        for name, arguments in _SIGNATURES.items():
            call = getattr(calls, name)
            call.argtypes, call.restype = arguments, ctypes.c_int32
        calls.asr_card_last_error.argtypes, calls.asr_card_last_error.restype = (ctypes.c_char_p, _SIZE), None
    except (OSError, AttributeError) as error:
        raise SetupError(f"{found} is no card library: {error}") from error
    return calls


def simulator() -> Path:
    """Path of the simulator's library. Raises SetupError if it was not built."""
    found = importlib.util.find_spec("asr_workers.cards._simulator")
    if found is None or found.origin is None:
        raise SetupError(
            "the card simulator was not built because there was no C compiler when asr-pool was installed: "
            "install gcc or clang and then asr-pool again, or name a card's library with --card-library"
        )
    return Path(found.origin)


def check(calls: Calls, code: int) -> None:
    """Raise CardError with the library's error sentence if a call failed."""
    if code == CardStatus.OK:
        return
    sentence = ctypes.create_string_buffer(512)
    calls.asr_card_last_error(sentence, len(sentence))
    text = sentence.value.decode(errors="replace")
    raise CardError(code, text or "the card's library gave no reason")
