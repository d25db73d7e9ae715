"""The broker's allow-list: a folder of public keys (NAME.key), with a folder in it for each role.

A key in the folder of a role may connect in this role only. A key beside these folders may connect in every role, as
all keys could before there were roles. This module uses no sockets.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from asr_process import certificates
from asr_process.certificates import PUBLIC
from asr_proto.errors import SetupError

Role = Literal["worker", "frontend"]
"""The side of the broker to which a key may connect."""
ROLES: tuple[Role, ...] = get_args(Role)
ANY = "any"


def files(folder: Path, role: Role) -> list[Path]:
    """The public keys that may connect in this role; none if the folder does not exist."""
    return [*without_role(folder), *certificates.public_keys(folder / role)]


def without_role(folder: Path) -> Iterator[Path]:
    """The public keys that may connect in every role."""
    return certificates.public_keys(folder)


def all_files(folder: Path) -> list[Path]:
    """All public keys in the list."""
    return [file for place in _places(folder).values() for file in certificates.public_keys(place)]


def allow(source: Path, folder: Path, role: str | None = None) -> list[Path]:
    """Put a public key into the list. Returns where it is now. Raises SetupError.

    With a role, or ANY, the name has only this role from now on. With None, a name that is in the list keeps its role,
    and a new name gets ANY.
    """
    places = _places(folder)
    now = [place for place in places.values() if (place / source.name).exists()]
    wanted = [places[role]] if role else now or [folder]
    for place in wanted:
        _make_like(folder, place)
    copies = [certificates.copy_public(source, place) for place in wanted]
    _remove([place / source.name for place in now if place not in wanted])
    return copies


def revoke(name: str, folder: Path) -> list[Path]:
    """Remove a name from the list, in all its roles. Returns the removed files. Raises SetupError if there is none."""
    file = f"{name.removesuffix(PUBLIC)}{PUBLIC}"
    found = [place / file for place in _places(folder).values() if (place / file).exists()]
    if not found:
        raise SetupError(f"cannot remove {folder / file}: no such file")
    _remove(found)
    return found


def _places(folder: Path) -> dict[str, Path]:
    return {ANY: folder, **{role: folder / role for role in ROLES}}


def _remove(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            raise SetupError(f"cannot remove {path}: {error.strerror}") from error


def _make_like(folder: Path, place: Path) -> None:
    """Make the folder of a role, with the owner and mode of the list, so that the broker can read it too."""
    if not folder.is_dir() or place.is_dir():
        return
    try:
        place.mkdir()
        shutil.copymode(folder, place)
        with suppress(PermissionError):
            os.chown(place, folder.stat().st_uid, folder.stat().st_gid)
    except OSError as error:
        raise SetupError(f"cannot write keys to {place}: {error.strerror}") from error
