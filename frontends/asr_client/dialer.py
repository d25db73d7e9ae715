"""How a server is reached, and reached again after a connection broke: what is tried, how often, and for how long.

This module must not know what a session has said or heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asr_client.connection import Broken, Connection
from asr_client.errors import ConnectionFailed, ConnectionLost, ServerError
from asr_client.events import Ready
from asr_dialects import native
from asr_proto.errors import SERVICE_SLUGS, AsrError

DELAY_S_MIN, DELAY_S_MAX = 0.1, 2.0
PASSING_CODES = SERVICE_SLUGS | {"no-websocket", "http-429"}
"""Refusals that say nothing of this client; a server that dies in the handshake speaks no WebSocket."""


@dataclass(frozen=True, slots=True)
class Dialer:
    """The address of a server and what every `start` says."""

    url: str
    api_key: str | None
    start: native.Start
    open_timeout_s: float
    ready_timeout_s: float

    async def dial(self, resume: native.Resume | None = None) -> tuple[Connection, Ready]:
        """A connection that is ready, with the answer to its start."""
        connection = await Connection.open(self.url, self.api_key, self.open_timeout_s)
        try:
            fields: native.Start = {**self.start, "resume": resume} if resume else self.start
            return connection, await connection.start(fields, self.ready_timeout_s)
        except BaseException:
            await connection.close()
            raise


class Outage:
    """From the break of a connection until the server is heard again: what it broke with, and how patient we are.

    A connection that is ready and breaks before the server has said anything more ends no outage. So a session that
    kills every server that takes it is given up.
    """

    def __init__(self, cause: Broken, limit_s: float, now: float) -> None:
        self.began_at = now
        self._cause: AsrError = cause
        self._limit_s = limit_s
        self._delay_s = 0.0

    async def end(self, dial: Callable[[], Awaitable[Ready]]) -> Ready:
        """Try until it succeeds. Raises ConnectionLost when the time is up, and at once what no patience cures."""
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
        """None before the first try."""
        delay_s = self._delay_s
        self._delay_s = min(DELAY_S_MAX, max(DELAY_S_MIN, 2 * delay_s))
        return delay_s


def _passing(error: AsrError) -> AsrError:
    """The error, if it may be over soon; otherwise it is raised."""
    if isinstance(error, ServerError):
        is_passing = error.code in PASSING_CODES or error.code.startswith("http-5")
    else:
        is_passing = isinstance(error, ConnectionFailed | ConnectionLost)
    if not is_passing:
        raise error
    return error
