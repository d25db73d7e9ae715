"""uvicorn's HTTP with limits on requests' heads, against clients that never finish one. No sessions here."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 65_536
"""Largest request line and headers; the limit is checked after each read, so one read may exceed it."""
HEAD_S_MAX = 15.0
"""Longest wait for a request's head on a new connection, and for the rest of a head that has begun."""
PIPELINED_MAX = 16
"""Largest number of requests that a client may send before the answer to the first one."""


class Http(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose requests' heads are limited in size, time and number."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ValueError(f"more than {PIPELINED_MAX} requests wait")  # the parser stops, uvicorn answers with 400
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
