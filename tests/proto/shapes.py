"""The classes of the wire by reflection: examples of each, and their form on the wire as plain values.

`grown` and `cut` write a message as a peer of a newer or an older release would: with one more field at the end, or
without the last field if that has a default. They work on lists of plain values.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import msgpack
from msgspec import NODEFAULT, Meta, structs

from asr_proto import messages as m
from asr_proto import wire

Cls = type[m.Value]
Change = Callable[[Cls, list[Any]], list[Any]]

MESSAGES = wire.tags(m.Message | m.Hello)
FRAMES = wire.tags(m.Frame)

INTEGERS = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, (5 << 32) + 1, m.INT_MAX)
"""Values around each change of an integer's width in msgpack."""
FLOATS = (0.0, 0.1, 1.5, 8.25e-9, 1e300, -2.5)
TEXTS = ("", "a", "the birch canoe", "x" * 31, "y" * 32, "grüße, 世界 🎤", "n" * 128)
BLOBS = (b"", b"\x01\x00\xff\xff", bytes(range(32)), b"\x00" * 31)
SIZES = (0, 1, 2, 3)
EXAMPLES = 8


def classes() -> set[Cls]:
    """Every class of the wire."""
    return {cls for _, cls in inspect.getmembers(m, inspect.isclass) if issubclass(cls, m.Value)} - {m.Value}


def tag(cls: Cls) -> int | None:
    """The tag of a class. None for a class that is only a part of others."""
    found = cls.__struct_config__.tag
    assert found is None or isinstance(found, int)
    return found


@cache
def annotations(cls: Cls) -> dict[str, Any]:
    """The annotations of a class's fields, in their order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in cls.__struct_fields__}


def bare(annotation: Any) -> tuple[Any, Meta]:
    """The type without its limits, and the limits."""
    if get_origin(annotation) is Annotated:
        inner, meta = get_args(annotation)
        return inner, meta
    return annotation, Meta()


def item(annotation: Any) -> Any:
    """The type X in `X | None` or `tuple[X, ...]`; None for every other annotation."""
    is_holder = get_origin(annotation) is tuple or type(None) in get_args(annotation)
    return get_args(annotation)[0] if is_holder else None


def is_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, m.Value)


# ---- Examples ----


def example(cls: Cls, number: int) -> Any:
    """An example of a class, with values at the limits of their types. The same `number` gives the same example."""
    hints = annotations(cls).values()
    return cls(*(_example(hint, number + 5 * place) for place, hint in enumerate(hints)))


def _example(annotation: Any, number: int) -> Any:
    inner, meta = bare(annotation)
    if get_origin(inner) is Literal:
        return get_args(inner)[number % len(get_args(inner))]
    if get_origin(inner) is tuple:
        return tuple(_example(item(inner), number + place) for place in range(SIZES[number % len(SIZES)]))
    if item(inner) is not None:
        return None if number % 3 == 0 else _example(item(inner), number)
    if is_class(inner):
        return example(inner, number)
    pool: tuple[Any, ...] = {bool: (False, True), int: INTEGERS, float: FLOATS, str: TEXTS, bytes: BLOBS}[inner]
    value = pool[number % len(pool)]
    return value[: meta.max_length] if inner in (str, bytes) else within(annotation, value)


def within(annotation: Any, value: Any) -> Any:
    """A number, moved into the limits of its field. Every other value as it is."""
    inner, meta = bare(annotation)
    if inner not in (int, float):
        return value
    assert meta.ge is not None and meta.le is not None
    return inner(min(max(value, meta.ge), meta.le))


# ---- As plain values ----


def plain(value: Any) -> Any:
    """The value as plain lists and scalars. The package msgpack makes the same bytes of these."""
    if isinstance(value, m.Value):
        own = tag(type(value))
        fields = [plain(getattr(value, name)) for name in value.__struct_fields__]
        return fields if own is None else [own, *fields]
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


def changed(cls: Cls, array: list[Any], change: Change) -> list[Any]:
    """The plain array of a `cls`, after `change` was applied to it and to each class in it."""
    head = [] if tag(cls) is None else array[:1]
    fields = zip(array[len(head) :], annotations(cls).values(), strict=False)
    return [*head, *change(cls, [_changed(hint, value, change) for value, hint in fields])]


def _changed(annotation: Any, value: Any, change: Change) -> Any:
    inner, _ = bare(annotation)
    if value is None:
        return None
    if get_origin(inner) is tuple:
        return [_changed(item(inner), entry, change) for entry in value]
    if item(inner) is not None:
        return _changed(item(inner), value, change)
    return changed(inner, value, change) if is_class(inner) else value


def grown(unknown: Any) -> Change:
    """The change that a newer peer makes: one more field at the end, with the value `unknown`."""
    return lambda _, fields: [*fields, unknown]


def bounded(cls: Cls, fields: list[Any]) -> list[Any]:
    """The fields with every number moved into today's limits."""
    hints = annotations(cls).values()
    known = [_bounded(hint, value) for hint, value in zip(hints, fields, strict=False)]
    return [*known, *fields[len(known) :]]


def _bounded(annotation: Any, value: Any) -> Any:
    inner, _ = bare(annotation)
    if get_origin(inner) is tuple:
        return [_bounded(item(inner), entry) for entry in value]
    if item(inner) is not None:
        return None if value is None else _bounded(item(inner), value)
    return within(annotation, value)


def cut(cls: Cls, fields: list[Any]) -> list[Any]:
    """The fields that an older peer writes, which does not have the last field yet."""
    return fields[:-1] if last_default(cls) is not None else fields


def last_default(cls: Cls) -> structs.FieldInfo | None:
    """The last field, if it has a default."""
    fields = structs.fields(cls)
    return fields[-1] if fields and fields[-1].default is not NODEFAULT else None


def defaulted(value: Any, part: Cls = m.Value) -> Any:
    """`value` as it is read after an older peer wrote it: without the last field of all classes, or only of `part`."""
    if isinstance(value, tuple):
        return tuple(defaulted(entry, part) for entry in value)
    if not isinstance(value, m.Value):
        return value
    last = last_default(type(value)) if isinstance(value, part) else None
    fields = {name: defaulted(getattr(value, name), part) for name in value.__struct_fields__}
    return type(value)(**fields | ({last.name: last.default} if last else {}))


# ---- As bytes ----


def encode(cls: Cls, array: list[Any]) -> bytes:
    """Bytes made by the package msgpack: a frame as the only one in a body, every other class as it is."""
    packed: bytes = msgpack.packb([array] if is_frame(cls) else array)
    return packed


def decode(cls: Cls, data: bytes) -> Any:
    """Decode with the function of `wire` that reads a `cls`."""
    if is_frame(cls):
        (frame,) = wire.decode_frames(data)
        return frame
    if cls is m.Hello:
        return wire.decode_hello([data])
    return wire.decode_setup(data) if cls is m.Setup else wire.decode(data)


def is_frame(cls: Cls) -> bool:
    return cls in FRAMES.values()


def on_the_wire() -> list[Cls]:
    """The classes that are sent, alone or as a frame or body."""
    return [*MESSAGES.values(), *FRAMES.values(), m.Setup]
