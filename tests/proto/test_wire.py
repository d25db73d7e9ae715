"""Every message class survives the wire, and whatever the bytes are, only DecodeError comes out."""

from __future__ import annotations

import contextlib
import inspect
import struct
import typing
from dataclasses import fields, is_dataclass

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from asr_proto.schema import INT_MAX, Limit


def values(annotation: typing.Any, limit: int = 20) -> st.SearchStrategy[typing.Any]:
    """A strategy for any field type that messages use."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        assert isinstance(args[1], Limit)
        return values(args[0], min(20, args[1].max))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=4).map(tuple)
    if type(None) in args:
        return st.none() | values(args[0])
    if is_dataclass(annotation):
        return instances(typing.cast(type, annotation))
    return {
        bool: st.booleans(),
        int: st.integers(0, INT_MAX),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=limit),
        bytes: st.binary(max_size=limit),
    }[annotation]


def instances(cls: type) -> st.SearchStrategy[typing.Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in fields(cls)})


def dataclasses_of_messages() -> set[type]:
    classes = inspect.getmembers(m, inspect.isclass)
    return {cls for _, cls in classes if is_dataclass(cls) and cls.__module__ == m.__name__}


NESTED = {m.Spec, m.Commit, m.Word, m.Setup, m.Load, m.WorkerStatus, m.FrontendStatus}


def test_every_class_has_a_tag_or_is_part_of_one() -> None:
    tagged = set(wire.MESSAGE_TAGS.values()) | set(wire.FRAME_TAGS.values())
    assert tagged | NESTED == dataclasses_of_messages()
    assert not tagged & NESTED


@pytest.mark.parametrize("cls", wire.MESSAGE_TAGS.values(), ids=lambda cls: cls.__name__)
def test_messages_round_trip(cls: type) -> None:
    @given(instances(cls))
    def check(message: m.Message) -> None:
        assert wire.decode(wire.encode(message)) == message

    check()


@pytest.mark.parametrize("cls", wire.FRAME_TAGS.values(), ids=lambda cls: cls.__name__)
def test_frames_round_trip(cls: type) -> None:
    @given(st.lists(instances(cls), max_size=3))
    def check(frames: list[m.Frame]) -> None:
        assert wire.decode_frames(wire.encode_frames(frames)) == frames

    check()


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
    for decode in (wire.decode, wire.decode_frames, wire.decode_setup):
        with contextlib.suppress(DecodeError):
            decode(data)


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
        msgpack.packb([3, 1, 1]),
        msgpack.packb({"lease": 3}),
        msgpack.packb([1, 1, "n" * 129]),
        msgpack.packb([3, 1]) + b"\x00",
        msgpack.packb(msgpack.ExtType(1, b"x")),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_malformed_routing_parts(data: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode(data)


@pytest.mark.parametrize("odd", [True, None, 1.0, -1, 2**63, "1", b"1", [1]])
def test_every_lease_of_a_bundle_is_checked(odd: object) -> None:
    with pytest.raises(DecodeError):
        wire.decode(msgpack.packb([5, b"W1", [7, 8, odd, 9]]))


@pytest.mark.parametrize("cls", sorted(dataclasses_of_messages(), key=str), ids=lambda cls: cls.__name__)
def test_messages_have_nothing_but_their_fields(cls: type) -> None:
    """Decoding fills a message's slots and calls no code of its own."""
    assert tuple(vars(cls)["__slots__"]) == tuple(field.name for field in fields(cls))
    assert not hasattr(cls, "__post_init__")


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
    """proto/README.md's example."""
    body = wire.encode_frames([m.Audio(lease=(5 << 32) + 1, first_sample=320, pcm=b"\x01\x00\xff\xff")])
    lease = b"\xcf" + struct.pack(">Q", (5 << 32) + 1)
    assert body == b"\x91\x94\x01" + lease + b"\xcd\x01\x40" + b"\xc4\x04\x01\x00\xff\xff"
