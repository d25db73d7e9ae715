"""CAIMAN-ASR's messages, `/asr/v0.1/stream`: binary audio, an empty frame at its end, one response per 60 ms."""

from __future__ import annotations

import json

from asr_dialects.client import Client, Fields, Meaning, first, number, string

PATH = "/asr/v0.1/stream"
SUBPROTOCOL = "stream.asr.api.myrtle.ai"
CONTENT_TYPE = "audio/x-raw"
ATTRIBUTES = {"format": "S16LE", "channels": "1", "rate": "16000"}
"""Of the content type."""
PARAMETERS = {"model": ("general",), "version": ("latest", "v1"), "lang": ("en",)}
"""Of the query, with the values that are taken; the first is the default."""
END = b""
"""The frame after the audio."""
CONFIDENCE = 1.0
"""A constant of the dialect: "currently unused"."""
QUERY = f"content_type={';'.join((CONTENT_TYPE, *(f'{name}={value}' for name, value in ATTRIBUTES.items())))}"


def response(start_s: float, end_s: float, text: str) -> str:
    """What is new in the text, for one stretch of audio."""
    fields = {
        "start": start_s,
        "end": end_s,
        "is_provisional": False,
        "alternatives": [{"transcript": text, "confidence": CONFIDENCE}],
    }
    return json.dumps(fields, ensure_ascii=False)


def _read(fields: Fields) -> Meaning:
    best = first(fields, "alternatives")
    text = None if best is None else string(best, "transcript")
    is_final = bool(text) and not fields.get("is_provisional")
    return Meaning(text, final=is_final, end_s=number(fields, "end"))


CLIENT = Client(
    name="caiman",
    path=PATH,
    query=f"{QUERY}&model={{model}}",
    ending=(END,),
    ends_with_close=True,
    texts="increments",
    read=_read,
)
