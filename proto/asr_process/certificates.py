"""CURVE keys on disk: pyzmq's own certificates, NAME.key with a public key and NAME.key_secret with a pair.

A secret that others can read is refused rather than used. What this module must not know: sockets, and what a key is
for.
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
    """Both halves in Z85, forty characters each."""

    public: bytes
    secret: bytes = field(repr=False)


# ---- Reading ----


def load_pair(path: Path) -> Pair:
    """The pair in NAME.key_secret. Raises SetupError, also when others can read the file."""
    if _mode(path) & 0o077:
        raise SetupError(f"{path} can be read by others: chmod 600 {path}, or make a new key if they may have done so")
    public, secret = _load(path)
    if secret is None:
        raise SetupError(f"{path} holds no secret key: name the {SECRET} file")
    return Pair(public, secret)


def load_public(path: Path) -> bytes:
    """The public key in NAME.key. Raises SetupError; a secret has no business where public keys lie."""
    public, secret = _load(path)
    if secret is not None:
        raise SetupError(f"{path} holds a secret key: name the {PUBLIC} file, and keep the secret where it was made")
    return public


def public_keys(folder: Path) -> Iterator[Path]:
    """The certificates of a folder, by name; nothing where there is no such folder."""
    return iter(sorted(folder.glob(f"*{PUBLIC}")))


def load_publics(path: Path) -> list[bytes]:
    """The public key in a file, or all of a folder. Raises SetupError when there is none."""
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
            raise SetupError(f"{path} is damaged: a key has forty characters of Z85")
    return public, secret


def _is_key(key: bytes) -> bool:
    try:
        return len(z85.decode(key)) == KEY_BYTES
    except (ValueError, KeyError, struct.error):  # of another length, of other characters, beyond 32 bits
        return False


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SetupError(f"cannot read the key {path}: {error.strerror}") from error


# ---- Writing ----


def make_pair(folder: Path, name: str, *, replace: bool = False) -> tuple[Path, Path]:
    """A new pair as NAME.key and NAME.key_secret; readers see the old files or the new ones. Raises SetupError."""
    public, secret = folder / f"{name}{PUBLIC}", folder / f"{name}{SECRET}"
    for path in (public, secret):
        if not replace and path.exists():
            raise SetupError(f"{path} exists: --replace puts a new pair in its place")
    with _written(folder) as made:
        new_public, new_secret = zmq.auth.create_certificates(made, name)
        Path(new_secret).chmod(0o600)
        Path(new_public).chmod(0o644)
        # The secret last: who sees it has the public key to hand out.
        os.replace(new_public, public)
        os.replace(new_secret, secret)
    return public, secret


def copy_public(source: Path, folder: Path) -> Path:
    """Put a public key into a folder under its own name. Raises SetupError."""
    load_public(source)
    target = folder / source.name
    if target.suffix != PUBLIC:
        raise SetupError(f"{source} must be called NAME{PUBLIC}: other names are not looked at")
    with _written(folder) as made:
        copy = made / source.name
        shutil.copyfile(source, copy)
        copy.chmod(0o644)
        os.replace(copy, target)
    return target


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A place that only we can read, on the file system of the folder, which is made if need be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as made:
            yield Path(made)
    except OSError as error:
        raise SetupError(f"cannot write keys to {folder}: {error.strerror}") from error
