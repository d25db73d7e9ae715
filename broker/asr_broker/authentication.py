"""Authentication of peers on other hosts: the broker's tcp listeners with CURVE, and its allow-list of public keys.

Keys are files and are read again when they change (`poll`, about once a second). libzmq checks a key by ZAP
(ZeroMQ RFC 27) and only during the handshake (CurveZMQ, RFC 26). It takes the server's key pair when a socket binds.
So a change of the files means:

- A key is added: the peer's next connection attempt succeeds. A key is removed: `RouterSocket.revoke` disconnects it.
- The server pair is new: a further listener with it accepts all new connections to the same port. Connections made
  through the old listener stay; unbinding the old listener would end them.

A key may connect at the endpoints of its role only (asr_process.allow_list): a worker's key registers no frontend. The
domain of a ZAP request is the endpoint. With an empty or unreadable list no peer can connect. A damaged key file
excludes only the key in it. This module has no rule about sessions.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import zmq
from zmq.utils import z85

from asr_process import allow_list, certificates, settings
from asr_process.allow_list import Role
from asr_process.certificates import Pair
from asr_process.curve import FAILURES, BrokerKeys
from asr_process.logs import Seldom
from asr_proto.errors import SetupError, cannot_listen

log = structlog.get_logger()

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
BACKLOG = 1024
UNKNOWN = "unknown"
NAMELESS_MAX = 3
"""In a row of failures without an address, the one with this number is logged as from an unknown address."""
EVENTS = FAILURES | zmq.EVENT_ACCEPTED
"""The events of a listening socket that `HandshakeMonitor` needs, besides disconnects."""
FAULTS = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): "without a key",
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "that expects another server key",
}
SO_ATTACH_REUSEPORT_CBPF = 51  # of Linux; the module socket has no name for it
BPF_RETURN_CONSTANT = 0x06


class Authenticator:
    """Authenticates peers at all tcp endpoints of one ZeroMQ context. Create it before the first of them listens."""

    def __init__(self, context: zmq.Context[Any], keys: BrokerKeys) -> None:
        self._keys = keys
        self._pair = certificates.load_pair(keys.own)
        self._pair_stamp = _stamp(keys.own)
        self._allowed: dict[Role, dict[bytes, str]] = {}
        """By role: the name of each allowed key."""
        self._allowed_stamps: Any = None
        self._roles: dict[bytes, Role] = {}
        """By ZAP domain: the role of the peers there."""
        self._listeners: list[_Listener] = []
        self._seldom = Seldom()
        self.zap = context.socket(zmq.REP)
        self.zap.setsockopt(zmq.LINGER, 0)
        self.zap.bind(ZAP_ENDPOINT)
        self._read_allowed()
        if not any(self._allowed.values()):
            log.warning("the allow-list is empty: every peer is refused", allow=str(keys.allow))

    # ---- Listening ----

    def listen(self, router: zmq.Socket[Any], endpoint: str, role: Role) -> None:
        """Bind a socket that accepts only keys that are allowed in this role. Raises SetupError."""
        self._roles[endpoint.encode()] = role
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.ZAP_DOMAIN, endpoint.encode())
        # Without an answer from ZAP every peer is refused; libzmq's default is to accept every peer.
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        listener = _Listener(router, endpoint)
        listener.open(self._pair)
        self._listeners.append(listener)

    # ---- Handshakes ----

    def answer(self) -> None:
        """Answer the ZAP requests of the handshakes under way."""
        with suppress(zmq.Again):
            while True:
                self._authenticate(self.zap.recv_multipart(zmq.DONTWAIT))

    def allows(self, key: bytes, role: Role) -> bool:
        return key in self._allowed[role]

    def _authenticate(self, request: list[bytes]) -> None:
        _version, number, domain, address, _identity, mechanism, *credentials = request
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        role = self._roles[domain]
        is_allowed = self.allows(key, role)
        status = (b"200", b"OK", key) if is_allowed else (b"400", b"unknown key", b"")
        self.zap.send_multipart([ZAP_VERSION, number, *status, b""])
        who = {"address": address.decode(), "key": key.decode(), "endpoint": domain.decode()}
        if is_allowed:
            log.info("accepted a peer", name=self._allowed[role][key], **who)
        elif (more := self._seldom.line(("key", address, key, role), time.monotonic())) is not None:
            log.error(self._reason(key), role=role, **who, **more)

    def _reason(self, key: bytes) -> str:
        """The log line for a key that is refused."""
        is_known = any(key in keys for keys in self._allowed.values())
        return "refused a key that has another role" if is_known else "refused an unknown key"

    # ---- Changes of the files ----

    def poll(self) -> bool:
        """Read the files that changed. Returns whether the allow-list did."""
        self._read_pair()
        return self._read_allowed()

    def _read_pair(self) -> None:
        stamp = _stamp(self._keys.own)
        if stamp == self._pair_stamp:
            return
        try:
            pair = certificates.load_pair(self._keys.own)
            for listener in self._listeners:
                listener.open(pair)
        except SetupError as error:  # tried again the next time
            if (more := self._seldom.line(error.detail, time.monotonic())) is not None:
                log.error("the new server key cannot be used, the old one stays", reason=error.detail, **more)
            return
        self._pair_stamp = stamp
        if pair != self._pair:
            log.info("new connections need the new server key", key=pair.public.decode())
        self._pair = pair

    def _read_allowed(self) -> bool:
        files = allow_list.all_files(self._keys.allow)
        stamps = [(file, _stamp(file)) for file in files]
        if stamps == self._allowed_stamps:
            return False
        self._allowed_stamps = stamps
        keys = {file: key for file in files if (key := _allowed(file))}
        self._allowed = {
            role: {keys[file]: file.stem for file in allow_list.files(self._keys.allow, role) if file in keys}
            for role in allow_list.ROLES
        }
        without_role = len(list(allow_list.without_role(self._keys.allow)))
        log.info("allow-list read", keys=len(keys), without_role=without_role, allow=str(self._keys.allow))
        return True

    def close(self) -> None:
        """Close the ZAP socket. The listeners close with their ROUTER sockets."""
        self.zap.close()


class HandshakeMonitor:
    """Logs the handshakes of one socket that fail before a key is sent: with the address, and not too often."""

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._failure: str | None = None
        self._nameless = 0
        self._seldom = Seldom()

    def observe(self, event: dict[str, Any]) -> None:
        """Take one event of the monitor. A failure names no connection, but the disconnect that follows does."""
        kind, value = event["event"], event["value"]
        if kind == zmq.EVENT_ACCEPTED:
            self._addresses[value] = peer_address(value)
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = f"refused a peer {FAULTS.get(value, 'that breaks the protocol')}"
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failure = "a peer broke off its handshake: no key, another server key, or no peer at all"
        elif kind == zmq.EVENT_DISCONNECTED:
            self._ended(self._addresses.pop(value, UNKNOWN))

    def _ended(self, address: str) -> None:
        failure, self._failure = self._failure, None
        if not failure:
            return
        # A connection may be closed before its address is read. Peers connect again within a second or two, so the log
        # line waits for a failure whose address is known.
        self._nameless = self._nameless + 1 if address == UNKNOWN else 0
        if self._nameless in range(1, NAMELESS_MAX):
            return
        self._nameless = 0
        if (more := self._seldom.line((failure, address.rpartition(":")[0]), time.monotonic())) is not None:
            log.error(failure, address=address, **more)


class _Listener:
    """One endpoint of one ROUTER, with a listening socket for each server pair that it has had."""

    def __init__(self, router: zmq.Socket[Any], endpoint: str) -> None:
        self._router, self._endpoint = router, endpoint
        self._pairs: list[Pair] = []

    def open(self, pair: Pair) -> None:
        """Accept new connections with this pair. If it raises SetupError, nothing has changed."""
        if self._pairs[-1:] == [pair]:
            return
        listener = _listen(self._endpoint, again=bool(self._pairs))
        try:
            if self._pairs:
                _steer(listener, len(self._pairs))
        except OSError as error:
            listener.close()
            raise SetupError(f"this system needs a restart of the broker for a new key: {error}") from error
        self._pairs.append(pair)
        self._router.curve_publickey, self._router.curve_secretkey = pair.public, pair.secret
        self._router.setsockopt(zmq.USE_FD, listener.detach())
        self._router.bind(self._endpoint)
        self._router.setsockopt(zmq.USE_FD, -1)


def _listen(endpoint: str, *, again: bool) -> socket.socket:
    """A listening socket. The first one of a port is exclusive: another broker must not share it by mistake."""
    address = settings.parse_address(endpoint.removeprefix("tcp://"))
    host = "" if address.host == "*" else address.host
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if again:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, address.port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise cannot_listen(endpoint, error) from error
    return listener


def _steer(listener: socket.socket, index: int) -> None:
    """Make the kernel give all new connections of a shared port to its listener number `index`. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("only Linux steers connections between listeners")
    program = array("B", struct.pack("HBBI", BPF_RETURN_CONSTANT, 0, 0, index))
    header = struct.pack("HP", 1, program.buffer_info()[0])  # one instruction, and its address
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, header)


def _allowed(file: Path) -> bytes | None:
    try:
        return certificates.load_public(file)
    except SetupError as error:
        log.error("an allowed key cannot be used", reason=error.detail)
        return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when the file changes; None when there is no file."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_ino, info.st_size


# ---- Descriptors of connections ----


def disconnect(descriptor: int) -> None:
    """End a connection; libzmq has no call for this. Does nothing if the connection has already ended."""
    with suppress(OSError), _borrowed(descriptor) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def peer_address(descriptor: int) -> str:
    """HOST:PORT of the other end; "unknown" when it has disconnected already."""
    try:
        with _borrowed(descriptor) as connection:
            host, port = connection.getpeername()[:2]
    except OSError:
        return UNKNOWN
    return str(settings.Address(host, port))


def _borrowed(descriptor: int) -> socket.socket:
    """A second descriptor of the connection. Closing it does not close the descriptor of libzmq."""
    return socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
