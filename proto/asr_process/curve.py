"""Links between hosts: which endpoints need CURVE (ZeroMQ RFC 26), their socket options, and the connecting end.

The broker is the CURVE server of every link (asr_broker.authentication); workers and frontends are its clients. After
a rejected handshake libzmq may never try again. So the `Dialer` connects again and reads the key files again: a key
that is allowed or replaced later needs no restart.
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
from asr_process.logs import Seldom
from asr_proto.errors import SetupError
from asr_proto.wire import BODY_BYTES_MAX

log = structlog.get_logger()

QUEUE_MESSAGES_MAX = 20_000
"""High-water mark of the queue to one peer, in messages; a peer with a full queue counts as dead."""
HEARTBEAT_MS = 1000
SILENT_MS = 3000
"""Longest silence on a link before it counts as broken, in milliseconds: a network partition sends no TCP reset.

ZeroMQ's I/O threads answer its pings even in a busy process, so silence means that the network is down. Five lost
packets in a row look the same.
"""
CONNECT_MS = 2000
"""Longest wait for one TCP connect, in milliseconds.

The kernel doubles the pauses between its retries, so it would reconnect late after a partition ends.
"""
REDIAL_S = 0.5
"""Shortest pause between a rejected handshake and the next connect, in seconds; links are polled once a second."""

FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


# ---- Which links need keys ----


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """The key files of a worker or frontend. They are read again before each connect."""

    own: Path
    server: Path
    """The broker's public key file, or a folder of such files, which are tried in turn."""


@dataclass(frozen=True, slots=True)
class BrokerAt:
    """A broker's endpoint and the keys for it."""

    endpoint: str
    keys: PeerKeys | None = None


@dataclass(frozen=True, slots=True)
class BrokerKeys:
    """The broker's key pair and the folder of the public keys that may connect. Both are read again on changes."""

    own: Path
    allow: Path


def peer_keys(endpoint: str, own: Path | None, server: Path | None, *, insecure: bool) -> PeerKeys | None:
    """The keys for an endpoint; None if the link needs none. Raises SetupError."""
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
    """The brokers that a process connects to, each with the keys for its link. Raises SetupError."""
    return tuple(BrokerAt(endpoint, peer_keys(endpoint, own, server, insecure=insecure)) for endpoint in endpoints)


def broker_keys(own: Path | None, allow: Path | None) -> BrokerKeys | None:
    """The broker's keys, None without options. Raises SetupError. An empty or missing allow folder allows no peer."""
    keys = _both(own, allow, "--curve-key and --curve-allow")
    if keys is None:
        return None
    certificates.load_pair(keys[0])
    return BrokerKeys(*keys)


def check_guarded(endpoint: str, *, keyed: bool, insecure: bool, options: str) -> None:
    """Raise SetupError for an unencrypted link to other machines, unless `insecure` allows it."""
    if keyed or settings.is_local(endpoint):
        return
    if not insecure:
        raise SetupError(
            f"{endpoint} leaves this machine: give {options} (made with asr-keys), "
            "or --insecure if the network itself is protected"
        )
    log.warning("this link leaves the machine without keys: anyone on the network may connect", endpoint=endpoint)


def is_tcp(endpoint: str) -> bool:
    """Only tcp links use keys; the directory's permissions protect an ipc path."""
    return endpoint.startswith("tcp://")


def _both(first: Path | None, second: Path | None, options: str) -> tuple[Path, Path] | None:
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise SetupError(f"{options} go together: name both")
    return first, second


# ---- Sockets ----


def tune(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Limit the socket's queue and message size, and detect a dead network on tcp. Call it before connect or bind."""
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


class Dialer:
    """The connecting end of a link. It logs why the link is down. Call `poll` about every second."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, keys: PeerKeys | None = None) -> None:
        self._socket, self._endpoint, self._keys = socket, endpoint, keys
        self._failures = 0
        self._redial_at = self._unanswered_since = math.inf
        self._seldom = Seldom()
        self._candidates = 1
        self._public = b""
        tune(socket, endpoint)
        self.monitor = _monitor(socket, endpoint)
        """Monitor socket: readable when `poll` has events to handle."""
        self._open = True
        self._dial()

    def poll(self, now: float) -> list[bool]:
        """Handle the monitor's events, and connect again after a rejected handshake.

        Returns one value for each change since the last call: True for a connection that came up, False for one lost.
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
        """Close the monitor. The owner of the socket closes the socket."""
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
        # At most one of several server keys is the broker's: it is an error only after all were tried.
        more = self._seldom.line(event["event"], now) if self._failures >= self._candidates else None
        if more is not None:
            reason = _reason(event, keyed=self._keys is not None)
            log.error(reason, broker=self._endpoint, our_key=self._public.decode() or None, **more)

    def _unanswered(self, now: float) -> None:
        """Log a broker that does not answer, but not during a short restart."""
        self._unanswered_since = min(self._unanswered_since, now)
        is_late = now - self._unanswered_since > SILENT_MS / 1000
        if is_late and (more := self._seldom.line("unanswered", now)) is not None:
            log.warning("no answer at the broker's address", broker=self._endpoint, **more)

    def _succeeded(self) -> None:
        if self._failures:
            log.info("the broker accepts our key", broker=self._endpoint)
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
        """Read the key files and connect. Raises SetupError."""
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
    """The socket's monitor. On an ipc link no handshake is rejected, and a missing broker is not logged."""
    refusals = FAILURES | zmq.EVENT_CONNECT_RETRIED if is_tcp(endpoint) else 0
    monitor: zmq.Socket[Any] = socket.get_monitor_socket(
        refusals | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    return monitor


def _reason(event: dict[str, Any], *, keyed: bool) -> str:
    """The log line for a failed handshake at the connecting end."""
    if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "the broker refuses our key: allow it there with `asr-keys allow`"
    if event["value"] == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "the broker's link has no encryption, ours has" if keyed else "the broker wants a key and we have none"
    if keyed:
        return "the broker breaks off: its key is not the server key that we expect, or it has none, or is no broker"
    return "the broker breaks off: it may want a key, or is no broker"
