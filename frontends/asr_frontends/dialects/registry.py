"""The dialects that a frontend serves. A new dialect adds its line here."""

from __future__ import annotations

from collections.abc import Sequence

from asr_frontends.codec import Request
from asr_frontends.dialect import Dialect
from asr_frontends.dialects.amira.record import AMIRA
from asr_frontends.dialects.caiman.record import CAIMAN
from asr_frontends.dialects.deepgram.record import DEEPGRAM
from asr_frontends.dialects.moonshine.record import MOONSHINE
from asr_frontends.dialects.native.record import NATIVE
from asr_frontends.dialects.openai.record import OPENAI
from asr_frontends.dialects.parakeet.record import PARAKEET
from asr_frontends.dialects.yap.record import YAP

DIALECTS: tuple[Dialect, ...] = (
    NATIVE,
    CAIMAN,
    YAP,
    PARAKEET,
    AMIRA,
    DEEPGRAM,
    MOONSHINE,
    OPENAI,
)
"""In the order in which they are asked whether a request is theirs."""


def dialect_for(request: Request, dialects: Sequence[Dialect] = DIALECTS) -> Dialect | None:
    """The dialect of a WebSocket request, None where nobody serves its path."""
    return next((one for one in dialects if one.transport == "websocket" and one.serves(request)), None)


def endpoint_of(path: str, dialects: Sequence[Dialect] = DIALECTS) -> str:
    """The metrics' label of a path: one of a few, whatever clients ask for."""
    endpoints = (endpoint for dialect in dialects for endpoint in dialect.endpoints)
    return next((endpoint.label for endpoint in endpoints if endpoint.counts(path)), "other")
