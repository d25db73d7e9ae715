"""Which clients may open a session: API keys, browser origins, limits on the sessions of a key or an address. Pure.

A key is a random token; only its SHA-256 digest is stored. A client sends its key as `Authorization: Bearer KEY` or
`Token KEY`, as the header `x-api-key`, as the query parameter `token` or `api_key`, or as the WebSocket subprotocols
`token, KEY`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from asr_frontends.codec import Request
from asr_proto.errors import LimitExceeded, PeerError, SetupError


class Unauthorized(PeerError):
    """The request has no API key, or one that is not in the key file."""

    slug = "unauthorized"


class Forbidden(PeerError):
    """The request comes from a browser page whose origin is not allowed."""

    slug = "origin-not-allowed"


ANY_ORIGIN = "*"
KEY_REVOKED = "key-revoked"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a client must fulfill to be admitted."""

    keys: Mapping[str, str] | None = None
    """The name of each key, by the key's SHA-256 in hexadecimal; None admits clients without a key."""
    origins: frozenset[str] = frozenset()
    """Allowed values of the header Origin; empty, or with ANY_ORIGIN in it, all are allowed."""
    sessions_per_key_max: int = 0
    """Largest number of concurrent sessions of one key; 0 for no limit."""
    sessions_per_address_max: int = 0
    """Largest number of concurrent sessions of one client address; 0 for no limit."""


@dataclass(frozen=True, slots=True)
class AdmittedClient:
    """What an admitted client counts under."""

    name: str
    """The name of the client's key; empty where no key is required."""
    address: str
    """The client's host."""
    key: str = field(default="", compare=False)
    """The digest of the client's key."""


@dataclass(slots=True)
class Admission:
    """A client that is counted. The caller returns it with `Gate.leave`."""

    client: AdmittedClient
    revoked: PeerError | None = field(default=None, compare=False)
    """Set when the key was removed: what the client is to be answered."""
    on_revoked: Callable[[PeerError], None] | None = field(default=None, compare=False)
    """Ends what the client has open, with this error."""

    def revoke(self) -> None:
        """End what the client has open: its key was removed."""
        self.revoked = Unauthorized("this API key was removed", slug=KEY_REVOKED)
        if self.on_revoked is not None:
            self.on_revoked(self.revoked)

    @contextmanager
    def ending(self, end: Callable[[PeerError], None]) -> Iterator[None]:
        """Call `end` when the key is removed during the block, or was removed before it."""
        self.on_revoked = end
        if self.revoked is not None:
            end(self.revoked)
        try:
            yield
        finally:
            self.on_revoked = None


class Gate:
    """Admits clients by the rules and counts them. Replaced `rules` apply to the clients that come afterwards.

    `revoke` applies replaced keys to the clients that are already here.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._by_name: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._admitted: dict[int, Admission] = {}
        """The admissions that were not returned yet."""

    def admit(self, request: Request) -> Admission:
        """Admit and count a client. Raises Unauthorized, Forbidden or LimitExceeded (too-many-sessions)."""
        self.check_origin(request)
        client = self._client(request)
        _check_count(self._by_name[client.name] if client.name else 0, self.rules.sessions_per_key_max, "key")
        _check_count(self._by_address[client.address], self.rules.sessions_per_address_max, "address")
        return self.count(client)

    def count(self, client: AdmittedClient) -> Admission:
        """Count a client that is admitted, here or by another process; also beyond the limits."""
        self._by_name[client.name] += 1
        self._by_address[client.address] += 1
        admission = Admission(client)
        self._admitted[id(admission)] = admission
        return admission

    def leave(self, admission: Admission) -> None:
        """Count a client no more. Called once for each admission, when its client is gone."""
        self._admitted.pop(id(admission), None)
        for counter, key in ((self._by_name, admission.client.name), (self._by_address, admission.client.address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def revoke(self) -> int:
        """End what clients have open whose key is no longer in the rules. Returns their number."""
        keys = self.rules.keys
        if keys is None:
            return 0
        revoked = [one for one in self._admitted.values() if one.client.key not in keys and one.revoked is None]
        for admission in revoked:
            admission.revoke()
        return len(revoked)

    def check_origin(self, request: Request) -> None:
        """Check a browser's Origin; other programs send none. Raises Forbidden."""
        origin = request.headers.get("origin")
        allowed = self.rules.origins
        if origin is not None and allowed and not allowed & {origin, ANY_ORIGIN}:
            raise Forbidden("this origin is not allowed here")

    def _client(self, request: Request) -> AdmittedClient:
        if self.rules.keys is None:
            return AdmittedClient("", request.address)
        key = shown_key(request)
        name = self.rules.keys.get(digest(key)) if key else None
        if key is None or name is None:
            raise Unauthorized("a valid API key is needed" if key is None else "this API key is not known")
        return AdmittedClient(name, request.address, digest(key))


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
    """SHA-256 of a key in hexadecimal: the form in which keys are stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_keys(text: str) -> dict[str, str]:
    """Names by digest, from lines `NAME SHA256`; `#` begins a comment. Raises SetupError with the line's number."""
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
    """The HTTP status for an error of this module."""
    statuses = {"unauthorized": 401, KEY_REVOKED: 401, "origin-not-allowed": 403, "too-many-sessions": 429}
    return statuses.get(error.slug, 400)


def _check_count(held: int, held_max: int, what: str) -> None:
    if held_max and held >= held_max:
        raise LimitExceeded(f"this {what} has {held_max} sessions already", slug="too-many-sessions")
