"""Links between hosts: which endpoints need CURVE, how their sockets are set, and the end that connects.

The broker is the CURVE server of every link (asr_broker.authentication); workers and frontends are its clients. After
a refused handshake libzmq may give up for good. So the `Dialer` connects again, with the keys that the files hold then:
a key that is allowed or replaced later needs no restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from asr_process import certificates, settings
from asr_proto.errors import SetupError
from asr_proto.wire import BODY_BYTES_MAX

log = structlog.get_logger()

QUEUE_MESSAGES_MAX = 20_000
"""High-water mark towards one peer; a peer that lets this much pile up is taken for dead."""
HEARTBEAT_MS = 1000
SILENT_MS = 3000
"""A partition sends no reset. ZeroMQ's pings are answered by its I/O threads, however busy a process is, so a link
that is silent for this long has no network; five lost packets in a row would look the same."""
CONNECT_MS = 2000
"""Longest wait for one TCP connect: the system's own retries double their pauses, and would miss the healing."""
REDIAL_S = 0.5
"""After a refusal, at least; links are looked at once a second."""
SAY_AGAIN_S = 30.0
SAID_MAX = 256

FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


# ---- Which links need keys ----


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What a worker or frontend shows, and whom it expects: read again at each dialling."""

    own: Path
    server: Path
    """The broker's public key, or a folder of them, which are tried in turn."""


@dataclass(frozen=True, slots=True)
class BrokerAt:
    """Where a broker listens, and the keys for it."""

    endpoint: str
    keys: PeerKeys | None = None


@dataclass(frozen=True, slots=True)
class BrokerKeys:
    """The broker's pair and the folder of public keys that may connect: read again when they change."""

    own: Path
    allow: Path


def peer_keys(endpoint: str, own: Path | None, server: Path | None, *, insecure: bool) -> PeerKeys | None:
    """The keys for an endpoint; None for a link that needs none. Raises SetupError."""
    keys = _both(own, server, "--curve-key and --curve-server-key")
    check_guarded(endpoint, keyed=keys is not None, insecure=insecure, options="--curve-key and --curve-server-key")
    if keys is None or not is_tcp(endpoint):
        return None
    certificates.load_pair(keys[0])
    certificates.load_publics(keys[1])
    return PeerKeys(*keys)


def brokers_at(
    endpoints: Iterable[str], own: Path | None, server: Path | None, *, insecure: bool
) -> tuple[BrokerAt, ...]:
    """The brokers that a process connects to, each with the keys that its link needs. Raises SetupError."""
    return tuple(BrokerAt(endpoint, peer_keys(endpoint, own, server, insecure=insecure)) for endpoint in endpoints)


def broker_keys(own: Path | None, allow: Path | None) -> BrokerKeys | None:
    """The broker's keys, if it has any. Raises SetupError. An empty or missing allow-list is one: it lets nobody in."""
    keys = _both(own, allow, "--curve-key and --curve-allow")
    if keys is None:
        return None
    certificates.load_pair(keys[0])
    return BrokerKeys(*keys)


def check_guarded(endpoint: str, *, keyed: bool, insecure: bool, options: str) -> None:
    """Raise SetupError for a link that leaves this machine in the clear, unless that is wanted."""
    if keyed or settings.is_local(endpoint):
        return
    if not insecure:
        raise SetupError(
            f"{endpoint} leaves this machine: give {options} (made with asr-keys), "
            "or --insecure where the network itself is guarded"
        )
    log.warning("this link leaves the machine without keys: everybody there may connect", endpoint=endpoint)


def is_tcp(endpoint: str) -> bool:
    """Keys are for tcp; an ipc path is guarded by its directory."""
    return endpoint.startswith("tcp://")


def _both(first: Path | None, second: Path | None, options: str) -> tuple[Path, Path] | None:
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise SetupError(f"{options} go together: name both")
    return first, second


# ---- Sockets ----


