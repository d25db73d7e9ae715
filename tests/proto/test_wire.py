"""Every message class survives encoding and decoding. For any bytes, decoding raises nothing but DecodeError."""

from __future__ import annotations

import contextlib
import re
import struct
import typing
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from tests.proto import shapes


def values(annotation: typing.Any) -> st.SearchStrategy[typing.Any]:
    """A strategy for any field type that messages use."""
    inner, meta = shapes.bare(annotation)
    if typing.get_origin(inner) is typing.Literal:
        return st.sampled_from(typing.get_args(inner))
    if typing.get_origin(inner) is tuple:
        return st.lists(values(shapes.item(inner)), max_size=4).map(tuple)
    if shapes.item(inner) is not None:
        return st.none() | values(shapes.item(inner))
    if shapes.is_class(inner):
        return instances(inner)
    limit = min(20, meta.max_length or 0)
    return {
        bool: st.booleans(),
        int: st.integers(meta.ge, meta.le),
        float: st.floats(meta.ge, meta.le, allow_nan=False),
        str: st.text(max_size=limit),
        bytes: st.binary(max_size=limit),
    }[inner]


def instances(cls: shapes.Cls) -> st.SearchStrategy[typing.Any]:
    return st.builds(cls, **{name: values(hint) for name, hint in shapes.annotations(cls).items()})


README = Path(__file__).parents[2] / "proto/README.md"
NESTED = {m.Spec, m.Commit, m.Word, m.Suspicion, m.Setup, m.Load, m.WorkerStatus, m.FrontendStatus}


def test_every_class_has_a_tag_or_is_part_of_one() -> None:
    tagged = set(shapes.MESSAGES.values()) | set(shapes.FRAMES.values())
    assert tagged | NESTED == shapes.classes()
    assert not tagged & NESTED


def test_the_specification_has_every_tag_and_field() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+\(.*?\)) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    tagged = [*sorted(shapes.MESSAGES.items()), *sorted(shapes.FRAMES.items())]
    shown = {(str(tag), f"{cls.__name__}({', '.join(cls.__struct_fields__)})") for tag, cls in tagged}
    assert {(tag, row.replace("?", "")) for tag, row in rows} == shown
    assert len(rows) == len(tagged)


@pytest.mark.parametrize("cls", sorted(shapes.classes(), key=str), ids=lambda cls: cls.__name__)
def test_every_field_has_its_limits(cls: shapes.Cls) -> None:
    """A str, bytes or array without a limit could fill the memory. A number without limits could be NaN or negative."""

    def check(annotation: typing.Any) -> None:
        inner, meta = shapes.bare(annotation)
        if inner in (str, bytes) or typing.get_origin(inner) is tuple:
            assert meta.max_length
        if inner in (int, float):
            assert meta.ge is not None and meta.ge >= 0
            assert meta.le is not None and meta.le <= 2**63 - 1
        if shapes.item(inner) is not None:
            check(shapes.item(inner))

    for annotation in shapes.annotations(cls).values():
        check(annotation)


@pytest.mark.parametrize("cls", shapes.on_the_wire(), ids=lambda cls: cls.__name__)
def test_round_trip_in_plain_msgpack(cls: shapes.Cls) -> None:
    """The bytes are those that the package msgpack makes of the plain array, and they decode to the same message."""

    @given(instances(cls))
    def check(message: typing.Any) -> None:
        data = shapes.encode(cls, shapes.plain(message))
        assert (wire.encode_frames([message]) if cls in shapes.FRAMES.values() else wire.encode(message)) == data
        assert shapes.decode(cls, data) == message

    check()


@given(st.lists(st.one_of([instances(cls) for cls in shapes.FRAMES.values()]), max_size=5))
def test_bodies_round_trip(frames: list[m.Frame]) -> None:
    assert wire.decode_frames(wire.encode_frames(frames)) == frames


@given(instances(m.Setup))
def test_setup_round_trips(setup: m.Setup) -> None:
    assert wire.decode_setup(wire.encode_setup(setup)) == setup


msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)
anything = (
    st.binary(max_size=200)
    | msgpack_values.map(msgpack.packb)
    | st.tuples(st.integers(0, 25), st.lists(msgpack_values, max_size=6)).map(
        lambda tagged: msgpack.packb([tagged[0], *tagged[1]])
    )
)


