"""The record of CAIMAN-ASR's dialect."""

from __future__ import annotations

from asr_dialects import caiman
from asr_frontends.dialect import Dialect, Endpoint
from asr_frontends.dialects.caiman.codec import CaimanCodec

CAIMAN = Dialect(
    name="caiman",
    transport="websocket",
    path=caiman.PATH,
    codec=CaimanCodec,
    endpoints=(Endpoint(caiman.PATH, is_prefix=True),),
)
