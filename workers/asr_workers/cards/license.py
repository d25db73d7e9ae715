"""Licenses: signed documents that allow a deployment to use one physical card, up to a date and a version.

A license is a JSON file in the license folder: the document and its Ed25519 signature (RFC 8032) by the issuer. The
issuer's public key is in the same folder, as `issuer.pub`. Licenses prevent the use of a card by mistake, after the
agreed date or in another place. They do not protect against someone who can write to the folder and so can replace the
issuer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from asr_proto.errors import SetupError

SUFFIX = ".license"
ISSUER = "issuer.pub"
SECRET_MODE, PUBLIC_MODE = 0o600, 0o644
FILE_BYTES_MAX = 65536
VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*", re.ASCII)
"""Form of `version_max`: numbers with dots."""
CONTENT = "licence"  # codespell:ignore licence
"""Key of the signed fields in a license file. Issued files have this spelling."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class License:
    """The signed document."""

    card: str
    """Id of the card, as printed by `asr-card list`."""
    holder: str
    expires: date
    """The last valid day, in UTC."""
    version_max: str
    """The highest valid version of asr-pool, such as "1.4", which includes 1.4.9. Empty: any version."""
    issued: date

    @property
    def id(self) -> str:
        """Short id of this license, for logs and the pool's status."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()[:12]

    def signed_bytes(self) -> bytes:
        return json.dumps(self._fields(), sort_keys=True, separators=(",", ":")).encode()

    def _fields(self) -> dict[str, str | int]:
        fields = {name: str(value) for name, value in asdict(self).items()}
        return {"format": _FORMAT, **fields}

    def encode(self, key: Ed25519PrivateKey) -> str:
        """The text of the license file, signed with `key`."""
        signature = base64.b64encode(key.sign(self.signed_bytes())).decode()
        return json.dumps({CONTENT: self._fields(), "signature": signature}, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Now:
    """The day (UTC) and the version of asr-pool that a license is checked against."""

    day: date
    version: str

    @classmethod
    def here(cls) -> Self:
        return cls(datetime.now(UTC).date(), installed_version("asr-pool"))


# ---- Reading ----


def find(folder: Path, card: str, now: Now) -> License:
    """The valid license for this card that expires last. Raises SetupError with the reasons if there is none."""
    issuer = read_issuer(folder / ISSUER)
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise SetupError(f"there is no license (*{SUFFIX}) in {folder}")
    good: list[License] = []
    reasons: list[str] = []
    for file in files:
        try:
            license = read(file, issuer)
            check(license, card, now)
            good.append(license)
        except SetupError as error:
            reasons.append(f"{file.name} {error}")
    if not good:
        raise SetupError(f"no license in {folder} is good for card {card}: {'; '.join(reasons)}")
    return max(good, key=lambda license: license.expires)


def read(path: Path, issuer: Ed25519PublicKey) -> License:
    """Read a license and check its signature. Raises SetupError, whose text continues a sentence about the file."""
    license, signature = parse(path)
    try:
        issuer.verify(signature, license.signed_bytes())
    except InvalidSignature as error:
        raise SetupError("was changed, or is from another issuer: its signature is wrong") from error
    return license


def check(license: License, card: str, now: Now) -> None:
    """Raise SetupError, as `read` does, unless the license is valid for this card, day and version."""
    if license.card != card:
        raise SetupError(f"is for card {license.card}")
    if now.day > license.expires:
        raise SetupError(f"expired on {license.expires}")
    if license.version_max and _numbers(now.version)[: len(_numbers(license.version_max))] > _numbers(
        license.version_max
    ):
        raise SetupError(f"is for versions up to {license.version_max}, and this is {now.version}")


def parse(path: Path) -> tuple[License, bytes]:
    """Read a license and its signature, without checking the signature. Raises SetupError as `read` does."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(FILE_BYTES_MAX))
        fields = document[CONTENT]
        if fields.pop("format") != _FORMAT:
            raise ValueError("an unknown format")
        expires, issued = (date.fromisoformat(fields.pop(name)) for name in ("expires", "issued"))
        license = License(expires=expires, issued=issued, **fields)
        if not all(isinstance(text, str) for text in (license.card, license.holder, license.version_max)):
            raise ValueError("fields that are no text")
        if license.version_max and not VERSION.fullmatch(license.version_max):
            raise ValueError(f"the version {license.version_max!r}")
        return license, base64.b64decode(document["signature"], validate=True)
    except OSError as error:
        raise SetupError(f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SetupError(f"is no license: {error}") from error


def read_issuer(path: Path) -> Ed25519PublicKey:
    """The issuer's public key, which verifies licenses. Raises SetupError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SetupError(f"the issuer's public key {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{path} is no public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SetupError(f"{path} is no Ed25519 key")
    return key


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 4) for "1.4"; a suffix such as the one of 1.4.0rc1 is ignored."""
    return tuple(int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]


# ---- Issuing ----


def new_issuer(folder: Path, name: str) -> tuple[Path, Path]:
    """Write an issuer's key pair: NAME.key_secret, and `issuer.pub` for license folders. Raises SetupError.

    Returns both paths.
    """
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret_path, public_path = folder / f"{name}.key_secret", folder / ISSUER
    made: list[Path] = []
    try:
        for path in (secret_path, public_path):
            if path.exists():
                raise SetupError(f"{path} is there already")
        folder.mkdir(parents=True, exist_ok=True)
        for path, content, mode in ((secret_path, secret, SECRET_MODE), (public_path, public, PUBLIC_MODE)):
            path.touch(mode, exist_ok=False)
            made.append(path)
            path.write_bytes(content)
    except OSError as error:
        for path in made:  # half a pair would block the next try
            path.unlink(missing_ok=True)
        raise SetupError(f"the issuer's keys cannot be written into {folder}: {error.strerror}") from error
    return secret_path, public_path


def read_secret(path: Path) -> Ed25519PrivateKey:
    """The issuer's secret key, which signs licenses. Raises SetupError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise SetupError(f"{path} is no secret key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupError(f"{path} is no Ed25519 key")
    return key
