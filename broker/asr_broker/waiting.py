"""Requests for a slot that a broker cannot answer yet: its workers still register, or it has lost its lead. Pure.

A session has one request here: a later one replaces it and keeps its place. The requests of a frontend that is gone are
dropped. Their number and the bytes of their bodies are limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from asr_broker.events import FromFrontend
from asr_proto import messages as m

REQUESTS_MAX = 4096
BYTES_MAX = 268_435_456
"""Largest sum of the bodies, in bytes. The body of a session that moves contains the state of its engine."""

Demand = tuple[str, str, bool]
"""What decides which workers can take a session: model, language, and whether the session had a slot before."""


class Waiting:
    """The requests (Open or Resume) that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, str], FromFrontend] = {}
        self._demands: Counter[Demand | None] = Counter()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: FromFrontend) -> bool:
        """Store a request. False if there is no room for it."""
        before = self._requests.get(_key(request))
        total = self._bytes + _size(request) - (_size(before) if before else 0)
        if total > BYTES_MAX or (before is None and len(self) >= REQUESTS_MAX):
            return False
        if before:
            self._demands[_demand(before)] -= 1
        self._requests[_key(request)] = request
        self._demands[_demand(request)] += 1
        self._bytes = total
        return True

    def precedes(self, request: FromFrontend) -> bool:
        """Whether another request for the same waits, which comes first."""
        return self._demands[_demand(request)] > 0

    def drop(self, peer: bytes) -> None:
        """Remove the requests of one frontend."""
        for key in [key for key in self._requests if key[0] == peer]:
            request = self._requests.pop(key)
            self._demands[_demand(request)] -= 1
            self._bytes -= _size(request)

    def take(self) -> list[FromFrontend]:
        """Remove and return all requests: those of sessions that had a slot before, then those of new sessions."""
        requests, self._requests = self._requests, {}
        self._demands.clear()
        self._bytes = 0
        return sorted(requests.values(), key=_is_new)

    def check(self, frontends: Iterable[bytes]) -> None:
        """The invariants; `frontends` are the registered ones."""
        requests = self._requests.values()
        assert {request.peer for request in requests} <= set(frontends)
        assert self._bytes == sum(map(_size, requests)) <= BYTES_MAX
        assert +self._demands == Counter(map(_demand, requests))


def _key(request: FromFrontend) -> tuple[bytes, str]:
    assert isinstance(request.message, m.Open | m.Resume)
    return request.peer, request.message.session


def _size(request: FromFrontend) -> int:
    return len(request.body or b"")


def _demand(request: FromFrontend) -> Demand | None:
    """None for a Resume: the worker that has the session is the only one that can take it."""
    message = request.message
    return (message.model, message.language, message.epoch > 0) if isinstance(message, m.Open) else None


def _is_new(request: FromFrontend) -> bool:
    return isinstance(request.message, m.Open) and request.message.epoch == 0
