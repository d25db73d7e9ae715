"""Whether a peer and this broker have a protocol version in common, and what to answer if not. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError

DETAIL_MAX = 128


def rejection(parts: Sequence[bytes | memoryview], error: DecodeError | None = None) -> m.Rejected | None:
    """The answer to a registration or status request that is not accepted; None where there is nothing to answer.

    `parts`: the whole message. `error`: why its first part cannot be read, if it cannot.
    """
    hello = wire.decode_hello(parts)
    if hello is None:
        return None
    if hello.version < m.PROTOCOL_VERSION_MIN or hello.version_min > m.PROTOCOL_VERSION:
        theirs, ours = _range(hello.version_min, hello.version), _range(m.PROTOCOL_VERSION_MIN, m.PROTOCOL_VERSION)
        return m.Rejected("version-mismatch", f"its protocol version is {theirs}, the broker's is {ours}")
    return m.Rejected(error.slug, f"the broker cannot read its message: {error}"[:DETAIL_MAX]) if error else None


def _range(oldest: int, newest: int) -> str:
    return str(newest) if oldest == newest else f"{oldest} to {newest}"
