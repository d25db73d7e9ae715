"""Which WebSocket dialect a path speaks."""

from __future__ import annotations

import re
from collections.abc import Callable

from asr_frontends.codec import Codec, Request
from asr_frontends.codecs import amira, caiman, deepgram, native, parakeet, yap

CODECS: tuple[tuple[re.Pattern[str], Callable[[Request], Codec]], ...] = (
    (re.compile(re.escape(native.PATH)), native.NativeCodec),
    (re.compile(re.escape(caiman.PATH)), caiman.CaimanCodec),
    (re.compile(re.escape(yap.PATH)), yap.YapCodec),
    (re.compile(re.escape(parakeet.PATH)), parakeet.ParakeetCodec),
    (re.compile(amira.PATH), amira.AmiraCodec),
    (re.compile(re.escape(deepgram.PATH)), deepgram.DeepgramCodec),
)


def codec_for(request: Request) -> Codec | None:
    """A codec for the path, None for a path that no dialect has. Raises BadRequest for refused parameters."""
    for pattern, make in CODECS:
        if pattern.fullmatch(request.path):
            return make(request)
    return None
