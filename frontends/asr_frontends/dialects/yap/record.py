"""The record of Yap FastConformer's dialect."""

from __future__ import annotations

from asr_dialects import yap
from asr_frontends.dialect import Dialect, Endpoint
from asr_frontends.dialects.yap.codec import YapCodec

YAP = Dialect(name="yap", transport="websocket", path=yap.PATH, codec=YapCodec, endpoints=(Endpoint(yap.PATH),))
