"""Reads a file of torch.save from an untrusted source, without executing anything in it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch

from asr_workers.cards import carm


class InvalidCheckpoint(Exception):
    """Why a checkpoint is refused: the rest of a sentence that begins with the file's name."""


def content(path: Path) -> dict[str, object]:
    """The dictionary in a file of torch.save. Raises InvalidCheckpoint for damage, and for objects that run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InvalidCheckpoint(_not_an_archive(path)) from error
    except OSError as error:
        raise InvalidCheckpoint(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile and zlib raise many kinds for an archive that torch.save did not write
        raise InvalidCheckpoint("is damaged, or an archive of another kind") from error
    if damaged:
        raise InvalidCheckpoint("is damaged: a checksum in it is wrong")
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InvalidCheckpoint("holds objects that are not tensors and plain values, so it is not loaded") from error
    except Exception as error:  # unpickling damaged data can raise any exception
        raise InvalidCheckpoint("is not a file of torch.save") from error
    if not isinstance(loaded, dict):
        raise InvalidCheckpoint("is not a hardware checkpoint: it holds no dictionary")
    return loaded


def _not_an_archive(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start == carm.MAGIC:
        return "is a compiled card model, not a hardware checkpoint"
    return "is truncated" if start.startswith(b"PK\3\4") else "is not a hardware checkpoint (a file of torch.save)"


def checksum(path: Path) -> str:
    """The SHA-256 of the file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
