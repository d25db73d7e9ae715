"""The protocol of sherpa-onnx's streaming server. Pure.

    client   sends float32 samples from -1 to 1 in binary messages, then the text `Done`
    server   sends JSON after every chunk that it has decoded, with `is_eof` in the last one, and the text `Done!`

The server sends nothing when a session begins. A session ends with the JSON that has `is_eof`: its text is complete.
`Done!` is ignored, because under load it arrives before that JSON: different threads send them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_dialects.client import NOTHING, Meaning
from asr_ops.bench import audio, websocket
from asr_ops.bench.dialects import WireDialect
from asr_proto.audio import Pcm16

DONE = b"Done!"
FULL_SCALE = 32768


def ring(samples: Pcm16, frame_ms: int) -> audio.Ring:
    """The frames of `audio.ring`, with samples of four bytes instead of two."""
    ours = audio.ring(samples, frame_ms)
    return audio.Ring(ours.pcm, tuple(websocket.encode(websocket.BINARY, payload(frame)) for frame in ours.pcm))


def payload(pcm: Pcm16) -> bytes:
    """The samples as little-endian float32, which represents every int16 exactly."""
    return (pcm.astype("<f4") / FULL_SCALE).tobytes()


def read(fields: Mapping[str, Any]) -> Meaning:
    """What a JSON message means for the figures that are compared."""
    return Meaning(fields["text"], final=True, ended=True) if fields["is_eof"] else NOTHING


DIALECT = WireDialect(
    opening=b"",
    ending=websocket.encode(websocket.TEXT, b"Done"),
    waits_for_ready=False,
    ends_with_close=False,
    read=read,
)
