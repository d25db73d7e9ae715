"""A dialect as one record. The application, its metrics and the health report iterate over the records.

A record has the dialect's paths, its codec, the form of its refusals and its options. Its `serve` returns a `Serving`:
the dialect's part of one frontend, such as HTTP routes and limits that count.
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
from asr_frontends.servers.conversation import Conversation
from asr_proto.errors import PeerError

Settings = Mapping[str, Any]
"""Options of the command line by name; an option that is missing has its default."""
ClickOption = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The HTTP response to a WebSocket request that is refused."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One value of the metrics' label `endpoint`."""

    label: str
    is_prefix: bool = False
    """Whether every path that begins with the label counts, and not only the label itself."""

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
    converse: Callable[[Conversation], Awaitable[None]] = Conversation.run
    """Serves one accepted WebSocket to its end."""
    health: Callable[[], Mapping[str, Any]] = _nothing_to_report
    """Returns the fields that the dialect adds to `/health/detailed`."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Ends the connections that are still open, after the sessions have ended."""


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of a path in which `{name}` matches one segment of any value."""
    return compile_path(path)[0]


def plain(error: PeerError) -> Refusal:
    """A refusal with the reason as plain text."""
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
    """What carries the dialect's conversations; `http`: it has only uploads."""
    path: str = ""
    """The path of a request that begins a conversation; `{name}` matches one segment of any value."""
    when: Callable[[Request], bool] = _any
    """Whether this dialect serves a request for its path. Of dialects that share a path, the first match serves it."""
    codec: Callable[[Request], Codec] | None = None
    """Makes the codec of a conversation. Raises BadRequest for a request that is refused before the upgrade."""
    refusal: Callable[[PeerError], Refusal] = plain
    """The HTTP response for a request that the codec has refused."""
    http_prefixes: tuple[str, ...] = ()
    """Beginnings of the paths for which `http_refusal` answers the requests that the gate refuses."""
    http_refusal: Callable[[PeerError, int], Response] | None = None
    """The response for an error and its HTTP status; None for plain text."""
    open_paths: frozenset[str] = frozenset()
    """Paths that need no API key."""
    endpoints: tuple[Endpoint, ...] = ()
    """The dialect's labels in the metrics."""
    options: tuple[ClickOption, ...] = ()
    """The dialect's options of `asr-frontend`."""
    serve: Callable[[Frontend, Gate, Settings], Serving] = _serve
    """Makes the dialect's part of one frontend, with the values of its options."""

    def serves(self, request: Request) -> bool:
        """Whether a conversation of this dialect begins with the request."""
        return bool(self.path) and _pattern(self.path).fullmatch(request.path) is not None and self.when(request)
