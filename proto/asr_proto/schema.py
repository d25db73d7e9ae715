"""Typed msgpack for frozen dataclasses: a class becomes an array [tag, field, field, ...].

The checks are derived once per class from its annotations, so that a decoded message is always a valid
one. Supported annotations: bool, int, float, str, bytes, `X | None`, `tuple[X, ...]`, Literal of strings,
nested dataclasses, and `Annotated[X, Limit(n)]` for the largest length of str, bytes and tuples.
Integers are 0 <= n < 2**63; floats are finite. A str, bytes or tuple without a Limit has DEFAULT_LIMIT.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from asr_proto.errors import DecodeError

DEFAULT_LIMIT = 1024
INT_MAX = 2**63 - 1

T = TypeVar("T")
Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """Largest length: characters of a str, bytes of a bytes, items of a tuple."""

    max: int


def _fail(expected: str, value: object) -> DecodeError:
    return DecodeError(f"expected {expected}, got {type(value).__name__}")


def _check_bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise _fail("a boolean", value)


def _check_int(value: Any) -> int:
    if type(value) is int and 0 <= value <= INT_MAX:
        return value
    raise _fail("an integer from 0 to 2**63-1", value)


def _check_float(value: Any) -> float:
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise _fail("a finite number", value)


def _sized(kind: type[str] | type[bytes], limit: int) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _fail(kind.__name__, value)
        if len(value) > limit:
            raise DecodeError(f"{kind.__name__} of length {len(value)} exceeds {limit}")
        return value

    return check


def _sequence(item: Check, limit: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _fail("an array", value)
        if len(value) > limit:
            raise DecodeError(f"array of {len(value)} items exceeds {limit}")
        return tuple([item(entry) for entry in value])

    return check


def _optional(item: Check) -> Check:
    return lambda value: None if value is None else item(value)


def _literal(options: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if type(value) is str and value in options:
            return value
        raise DecodeError(f"expected one of {', '.join(options)}")

    return check


def _nested(cls: Any) -> Check:
    return lambda value: from_array(cls, value)


_PLAIN: dict[Any, Check] = {bool: _check_bool, int: _check_int, float: _check_float}


def _check_for(annotation: Any, limit: int = DEFAULT_LIMIT) -> Check:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _check_for(args[0], args[1].max)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return _optional(_check_for(args[0], limit))
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _sequence(_check_for(args[0]), limit)
    if annotation in (str, bytes):
        return _sized(annotation, limit)
    if is_dataclass(annotation):
        return _nested(annotation)
    return _PLAIN[annotation]


@cache
def _checks(cls: Any) -> tuple[Check, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_check_for(hints[field.name]) for field in fields(cls))


@cache
def _values(cls: Any) -> Callable[[Any], Any]:
    names = [field.name for field in fields(cls)]
    if not names:
        return lambda _: ()
    if len(names) == 1:
        get_one = attrgetter(names[0])
        return lambda message: (get_one(message),)
    return attrgetter(*names)


def to_array(message: Any) -> list[Any]:
    """The fields of a dataclass in order; nested dataclasses become arrays when packed."""
    return list(_values(message.__class__)(message))


def from_array(cls: Callable[..., T], value: Any) -> T:
    """The dataclass `cls` from an array of its fields. Raises DecodeError."""
    checks = _checks(cls)
    if type(value) is not list or len(value) != len(checks):
        raise DecodeError(f"{cls} takes an array of {len(checks)} fields")
    return cls(*[check(entry) for check, entry in zip(checks, value, strict=True)])


def pack(value: Any) -> bytes:
    """msgpack bytes of plain values, tuples and dataclasses (as arrays of their fields)."""
    packed: bytes = msgpack.packb(value, default=to_array)
    return packed


def unpack(data: bytes | memoryview, size_max: int) -> Any:
    """One msgpack value of at most `size_max` bytes. Raises DecodeError and nothing else."""
    if len(data) > size_max:
        raise DecodeError(f"{len(data)} bytes exceed the limit of {size_max}", slug="message-too-large")
    try:
        return msgpack.unpackb(data, strict_map_key=True, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError(f"not msgpack: {error}") from error