@given(anything)
def test_arbitrary_bytes_give_a_message_or_decode_error(data: bytes) -> None:
    for decoder in (wire.decode, wire.decode_frames, wire.decode_setup):
        with contextlib.suppress(DecodeError):
            decoder(data)
    wire.decode_hello([data, b""]), wire.decode_version(data), wire.is_exact(data)


ODD_FIELDS = (
    *(b"\x81\x91\x01\x01", b"\x81\x81\x01\x01\x01", b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01"),
    *(b"\xd6\xff\xff\xff\xff\xff", b"\xd5\xff\x00\x00", b"\xc7\x0c\xff" + b"\xff" * 12, b"\xa1\xff"),
    *(b"\x91" * 200 + b"\x01", b"\x91" * 900 + b"\x01", b"\x81\xc0" * 900 + b"\x01", b"\xcb\x7f\xf8" + b"\0" * 6),
)
"""A map with an array, a map or NaN as its key; invalid timestamps; invalid UTF-8; deep nesting; NaN."""


@pytest.mark.parametrize("odd", ODD_FIELDS)
def test_odd_values_in_fields_that_are_not_read(odd: bytes) -> None:
    """They are ignored or raise DecodeError, and `is_exact` is false."""
    close = b"\x93\x03\x07" + odd
    with contextlib.suppress(DecodeError):
        assert wire.decode(close) == m.Close(7)
    assert not wire.is_exact(close)
    assert wire.is_exact(close[:1].replace(b"\x93", b"\x92") + close[1:3])
    assert wire.decode_version(b"\x93\x01\x07" + odd) in (7, None)
    assert wire.decode_hello([odd, b"\x95\x1c\x03\x02\xa1w" + odd, wire.encode_hello("x")]) is not None


@given(instances(m.Final), st.data())
def test_damaged_bytes_give_a_message_or_decode_error(final: m.Final, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode_frames([final]))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
    for damaged in (bytes(encoded), bytes(encoded[:place])):
        with contextlib.suppress(DecodeError):
            wire.decode_frames(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93",
        msgpack.packb([]),
        msgpack.packb([99]),
        msgpack.packb(["1"]),
        msgpack.packb([True, 1, "name"]),
        msgpack.packb([3]),
        msgpack.packb([3, -1]),
        msgpack.packb([3, 1.5]),
        msgpack.packb([3, True]),
        msgpack.packb([3, 2**63]),
        msgpack.packb({"lease": 3}),
        msgpack.packb([1, 1, "n" * 129]),
        msgpack.packb([3, 1]) + b"\x00",
        msgpack.packb(msgpack.ExtType(1, b"x")),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb([3, 1])[:-1] + b"\x91" * 100_000 + b"\x01",
        b"\x93\x03\x01" + b"\x91" * 100_000 + b"\x01",
        b"\x93\x03\x01\xdd\xff\xff\xff\xff",
    ],
)
def test_malformed_routing_parts(data: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode(data)


@pytest.mark.parametrize("odd", [True, None, 1.0, -1, 2**63, "1", b"1", [1]])
def test_every_lease_of_a_bundle_is_checked(odd: object) -> None:
    with pytest.raises(DecodeError):
        wire.decode(msgpack.packb([5, b"W1", [7, 8, odd, 9]]))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_floats_are_finite(number: float) -> None:
    load = m.Load(0, 0, number, 0.0, 0.0, 0.0)
    with pytest.raises(DecodeError):
        wire.decode(wire.encode(m.WorkerHeartbeat(load)))


def test_sizes_are_limited() -> None:
    with pytest.raises(DecodeError) as error:
        wire.decode(b"\x00" * (wire.ROUTING_BYTES_MAX + 1))
    assert error.value.slug == "message-too-large"
    with pytest.raises(DecodeError):
        wire.decode_frames(wire.encode_frames([m.Stop(1)] * (wire.FRAMES_MAX + 1)))
    with pytest.raises(DecodeError):
        wire.decode_frames(wire.encode_frames([m.Audio(1, 0, b"\0" * 2_097_153)]))


def test_the_bytes_of_an_audio_frame() -> None:
    """The example in proto/README.md."""
    body = wire.encode_frames([m.Audio(lease=(5 << 32) + 1, first_sample=320, pcm=b"\x01\x00\xff\xff")])
    lease = b"\xcf" + struct.pack(">Q", (5 << 32) + 1)
    assert body == b"\x91\x94\x01" + lease + b"\xcd\x01\x40" + b"\xc4\x04\x01\x00\xff\xff"
