"""Which dialect a path speaks."""

from __future__ import annotations

from collections.abc import Callable

from asr_frontends.codec import Codec, Request
from asr_frontends.codecs import caiman, native

CODECS: dict[str, Callable[[Request], Codec]] = {
    native.PATH: native.NativeCodec,
    caiman.PATH: caiman.CaimanCodec,
}


def codec_for(request: Request) -> Codec | None:
    """A codec for the path, None for a path that no dialect has. Raises BadRequest for refused parameters."""
    make = CODECS.get(request.path)
    return make(request) if make else None
