"""The checksum that identifies the weights of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

DIGITS = 16


def checksum(files: Iterable[Path]) -> str:
    """The first DIGITS hexadecimal digits of the SHA-256 of these files, concatenated. Raises OSError."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:DIGITS]
