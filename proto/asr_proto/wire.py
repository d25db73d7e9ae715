"""Messages to bytes and back. A message on the wire is [routing] or [routing, body], both msgpack.

Routing: the array [tag, field, ...]. Body: a Setup's array, or an array of frames, each [tag, field, ...].
Every size is limited; whatever the bytes are, decoding returns a message or raises DecodeError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asr_proto import messages as m
from asr_proto.errors import DecodeError
from asr_proto.schema import Check, pack, reader, to_array, unpack

ROUTING_BYTES_MAX = 1_048_576
BODY_BYTES_MAX = 16_777_216
FRAMES_MAX = 4096
"""Frames in one bundle."""

# Tags are the wire: never renumber, never reuse.
MESSAGE_TAGS: dict[int, type[m.Message]] = {
    1: m.RegisterFrontend,
    2: m.Open,
    3: m.Close,
    4: m.FrontendHeartbeat,
    5: m.Bundle,
    6: m.RegisterWorker,
    7: m.WorkerHeartbeat,
    8: m.Closed,
    9: m.Drain,
    10: m.Welcome,
    11: m.Unregistered,
    12: m.Rejected,
    13: m.Pinned,
    14: m.Refused,
    15: m.Lost,
    16: m.Pool,
    17: m.Grant,
    18: m.Release,
    19: m.Stale,
    20: m.StatusRequest,
    21: m.Status,
    22: m.Detach,
    23: m.Resume,
    24: m.Transfer,
    25: m.Claim,
    26: m.Vote,
    27: m.Standby,
}
FRAME_TAGS: dict[int, type[m.Frame]] = {
    1: m.Audio,
    2: m.Flush,
    3: m.Stop,
    4: m.Progress,
    5: m.Partial,
    6: m.Final,
    7: m.Flushed,
    8: m.Ended,
    9: m.Failed,
    10: m.Speech,
    11: m.Resumed,
    12: m.Checkpoint,
}
_MESSAGE_TAG = {cls: tag for tag, cls in MESSAGE_TAGS.items()}
_FRAME_TAG = {cls: tag for tag, cls in FRAME_TAGS.items()}
_MESSAGE_READERS = {tag: reader(cls, tagged=True) for tag, cls in MESSAGE_TAGS.items()}
_FRAME_READERS = {tag: reader(cls, tagged=True) for tag, cls in FRAME_TAGS.items()}
_READ_SETUP = reader(m.Setup)


def encode(message: m.Message) -> bytes:
    """The routing part of a message."""
    return pack((_MESSAGE_TAG[type(message)], *to_array(message)))


def decode(data: bytes | memoryview) -> m.Message:
    """The message of a routing part. Raises DecodeError."""
    message: m.Message = _tagged(_MESSAGE_READERS, unpack(data, ROUTING_BYTES_MAX))
    return message


def encode_frames(frames: Iterable[m.Frame]) -> bytes:
    """The body of a bundle."""
    return pack([(_FRAME_TAG[type(frame)], *to_array(frame)) for frame in frames])


def decode_frames(data: bytes | memoryview) -> list[m.Frame]:
    """The frames of a bundle's body. Raises DecodeError."""
    value = unpack(data, BODY_BYTES_MAX)
    if type(value) is not list or len(value) > FRAMES_MAX:
        raise DecodeError(f"a bundle's body is an array of at most {FRAMES_MAX} frames")
    return [_tagged(_FRAME_READERS, entry) for entry in value]


def encode_setup(setup: m.Setup) -> bytes:
    """The body of Open and Grant."""
    return pack(setup)


def decode_setup(data: bytes | memoryview) -> m.Setup:
    """The Setup of a body. Raises DecodeError."""
    setup: m.Setup = _READ_SETUP(unpack(data, BODY_BYTES_MAX))
    return setup


def _tagged(readers: dict[int, Check], value: Any) -> Any:
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError("expected an array that begins with a tag")
    read = readers.get(value[0])
    if read is None:
        raise DecodeError(f"unknown tag {value[0]}")
    return read(value)
