"""Connecting to a server, and reconnecting after a connection broke: which errors are retried, how often, how long.

This module does not handle the audio or the events of a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asr_client.connection import Broken, StreamConnection
from asr_client.errors import ConnectionFailed, ConnectionLost, ServerError
from asr_client.events import Ready
from asr_dialects import native
from asr_proto.errors import SERVICE_SLUGS, AsrError

DELAY_S_MIN, DELAY_S_MAX = 0.1, 2.0
PASSING_CODES = SERVICE_SLUGS | {"no-websocket", "http-429"}
"""Errors that may pass, because the client did not cause them. A server that dies in the handshake: no-websocket."""


@dataclass(frozen=True, slots=True)
class StreamDialer:
    """The address of a server and the fields of every `start`."""

    url: str
    api_key: str | None
    start: native.Start
    open_timeout_s: float
    ready_timeout_s: float

    async def dial(self, resume: native.Resume | None = None) -> tuple[StreamConnection, Ready]:
        """A connection that is ready, with the server's answer to `start`. Raises as StreamConnection does."""
        connection = await StreamConnection.open(self.url, self.api_key, self.open_timeout_s)
        try:
            fields: native.Start = {**self.start, "resume": resume} if resume else self.start
            return connection, await connection.start(fields, self.ready_timeout_s)
        except BaseException:
            await connection.close()
            raise


class Outage:
    """The time from a connection's break until the server sends an event again; it lasts at most `limit_s` seconds.

    A new connection that becomes ready and breaks before any further event does not end the outage. So the client
    gives up a session that crashes every server it reaches.
    """

    def __init__(self, cause: Broken, limit_s: float, now: float) -> None:
        self.began_at = now
        self._cause: AsrError = cause
        self._limit_s = limit_s
        self._delay_s = 0.0

    async def end(self, dial: Callable[[], Awaitable[Ready]]) -> Ready:
        """Dial until it succeeds. Raises ConnectionLost when the time is up, and immediately a permanent error."""
        try:
            async with asyncio.timeout_at(self.began_at + self._limit_s):
                while True:
                    await asyncio.sleep(self._next_delay_s())
                    try:
                        return await dial()
                    except AsrError as error:
                        self._cause = _passing(error)
        except TimeoutError:
            raise ConnectionLost(f"{self._cause.detail}; it did not come back within {self._limit_s:g} s") from None

    def _next_delay_s(self) -> float:
        """Delay before the next try, in seconds: 0 before the first, then doubled from DELAY_S_MIN to DELAY_S_MAX."""
        delay_s = self._delay_s
        self._delay_s = min(DELAY_S_MAX, max(DELAY_S_MIN, 2 * delay_s))
        return delay_s


def _passing(error: AsrError) -> AsrError:
    """Return the error if a retry may succeed; otherwise raise it."""
    if isinstance(error, ServerError):
        is_passing = error.code in PASSING_CODES or error.code.startswith("http-5")
    else:
        is_passing = isinstance(error, ConnectionFailed | ConnectionLost)
    if not is_passing:
        raise error
    return error
