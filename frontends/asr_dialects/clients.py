"""The test client of every dialect. A new dialect adds its line here."""

from __future__ import annotations

from asr_dialects import amira, caiman, deepgram, moonshine, native, parakeet, yap

CLIENTS = {
    client.name: client
    for client in (
        native.CLIENT,
        caiman.CLIENT,
        yap.CLIENT,
        parakeet.CLIENT,
        moonshine.CLIENT,
        amira.CLIENT,
        deepgram.CLIENT,
    )
}
