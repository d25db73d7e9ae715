"""The record of the project's own dialect."""

from __future__ import annotations

from asr_dialects import native
from asr_frontends.dialect import Dialect, Endpoint
from asr_frontends.dialects.native.codec import NativeCodec

NATIVE = Dialect(
    name="native",
    transport="websocket",
    path=native.PATH,
    codec=NativeCodec,
    endpoints=(Endpoint(native.PATH, is_prefix=True),),
)
