"""State that another process can continue: structs of plain values, and their bytes (ADR 19). Pure.

A reader refuses a state that it does not understand, and the client then stays where it is. So a field is added at the
end with a default, as in `asr_proto.messages`. An older release refuses the new field.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec import DecodeError as Malformed
from msgspec import Struct
from msgspec.msgpack import Encoder, decode

from asr_proto.errors import DecodeError

T = TypeVar("T")


class Portable(Struct, array_like=True, forbid_unknown_fields=True):
    """Base of all such structs."""


encode = Encoder().encode


def read(state: bytes, kind: type[T]) -> T:
    """The value in bytes that `encode` has returned. Raises DecodeError."""
    try:
        return decode(state, type=kind)
    except (Malformed, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a state of this release: {error}") from error
