"""What sherpa-onnx's streaming server says and hears. Pure.

    client   float32 samples of -1 to 1 in binary messages, then the text `Done`
    server   JSON after every chunk that it has decoded, `is_eof` in the last one, and the text `Done!`

Nothing is said when a session begins. A session is over with the JSON that has `is_eof`: its text is complete then.
`Done!` means nothing here, because under load it overtakes that JSON: they are sent by different threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_ops.bench import audio, websocket
from asr_ops.bench.dialects import NOTHING, Content, WireDialect
from asr_proto.audio import Pcm16

DONE = b"Done!"
FULL_SCALE = 32768


def ring(samples: Pcm16, frame_ms: int) -> audio.Ring:
    """The frames that this project is sent, each sample in four bytes instead of two."""
    ours = audio.ring(samples, frame_ms)
    return audio.Ring(ours.pcm, tuple(websocket.encode(websocket.BINARY, payload(frame)) for frame in ours.pcm))


def payload(pcm: Pcm16) -> bytes:
    """Little-endian float32; every int16 is exact in it."""
    return (pcm.astype("<f4") / FULL_SCALE).tobytes()


def read(fields: Mapping[str, Any]) -> Content:
    """What a JSON message means for the figures that are compared."""
    return Content(final=fields["text"], ended=True) if fields["is_eof"] else NOTHING


DIALECT = WireDialect(
    opening=b"",
    ending=websocket.encode(websocket.TEXT, b"Done"),
    reports_ready=False,
    ends_with_close=False,
    read=read,
)