def tune(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Bound what piles up, and notice a dead network on tcp links; to be called before connect or bind."""
    socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, BODY_BYTES_MAX)
    if not is_tcp(endpoint):
        return
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, SILENT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, SILENT_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


class Seldom:
    """Whether something is worth a line in the log: once per SAY_AGAIN_S. Beyond SAID_MAX things nothing is."""

    def __init__(self) -> None:
        self._again_at: dict[Any, float] = {}

    def due(self, thing: Any, now: float) -> bool:
        self._again_at = {said: at for said, at in self._again_at.items() if at > now}
        if thing in self._again_at or len(self._again_at) >= SAID_MAX:
            return False
        self._again_at[thing] = now + SAY_AGAIN_S
        return True


class Dialer:
    """The connecting end of a link, which knows why it is not up and says so. To be polled every second or so."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, keys: PeerKeys | None = None) -> None:
        self._socket, self._endpoint, self._keys = socket, endpoint, keys
        self._failures = 0
        self._redial_at = self._unanswered_since = math.inf
        self._seldom = Seldom()
        self._candidates = 1
        self._public = b""
        tune(socket, endpoint)
        self.monitor = _monitor(socket, endpoint)
        """Readable when there is something for `poll`."""
        self._open = True
        self._dial()

    def poll(self, now: float) -> list[bool]:
        """Look at what became of the connection, and dial again when it was refused.

        Returns True for each time it came up since the last call, False for each time it broke.
        """
        changes = []
        for event in self._events():
            if event["event"] & FAILURES:
                self._failed(event, now)
            elif event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._succeeded()
                changes.append(True)
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                changes.append(False)
            elif not self._failures:
                self._unanswered(now)
        if now >= self._redial_at:
            self._redial()
        return changes

    def close(self) -> None:
        """Let go of the monitor; the socket is its owner's to close."""
        if self._open:
            self._open = False
            self._socket.disable_monitor()
            self.monitor.close()

    def _events(self) -> Iterator[dict[str, Any]]:
        with suppress(zmq.Again):
            while self._open:
                yield dict(recv_monitor_message(self.monitor, zmq.DONTWAIT))

    def _failed(self, event: dict[str, Any], now: float) -> None:
        if self._redial_at == math.inf:
            self._redial_at = now + REDIAL_S
            self._failures += 1
        # Of several keys one at most is the broker's: only when all have been tried is there something to tell.
        if self._failures >= self._candidates and self._seldom.due(event["event"], now):
            reason = _reason(event, keyed=self._keys is not None)
            log.error(reason, broker=self._endpoint, our_key=self._public.decode() or None)

    def _unanswered(self, now: float) -> None:
        """A broker that restarts is away for a moment; that is not worth a line."""
        self._unanswered_since = min(self._unanswered_since, now)
        if now - self._unanswered_since > SILENT_MS / 1000 and self._seldom.due("unanswered", now):
            log.warning("nobody answers at the broker's address", broker=self._endpoint)

    def _succeeded(self) -> None:
        if self._failures:
            log.info("the broker lets us in", broker=self._endpoint)
        self._failures, self._redial_at, self._unanswered_since, self._seldom = 0, math.inf, math.inf, Seldom()

    def _redial(self) -> None:
        self._redial_at = math.inf
        with suppress(zmq.ZMQError):  # libzmq may have dropped the endpoint itself
            self._socket.disconnect(self._endpoint)
        try:
            self._dial()
        except SetupError as error:
            log.error("cannot use the keys as they are now", reason=error.detail)
            self._connect()

    def _dial(self) -> None:
        """Connect with the keys as they are now. Raises SetupError."""
        if self._keys is not None:
            pair, servers = certificates.load_pair(self._keys.own), certificates.load_publics(self._keys.server)
            self._candidates, self._public = len(servers), pair.public
            self._socket.curve_publickey, self._socket.curve_secretkey = pair.public, pair.secret
            self._socket.curve_serverkey = servers[self._failures % len(servers)]
        self._connect()

    def _connect(self) -> None:
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            raise SetupError(f"cannot connect to {self._endpoint}: {error}") from error


def _monitor(socket: zmq.Socket[Any], endpoint: str) -> zmq.Socket[Any]:
    """On an ipc link nothing can be refused, and a broker that is away needs no line."""
    refusals = FAILURES | zmq.EVENT_CONNECT_RETRIED if is_tcp(endpoint) else 0
    monitor: zmq.Socket[Any] = socket.get_monitor_socket(
        refusals | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    return monitor


def _reason(event: dict[str, Any], *, keyed: bool) -> str:
    """What a failed handshake means at the connecting end."""
    if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "the broker refuses our key: allow it there with `asr-keys allow`"
    if event["value"] == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "the broker's link has no encryption, ours has" if keyed else "the broker wants a key and we have none"
    if keyed:
        return "the broker breaks off: its key is not the server key that we expect, or it has none, or is no broker"
    return "the broker breaks off: it may want a key, or is no broker"
