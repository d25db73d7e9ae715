"""The event loop of a frontend: uvloop's, with a limit on the time of a TLS handshake."""

from __future__ import annotations

from typing import Any

import uvloop

TLS_HANDSHAKE_S_MAX = 15.0
"""Longest TLS handshake of a client, in seconds. Then its connection is closed. uvloop's default is 60 s."""


class Loop(uvloop.Loop):
    """The loop on which uvicorn makes the servers. uvicorn has no option for the handshake's limit."""

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        if ssl is not None:
            options.setdefault("ssl_handshake_timeout", TLS_HANDSHAKE_S_MAX)
        return await super().create_server(*args, ssl=ssl, **options)
