"""Messages to bytes and back. A message on the wire is [routing] or [routing, body], both msgpack.

Routing: the array [tag, field, ...]. Body: a Setup's array, or an array of frames, each [tag, field, ...]. A field that
is missing at the end gets its default. Additional fields at the end are ignored (proto/README.md, "Growth"). Every size
is limited. For any bytes, decoding either returns a message or raises DecodeError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar, get_args

from msgspec import DecodeError as Malformed
from msgspec import Meta, Raw, Struct
from msgspec.msgpack import Decoder, Encoder

from asr_proto import messages as m
from asr_proto.errors import DecodeError

ROUTING_BYTES_MAX = 1_048_576
BODY_BYTES_MAX = 16_777_216
FRAMES_MAX = 4096
"""Largest number of frames in one bundle."""

T = TypeVar("T")


class _Tagged(Struct, array_like=True):
    """The first element of any message or frame."""

    tag: m.Natural


class _Versioned(_Tagged):
    """The first two elements of a registration or a StatusRequest, in every version."""

    version: m.Natural


def tags(union: Any) -> dict[int, type[m.Value]]:
    """The classes of a union of messages, or of frames, by their tags."""
    return {cls.__struct_config__.tag: cls for cls in get_args(union)}


_FRAME_TAGS = tags(m.Frame)
_VERSIONED_TAGS = tags(m.RegisterFrontend | m.RegisterWorker | m.StatusRequest)
_MESSAGE: Decoder[m.Message] = Decoder(m.Message)
_SETUP = Decoder(m.Setup)
_FRAME: Decoder[m.Frame] = Decoder(m.Frame)
_FRAMES: Decoder[list[m.Frame]] = Decoder(Annotated[list[m.Frame], Meta(max_length=FRAMES_MAX)])
_RAW_FRAMES = Decoder(Annotated[list[Raw], Meta(max_length=FRAMES_MAX)])
_TAGGED = Decoder(_Tagged)
_VERSIONED = Decoder(_Versioned)
_HELLO = Decoder(m.Hello)
_ANY = Decoder()


def _plain(value: Any) -> float:
    """Numpy's float64 as a float. Raises TypeError for every other type that msgspec does not encode."""
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be a value in a message")


_encode = Encoder(enc_hook=_plain).encode


def encode(message: m.Message) -> bytes:
    """The routing part of a message."""
    return _encode(message)


def decode(data: bytes | memoryview) -> m.Message:
    """The message in a routing part. Raises DecodeError."""
    return _read(_MESSAGE, data, ROUTING_BYTES_MAX)


def encode_hello(name: str) -> bytes:
    """The part that a process of this release sends with its registrations and status requests."""
    return _encode(m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION_MIN, name))


def decode_hello(parts: Iterable[bytes | memoryview]) -> m.Hello | None:
    """The Hello among the parts of a message; None if there is none. The other parts may be unreadable."""
    for part in parts:
        with suppress(DecodeError):
            return _read(_HELLO, part, ROUTING_BYTES_MAX)
    return None


def decode_version(data: bytes | memoryview) -> int | None:
    """The version field of a registration or status request, whose other fields may be unreadable.

    None for other messages.
    """
    with suppress(DecodeError):
        sent = _read(_VERSIONED, data, ROUTING_BYTES_MAX)
        return sent.version if sent.tag in _VERSIONED_TAGS else None
    return None


def is_exact(data: bytes | memoryview) -> bool:
    """Whether a routing part has exactly the fields of this release, also in nested classes."""
    try:
        return bool(_ANY.decode(_encode(decode(data))) == _read(_ANY, data, ROUTING_BYTES_MAX))
    except DecodeError:
        return False


def encode_frames(frames: Sequence[m.Frame]) -> bytes:
    """The body of a bundle."""
    return _encode(frames)


def decode_frames(data: bytes | memoryview) -> list[m.Frame]:
    """The frames in a bundle's body, without frames of an unknown class. Raises DecodeError."""
    try:
        return _read(_FRAMES, data, BODY_BYTES_MAX)
    except DecodeError:
        raw = _read(_RAW_FRAMES, data, BODY_BYTES_MAX)
        known = [frame for frame in raw if _read(_TAGGED, frame, BODY_BYTES_MAX).tag in _FRAME_TAGS]
        if len(known) == len(raw):
            raise
        return [_read(_FRAME, frame, BODY_BYTES_MAX) for frame in known]


def encode_setup(setup: m.Setup) -> bytes:
    """The body of Open, Resume, Grant and Transfer."""
    return _encode(setup)


def decode_setup(data: bytes | memoryview) -> m.Setup:
    """The Setup in a body. Raises DecodeError."""
    return _read(_SETUP, data, BODY_BYTES_MAX)


def _read(decoder: Decoder[T], data: bytes | memoryview | Raw, size_max: int) -> T:
    if len(data) > size_max:
        raise DecodeError(f"{len(data)} bytes exceed the limit of {size_max}", slug="message-too-large")
    try:
        return decoder.decode(data)
    except (Malformed, RecursionError, TypeError, UnicodeDecodeError) as error:  # the last two before msgspec 0.23
        raise DecodeError(str(error)) from error
