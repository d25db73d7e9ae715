"""Makes a process one of another release: Python imports this first where the folder is on its path.

`WIRE_OF` names the release: `older` has one field less in each message, `newer` one more, `foreign` understands none of
our versions. Only tests set it. What such a process writes is packed by msgpack alone, from plain arrays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgpack

from asr_proto import messages as m
from asr_proto import wire
from tests.proto import shapes

NOT_OLDER = {m.Open, m.Pinned}
"""Their last fields came with the message Resume: a release without them has none, and ours all have it."""


def older(cls: shapes.Cls, fields: list[Any]) -> list[Any]:
    return fields if cls in NOT_OLDER else shapes.cut(cls, fields)


def write_with(change: shapes.Change) -> None:
    """Replace the encoders."""

    def written(value: m.Value) -> list[Any]:
        return shapes.changed(type(value), shapes.plain(value), change)

    def encode_frames(frames: Sequence[m.Frame]) -> bytes:
        packed: bytes = msgpack.packb([written(frame) for frame in frames])
        return packed

    wire.encode = wire.encode_setup = lambda message: msgpack.packb(written(message))  # type: ignore[assignment]
    wire.encode_frames = encode_frames


match os.environ["WIRE_OF"]:
    case "older":
        write_with(older)
    case "newer":
        write_with(shapes.grown({"a later": ["release", 1, None]}))
    case "foreign":
        m.PROTOCOL_VERSION, m.PROTOCOL_VERSION_MIN = 9, 8
