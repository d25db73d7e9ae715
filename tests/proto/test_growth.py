"""Peers of older and newer releases can read each other's messages: proto/README.md, "Growth"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec import NODEFAULT, structs

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from tests.proto.shapes import (
    EXAMPLES,
    Change,
    Cls,
    annotations,
    bare,
    bounded,
    changed,
    classes,
    cut,
    decode,
    defaulted,
    encode,
    example,
    grown,
    is_class,
    is_frame,
    item,
    on_the_wire,
    plain,
    tag,
    within,
)

LATER = {"Hello", "Crashed"}
"""Classes that the first release with kept bytes did not have there."""
KEPT = sorted((Path(__file__).parent / "kept").glob("*.jsonl"))
UNKNOWN = (
    *(None, True, -1, 2**64 - 1, float("nan"), "text", b"bytes", [1, [2, "x"]]),
    *({"a": {"b": 1}}, msgpack.ExtType(1, b"x")),
)
"""Values that a newer release may put into an unknown field."""


def parts(cls: Cls) -> set[Cls]:
    """A class and all classes nested in it."""
    found = {cls}
    for annotation in annotations(cls).values():
        inner, _ = bare(annotation)
        while item(inner) is not None:
            inner, _ = bare(item(inner))
        if is_class(inner):
            found |= parts(inner)
    return found


EACH = [pytest.param(cls, id=cls.__name__) for cls in on_the_wire()]
EACH_PART = [
    pytest.param(cls, part, id=f"{part.__name__} in {cls.__name__}")
    for cls in on_the_wire()
    for part in sorted(parts(cls), key=lambda part: part.__name__)
]


def only(part: Cls, change: Change) -> Change:
    """Apply `change` to one class only."""
    return lambda cls, fields: change(cls, fields) if cls is part else fields


def test_every_class_is_tried() -> None:
    assert {param.values[1] for param in EACH_PART} == classes()


@pytest.mark.parametrize(("cls", "part"), EACH_PART)
def test_fields_of_newer_peers_are_ignored(cls: Cls, part: Cls) -> None:
    for number in range(EXAMPLES):
        one = example(cls, number)
        for unknown in UNKNOWN:
            longer = changed(cls, plain(one), only(part, grown(unknown)))
            assert decode(cls, encode(cls, longer)) == one


@pytest.mark.parametrize(("cls", "part"), EACH_PART)
def test_fields_that_older_peers_lack_have_their_defaults(cls: Cls, part: Cls) -> None:
    for number in range(EXAMPLES):
        one = example(cls, number)
        shorter = changed(cls, plain(one), only(part, cut))
        assert decode(cls, encode(cls, shorter)) == defaulted(one, part)


@pytest.mark.parametrize("cls", EACH)
def test_all_of_a_message_may_be_longer_or_shorter_at_once(cls: Cls) -> None:
    for number in range(EXAMPLES):
        one = example(cls, number)
        longer = changed(cls, plain(one), lambda _, fields: [*fields, 1, "two"])
        assert decode(cls, encode(cls, longer)) == one
        assert decode(cls, encode(cls, changed(cls, plain(one), cut))) == defaulted(one)


@pytest.mark.parametrize("cls", EACH)
def test_a_message_may_end_before_any_field_that_has_a_default(cls: Cls) -> None:
    """An older peer may lack several fields. A missing field without a default is an error."""
    one, head = example(cls, 1), 0 if tag(cls) is None else 1
    fields = structs.fields(cls)
    for known in range(len(fields)):
        data = encode(cls, plain(one)[: head + known])
        if cls is m.Hello:
            assert decode(cls, data) is None
        elif fields[known].default is NODEFAULT:
            with pytest.raises(DecodeError):
                decode(cls, data)
        else:
            rest = {field.name: field.default for field in fields[known:]}
            assert decode(cls, data) == structs.replace(one, **rest)


def test_defaults_come_last() -> None:
    """A field without a default after a field with one cannot have been added by the rules."""
    for cls in classes():
        has_default = [field.default is not NODEFAULT for field in structs.fields(cls)]
        assert has_default == sorted(has_default), cls


def test_a_frame_that_only_newer_peers_have_is_left_out() -> None:
    known = [m.Stop(1), m.Audio(2, 0, b"\0\0")]
    body = [plain(known[0]), [99, 1, {"what": "ever"}], plain(known[1]), [2**63 - 1]]
    assert wire.decode_frames(msgpack.packb(body)) == known
    assert wire.decode_frames(msgpack.packb([[99]])) == []


@pytest.mark.parametrize("bad", [[3, -1], [3], [], ["99"], [True, 1], 99, None, [-1, 1], [2**63, 1]])
def test_a_bad_frame_beside_one_that_is_unknown_is_an_error(bad: Any) -> None:
    with pytest.raises(DecodeError):
        wire.decode_frames(msgpack.packb([[99, 1], bad]))


def test_an_unknown_message_is_an_error_that_names_its_tag() -> None:
    with pytest.raises(DecodeError, match="99"):
        wire.decode(msgpack.packb([99, 1]))


# ---- Bytes of former releases ----


def kept() -> list[Any]:
    assert KEPT
    lines = [(path.stem, line) for path in KEPT for line in path.read_text(encoding="utf-8").splitlines()]
    found = [(release, json.loads(line)) for release, line in lines]
    return [pytest.param(one, id=f"{release}-{one['class']}-{n}") for n, (release, one) in enumerate(found)]


@pytest.mark.parametrize("one", kept())
def test_the_bytes_of_former_releases(one: dict[str, Any]) -> None:
    """They decode to the same fields. Today's bytes for the same message begin with the same values.

    The first file has numbers that no release sends. A message with one is rejected, and decodes with the nearest
    number within today's limits.
    """
    cls: Cls = getattr(m, one["class"])
    data = bytes.fromhex(one["bytes"])
    array = msgpack.unpackb(data)[0] if is_frame(cls) else msgpack.unpackb(data)
    if (sent := changed(cls, array, bounded)) != array:
        with pytest.raises(DecodeError):
            decode(cls, data)
        data = encode(cls, sent)
    message = decode(cls, data)
    assert_means(message, one["fields"])
    today = wire.encode_frames([message]) if is_frame(cls) else wire.encode(message)
    assert_begins(msgpack.unpackb(today), msgpack.unpackb(data))


def test_the_bytes_of_the_first_release_are_of_every_class_of_that_time() -> None:
    lines = (KEPT[0].read_text(encoding="utf-8")).splitlines()
    assert KEPT[0].stem == "2026-12-01"
    assert {json.loads(line)["class"] for line in lines} == {cls.__name__ for cls in on_the_wire()} - LATER


def assert_means(value: Any, expected: Any, annotation: Any = None) -> None:
    """Each field of that release has its value within today's limits. Each field added since has its default."""
    inner, _ = bare(annotation)
    if item(inner) is not None and value is not None and not isinstance(value, tuple):
        annotation = item(inner)
    if isinstance(value, m.Value):
        since = {field.name: field.default for field in structs.fields(value) if field.name not in expected}
        assert all(getattr(value, name) == default for name, default in since.items())
        for name, then in expected.items():
            assert_means(getattr(value, name), then, annotations(type(value))[name])
    elif isinstance(value, tuple):
        assert len(value) == len(expected)
        for entry, then in zip(value, expected, strict=True):
            assert_means(entry, then, item(inner))
    else:
        assert (value.hex() if isinstance(value, bytes) else value) == within(annotation, expected)


def assert_begins(value: Any, beginning: Any) -> None:
    if isinstance(value, list):
        assert len(value) >= len(beginning)
        for entry, then in zip(value, beginning, strict=False):
            assert_begins(entry, then)
    else:
        assert (type(value), value) == (type(beginning), beginning)
