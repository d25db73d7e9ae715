"""The record of Deepgram's live dialect, and the form of its refusals."""

from __future__ import annotations

import secrets

from asr_dialects import deepgram
from asr_frontends.dialect import Dialect, Endpoint, Refusal
from asr_frontends.dialects.deepgram.codec import DeepgramCodec
from asr_proto.errors import PeerError


def refusal(error: PeerError) -> Refusal:
    """As JSON, under a request id of its own."""
    return Refusal(400, deepgram.refusal(error.detail, secrets.token_hex(16)), "application/json")


DEEPGRAM = Dialect(
    name="deepgram",
    transport="websocket",
    path=deepgram.PATH,
    codec=DeepgramCodec,
    refusal=refusal,
    endpoints=(Endpoint(deepgram.PATH),),
)
