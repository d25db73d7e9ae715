"""What a dialect is: one record. The application, its metrics and the health report iterate over the records.

A record names the dialect's paths, its codec, how it words refusals, what its options are, and what it does at work in
one frontend (`Serving`): HTTP routes, and limits that count.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from starlette.responses import Response
from starlette.routing import BaseRoute, compile_path

from asr_frontends.access import Gate
from asr_frontends.codec import Codec, Request
from asr_frontends.frontend import Frontend
from asr_frontends.servers.connection import Connection
from asr_proto.errors import PeerError

Settings = Mapping[str, Any]
"""Options of the command line by name; what is not given has its default."""
ClickOption = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer to a request that gets no WebSocket."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One label of the metrics."""

    label: str
    is_prefix: bool = False
    """It counts every path that begins with it, not only itself."""

    def counts(self, path: str) -> bool:
        return path.startswith(self.label) if self.is_prefix else path == self.label


async def _nothing() -> None:
    pass


def _nothing_to_report() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Serving:
    """A dialect at work in one frontend."""

    routes: Sequence[BaseRoute] = ()
    converse: Callable[[Connection], Awaitable[None]] = Connection.run
    """Serves one accepted WebSocket to its end."""
    health: Callable[[], Mapping[str, Any]] = _nothing_to_report
    """What it adds to `/health/detailed`."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Ends what is still open, after the sessions have ended."""


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """A path with `{name}` for segments of any value."""
    return compile_path(path)[0]


def plain(error: PeerError) -> Refusal:
    """The reason as text."""
    return Refusal(400, error.detail)


def _serve(_frontend: Frontend, _gate: Gate, _settings: Settings) -> Serving:
    return Serving()


def _any(_request: Request) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One dialect."""

    name: str
    transport: Literal["websocket", "webrtc", "http"]
    """What carries its conversations; `http`: it has none, only uploads."""
    path: str = ""
    """Where a conversation begins; `{name}` stands for one segment of any value."""
    when: Callable[[Request], bool] = _any
    """Which requests for the path it serves, where dialects share one. The first record that matches serves."""
    codec: Callable[[Request], Codec] | None = None
    """Raises BadRequest for a request that is refused before the upgrade."""
    refusal: Callable[[PeerError], Refusal] = plain
    """How it words what its codec has refused."""
    http_prefixes: tuple[str, ...] = ()
    """How the paths begin where `http_refusal` words what the gate has refused."""
    http_refusal: Callable[[PeerError, int], Response] | None = None
    """The response for an error and its HTTP status; None: plain text."""
    open_paths: frozenset[str] = frozenset()
    """Answered without a key."""
    endpoints: tuple[Endpoint, ...] = ()
    """Its labels in the metrics."""
    options: tuple[ClickOption, ...] = ()
    """Its options of `asr-frontend`: its limits, its paths."""
    serve: Callable[[Frontend, Gate, Settings], Serving] = _serve
    """Puts it to work in one frontend, with the values of its options."""

    def serves(self, request: Request) -> bool:
        """Whether a conversation of this dialect begins with the request."""
        return bool(self.path) and _pattern(self.path).fullmatch(request.path) is not None and self.when(request)
