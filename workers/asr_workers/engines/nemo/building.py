"""Errors while a model is built from a checkpoint, each as one sentence that names the part."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from asr_proto.errors import AsrError, SetupError

FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""Errors that a damaged or foreign checkpoint causes in code that expects a sound one."""
REASON_CHARACTERS = 200


@contextmanager
def building(sentence: str, faults: tuple[type[Exception], ...] = FAULTS) -> Iterator[None]:
    """Turns each of `faults` that is raised inside into a SetupError: `sentence`, and the first line of the reason."""
    try:
        yield
    except AsrError:
        raise
    except faults as error:
        raise SetupError(f"{sentence}: {_reason(error)}") from error


def check_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda` or `cuda:N`. Raises SetupError for another name or a missing device."""
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name)
    if found is None:
        raise SetupError(f"the device {name} is not supported: take cpu, cuda or cuda:N")
    if name != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise SetupError(f"there is no {name}: torch finds {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args:
        return f"{error.args[0]} is missing"
    lines = str(error).strip().splitlines()
    return lines[0][:REASON_CHARACTERS] if lines else type(error).__name__
