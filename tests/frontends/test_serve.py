"""The settings of the server that every frontend runs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from asr_frontends.servers.serve import make_server


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost, and its private key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    pem, nothing = serialization.Encoding.PEM, serialization.NoEncryption()
    cert_file.write_bytes(signed.public_bytes(pem))
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, nothing))
    return cert_file, key_file


def test_a_client_cannot_renegotiate(tmp_path: Path) -> None:
    context = make_server(app, 1024, *certificate(tmp_path)).config.ssl
    assert context is not None and context.options & ssl.OP_NO_RENEGOTIATION


def test_without_tls() -> None:
    assert make_server(app, 1024).config.ssl is None
