"""A file of torch.save that comes from elsewhere: what is in it, or why it is not read. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch

from asr_workers.cards import carm


class Wrong(Exception):
    """The rest of a sentence that begins with the file's name."""


def content(path: Path) -> dict[str, object]:
    """The dictionary in a file of torch.save, whole and without objects that would run code. Raises Wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise Wrong(_not_an_archive(path)) from error
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever zipfile and zlib make of an archive that no torch.save wrote
        raise Wrong("is damaged, or an archive of another kind") from error
    if damaged:
        raise Wrong("is damaged: a checksum in it is wrong")
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise Wrong("holds objects that are not tensors and plain values, so it is not loaded") from error
    except Exception as error:  # what is unpickled can fail in any way
        raise Wrong("is not a file of torch.save") from error
    if not isinstance(loaded, dict):
        raise Wrong("is not a hardware checkpoint: it holds no dictionary")
    return loaded


def _not_an_archive(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start == carm.MAGIC:
        return "is a compiled card model, not a hardware checkpoint"
    return "is truncated" if start.startswith(b"PK\3\4") else "is not a hardware checkpoint (a file of torch.save)"


def checksum(path: Path) -> str:
    """sha256 of the file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
