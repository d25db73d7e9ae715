"""Who may open a session: API keys, browser origins, and how many sessions a key or an address has. Pure.

Keys are random tokens, kept as SHA-256 digests only. A client shows its key as `Authorization: Bearer KEY` or
`Token KEY`, as `x-api-key`, as the query parameter `token` or `api_key`, or as the subprotocol `token, KEY`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from asr_frontends.codec import Request
from asr_proto.errors import LimitExceeded, PeerError, SetupError


class Unauthorized(PeerError):
    """No key, or one that is not known."""

    slug = "unauthorized"


class Forbidden(PeerError):
    """A browser page of an origin that is not allowed."""

    slug = "origin-not-allowed"


ANY_ORIGIN = "*"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of a client. Zero sessions means no limit."""

    keys: Mapping[str, str] | None = None
    """Names by hexadecimal SHA-256 of the key; None lets everybody in."""
    origins: frozenset[str] = frozenset()
    """Allowed values of a browser's Origin; empty or ANY_ORIGIN allows all."""
    sessions_per_key_max: int = 0
    sessions_per_address_max: int = 0


@dataclass(frozen=True, slots=True)
class Guest:
    """A client that was let in; hand it back with `leave`."""

    name: str
    """Of its key; empty where none are asked for."""
    address: str


class Gate:
    """Counts who is in. `rules` may be replaced at any time; it holds for who comes next."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._by_name: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()

    def admit(self, request: Request) -> Guest:
        """Let a client in. Raises Unauthorized, Forbidden or LimitExceeded (too-many-sessions)."""
        self.check_origin(request)
        guest = Guest(self._name(request), request.address)
        _check_count(self._by_name[guest.name] if guest.name else 0, self.rules.sessions_per_key_max, "key")
        _check_count(self._by_address[guest.address], self.rules.sessions_per_address_max, "address")
        self._by_name[guest.name] += 1
        self._by_address[guest.address] += 1
        return guest

    def leave(self, guest: Guest) -> None:
        """The client is gone."""
        for counter, who in ((self._by_name, guest.name), (self._by_address, guest.address)):
            counter[who] -= 1
            if not counter[who]:
                del counter[who]

    def check_origin(self, request: Request) -> None:
        """Programs send no Origin and pass; a browser's must be allowed. Raises Forbidden."""
        origin = request.headers.get("origin")
        allowed = self.rules.origins
        if origin is not None and allowed and not allowed & {origin, ANY_ORIGIN}:
            raise Forbidden("this origin is not allowed here")

    def _name(self, request: Request) -> str:
        if self.rules.keys is None:
            return ""
        key = shown_key(request)
        name = self.rules.keys.get(digest(key)) if key else None
        if name is None:
            raise Unauthorized("a valid API key is needed" if key is None else "this API key is not known")
        return name


def shown_key(request: Request) -> str | None:
    """The key that a request carries, or None."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and credential.strip():
        return credential.strip()
    if request.headers.get("x-api-key"):
        return request.headers["x-api-key"]
    query = parse_qs(request.query)
    for parameter in ("token", "api_key"):
        if query.get(parameter):
            return query[parameter][0]
    if len(request.subprotocols) == 2 and request.subprotocols[0].lower() == "token":
        return request.subprotocols[1]
    return None


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_keys(text: str) -> dict[str, str]:
    """Names by digest, from lines `NAME SHA256`; `#` begins a comment. Raises SetupError naming the line."""
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) != 64 or set(words[1].lower()) - set("0123456789abcdef"):
            raise SetupError(f"line {number} of the key file must be NAME and the SHA-256 of the key in hexadecimal")
        keys[words[1].lower()] = words[0]
    return keys


def http_status(error: PeerError) -> int:
    """How an error of this module looks in HTTP."""
    return {"unauthorized": 401, "origin-not-allowed": 403, "too-many-sessions": 429}.get(error.slug, 400)


def _check_count(held: int, held_max: int, what: str) -> None:
    if held_max and held >= held_max:
        raise LimitExceeded(f"this {what} has {held_max} sessions already", slug="too-many-sessions")
