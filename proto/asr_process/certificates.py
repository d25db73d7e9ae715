"""CURVE keys on disk, as pyzmq's certificates: NAME.key holds a public key, NAME.key_secret a key pair.

A secret key file that other users can read is rejected. This module uses no sockets.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zmq.auth
from zmq.utils import z85

from asr_proto.errors import SetupError

PUBLIC, SECRET = ".key", ".key_secret"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Pair:
    """A key pair; each key is 40 characters of Z85 (ZeroMQ RFC 32)."""

    public: bytes
    secret: bytes = field(repr=False)


# ---- Reading ----


def load_pair(path: Path) -> Pair:
    """The pair in NAME.key_secret. Raises SetupError, also if other users can read the file."""
    if _mode(path) & 0o077:
        raise SetupError(f"{path} can be read by others: chmod 600 {path}, or make a new key if they may have done so")
    public, secret = _load(path)
    if secret is None:
        raise SetupError(f"{path} holds no secret key: name the {SECRET} file")
    return Pair(public, secret)


def load_public(path: Path) -> bytes:
    """The public key in NAME.key. Raises SetupError, also if the file holds a secret key."""
    public, secret = _load(path)
    if secret is not None:
        raise SetupError(f"{path} holds a secret key: name the {PUBLIC} file, and keep the secret where it was made")
    return public


def public_keys(folder: Path) -> Iterator[Path]:
    """The public key files in a folder, sorted by name; none if the folder does not exist."""
    return iter(sorted(folder.glob(f"*{PUBLIC}")))


def load_publics(path: Path) -> list[bytes]:
    """The public key in a file, or all public keys in a folder. Raises SetupError if there is none."""
    keys = [load_public(file) for file in (public_keys(path) if path.is_dir() else (path,))]
    if not keys:
        raise SetupError(f"{path} holds no {PUBLIC} file")
    return keys


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        raise SetupError(f"cannot read the key {path}: {error.strerror or 'no such file'}") from error
    except ValueError as error:
        raise SetupError(f"{path} is no key file: make one with `asr-keys new`") from error
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise SetupError(f"{path} is damaged: a key has 40 characters of Z85")
    return public, secret


def _is_key(key: bytes) -> bool:
    try:
        return len(z85.decode(key)) == KEY_BYTES
    except (ValueError, KeyError, struct.error):  # wrong length, wrong characters, more than 32 bits
        return False


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SetupError(f"cannot read the key {path}: {error.strerror}") from error


# ---- Writing ----


def make_pair(folder: Path, name: str, *, replace: bool = False) -> tuple[Path, Path]:
    """Write a new pair as NAME.key and NAME.key_secret. Returns both paths. Raises SetupError.

    Each file is replaced atomically.
    """
    public, secret = folder / f"{name}{PUBLIC}", folder / f"{name}{SECRET}"
    for path in (public, secret):
        if not replace and path.exists():
            raise SetupError(f"{path} exists: --replace puts a new pair in its place")
    with _written(folder) as made:
        new_public, new_secret = zmq.auth.create_certificates(made, name)
        Path(new_secret).chmod(0o600)
        Path(new_public).chmod(0o644)
        # The secret key last: if it exists, its public key exists too.
        os.replace(new_public, public)
        os.replace(new_secret, secret)
    return public, secret


def copy_public(source: Path, folder: Path) -> Path:
    """Copy a public key into a folder, under the same file name. Raises SetupError."""
    load_public(source)
    target = folder / source.name
    if target.suffix != PUBLIC:
        raise SetupError(f"{source} must be called NAME{PUBLIC}: files with other names are not read")
    with _written(folder) as made:
        copy = made / source.name
        shutil.copyfile(source, copy)
        copy.chmod(0o644)
        os.replace(copy, target)
    return target


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A private temporary folder on the same file system as `folder`, which is created if it does not exist."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as made:
            yield Path(made)
    except OSError as error:
        raise SetupError(f"cannot write keys to {folder}: {error.strerror}") from error
