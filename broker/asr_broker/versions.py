"""Whether a peer and this broker have a protocol version in common, and the answer if they have none. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError

DETAIL_MAX = 128
OTHER_FIELDS = "its protocol version is that of the broker, but its messages have other fields"


def rejection(parts: Sequence[bytes | memoryview], error: DecodeError | None = None) -> m.Rejected | None:
    """The answer to a registration or status request that is not accepted; None if it is accepted, or is neither.

    `parts`: all parts of the message. `error`: why its first part cannot be read; None if it was read.
    """
    hello = wire.decode_hello(parts)
    return _rejection(hello, error) if hello else _of_one_version(parts, error)


def _rejection(hello: m.Hello, error: DecodeError | None) -> m.Rejected | None:
    if hello.version < m.PROTOCOL_VERSION_MIN or hello.version_min > m.PROTOCOL_VERSION:
        peers, own = _range(hello.version_min, hello.version), _range(m.PROTOCOL_VERSION_MIN, m.PROTOCOL_VERSION)
        return m.Rejected("version-mismatch", f"its protocol version is {peers}, the broker's is {own}")
    return m.Rejected(error.slug, f"the broker cannot read its message: {error}"[:DETAIL_MAX]) if error else None


def _of_one_version(parts: Sequence[bytes | memoryview], error: DecodeError | None) -> m.Rejected | None:
    """The answer to a peer of a release before Hello. It reads no message that is longer or shorter than its own, so
    its request must have exactly this release's fields."""
    for part in parts:
        if (version := wire.decode_version(part)) is not None:
            rejected = _rejection(m.Hello(version, version, ""), error)
            return rejected or (None if wire.is_exact(part) else m.Rejected("version-mismatch", OTHER_FIELDS))
    return None


def _range(oldest: int, newest: int) -> str:
    return str(newest) if oldest == newest else f"{oldest} to {newest}"
