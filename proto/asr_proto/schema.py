"""Typed msgpack for frozen dataclasses: a class becomes an array [tag, field, field, ...].

The reader of a class is put together once, from its annotations, so that a decoded message is always a valid
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
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgpack

from asr_proto.errors import DecodeError

DEFAULT_LIMIT = 1024
INT_MAX = 2**63 - 1
INTEGER = "an integer from 0 to 2**63-1"

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
    raise _fail(INTEGER, value)


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


def _check_array(value: Any, limit: int) -> None:
    if type(value) is not list:
        raise _fail("an array", value)
    if len(value) > limit:
        raise DecodeError(f"array of {len(value)} items exceeds {limit}")


def _sequence(item: Check, limit: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        _check_array(value, limit)
        return tuple([item(entry) for entry in value])

    return check


def _integers(limit: int) -> Check:
    """A sequence of integers, without a call for each: the broker reads all leases of all bundles."""

    def check(value: Any) -> tuple[int, ...]:
        _check_array(value, limit)
        for entry in value:
            if type(entry) is not int or not 0 <= entry <= INT_MAX:
                raise _fail(INTEGER, entry)
        return tuple(value)

    return check


def _optional(item: Check) -> Check:
    return lambda value: None if value is None else item(value)


def _literal(options: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if type(value) is str and value in options:
            return value
        raise DecodeError(f"expected one of {', '.join(options)}")

    return check


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
        return _integers(limit) if args[0] is int else _sequence(_check_for(args[0]), limit)
    if annotation in (str, bytes):
        return _sized(annotation, limit)
    if is_dataclass(annotation):
        return reader(annotation)
    return _PLAIN[annotation]


def reader(cls: Any, tagged: bool = False) -> Check:
    """What makes a `cls` of an array of its fields, `tagged`: behind a tag. It raises DecodeError.

    It puts each field into its slot, as the constructor of a frozen dataclass does in a roundabout way, which takes
    longer than all checks of an audio frame. So messages have slots, and none has a `__post_init__`.
    """
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    steps = [(n, cls.__dict__[name].__set__, _check_for(hints[name])) for n, name in enumerate(names, int(tagged))]
    size, new = int(tagged) + len(steps), object.__new__

    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != size:
            raise DecodeError(f"{cls.__name__} takes an array of {size} values")
        message = new(cls)
        for place, put, check in steps:
            put(message, check(value[place]))
        return message

    return read


@cache
def _values(cls: Any) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the fields of a `cls` in order."""
    names = [field.name for field in fields(cls)]
    if not names:
        return lambda _: ()
    if len(names) == 1:
        get_one = attrgetter(names[0])
        return lambda message: (get_one(message),)
    return attrgetter(*names)


def to_array(message: Any) -> tuple[Any, ...]:
    """The fields of a dataclass in order; nested dataclasses become arrays when packed."""
    return _values(message.__class__)(message)


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
