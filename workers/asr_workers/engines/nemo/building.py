"""What keeps a model from being built from a checkpoint, in one sentence that says which part it was."""

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
"""What damaged or foreign checkpoints lead to in code that expects sound ones."""
REASON_CHARACTERS = 200


@contextmanager
def building(sentence: str, faults: tuple[type[Exception], ...] = FAULTS) -> Iterator[None]:
    """Raises SetupError with `sentence` and the first line of the reason, for whatever of `faults` is raised inside."""
    try:
        yield
    except AsrError:
        raise
    except faults as error:
        raise SetupError(f"{sentence}: {_reason(error)}") from error


def check_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`. Raises SetupError where it is not there."""
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name)
    if found is None:
        raise SetupError(f"the device {name} is not supported: take cpu, cuda or cuda:N")
    if name != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise SetupError(f"there is no {name}: torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args:
        return f"{error.args[0]} is missing"
    lines = str(error).strip().splitlines()
    return lines[0][:REASON_CHARACTERS] if lines else type(error).__name__
