"""Authentication with real sockets: which peers are accepted, what is logged about the others, and keys that change."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import zmq
from structlog.testing import capture_logs

from asr_broker.authentication import Authenticator, HandshakeMonitor, disconnect, peer_address
from asr_broker.loop import RouterSocket
from asr_process import allow_list, certificates
from asr_process.curve import BrokerKeys
from asr_proto.errors import SetupError

WAIT_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


class Listening:
    """An authenticator with one ROUTER socket, and peers that connect to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = BrokerKeys(folder / "broker.key_secret", folder / "allowed")
        certificates.make_pair(folder, "broker")
        self.pair("peer")
        certificates.copy_public(folder / "peer.key", self.keys.allow)
        self.context: zmq.Context[Any] = zmq.Context()
        self.authenticator = Authenticator(self.context, self.keys)
        self.port = free_port()
        self.router = RouterSocket(self.context, self.endpoint, "worker", self.authenticator)
        self.serving = True
        self._context_of_peers: zmq.Context[Any] = zmq.Context()
        self._peers: list[zmq.Socket[Any]] = []

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def pair(self, name: str, *, replace: bool = False) -> certificates.Pair:
        return certificates.load_pair(certificates.make_pair(self.folder, name, replace=replace)[1])

    def connect(self, name: str = "peer", server: bytes | None = None) -> zmq.Socket[Any]:
        """A peer with the key of this name, which connects and sends hello."""
        peer = self.plain()
        own = certificates.load_pair(self.folder / f"{name}.key_secret")
        peer.curve_publickey, peer.curve_secretkey = own.public, own.secret
        peer.curve_serverkey = server or certificates.load_public(self.folder / "broker.key")
        peer.connect(self.endpoint)
        peer.send(b"hello")
        return peer

    def plain(self) -> zmq.Socket[Any]:
        """A peer without keys that has not connected."""
        peer = self._context_of_peers.socket(zmq.DEALER)
        peer.linger = 0
        peer.identity = b"%d" % len(self._peers)
        self._peers.append(peer)
        return peer

    def accepted(self, timeout_s: float = 0.7) -> bytes | None:
        """The first peer whose message arrives, registered as by the broker; None if no message arrives."""
        found = self.until(self.router.receive, timeout_s)
        if found is None:
            return None
        self.router.connected(found[0], found[1][0])
        identity: bytes = found[0]
        return identity

    def until(self, happens: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """Answer handshakes until the condition is true."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.serving:
                self.authenticator.answer()
            if found := happens():
                return found
            time.sleep(0.005)
        return None

    def close(self) -> None:
        self.router.close()
        self.authenticator.close()
        self.context.term()
        for peer in self._peers:
            peer.close()
        self._context_of_peers.term()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    structlog.reset_defaults()
    listening = Listening(tmp_path)
    yield listening
    listening.close()


def test_an_allowed_key_is_accepted(listening: Listening) -> None:
    with capture_logs() as logs:
        listening.connect()
        assert listening.accepted(WAIT_S) == b"0"
    (line,) = [line for line in logs if line["event"] == "accepted a peer"]
    assert (line["name"], line["address"], line["endpoint"]) == ("peer", "127.0.0.1", listening.endpoint)


def test_an_unknown_key_is_refused(listening: Listening) -> None:
    stranger = listening.pair("stranger")
    with capture_logs() as logs:
        for _ in range(3):
            listening.connect("stranger")
        assert listening.accepted() is None
    (line,) = [line for line in logs if line["event"] == "refused an unknown key"]
    assert (line["key"], line["address"], line["log_level"]) == (stranger.public.decode(), "127.0.0.1", "error")


def test_a_key_connects_in_its_role_only(listening: Listening) -> None:
    """The socket is that of workers."""
    for name, role in (("w", "worker"), ("f", "frontend"), ("both", "any")):
        listening.pair(name)
        allow_list.allow(listening.folder / f"{name}.key", listening.keys.allow, role)
    listening.authenticator.poll()
    with capture_logs() as logs:
        listening.connect("f")
        assert listening.accepted() is None
    (line,) = [line for line in logs if line["event"] == "refused a key that has another role"]
    assert (line["role"], line["log_level"]) == ("worker", "error")
    for name, identity in (("w", b"1"), ("both", b"2")):
        listening.connect(name)
        assert listening.accepted(WAIT_S) == identity


def test_a_peer_whose_key_gets_another_role_is_disconnected(listening: Listening) -> None:
    listening.connect()
    peer = listening.accepted(WAIT_S)
    allow_list.allow(listening.folder / "peer.key", listening.keys.allow, "worker")
    assert listening.authenticator.poll()
    listening.router.revoke()
    assert listening.router.disconnected() == []
    allow_list.allow(listening.folder / "peer.key", listening.keys.allow, "frontend")
    assert listening.authenticator.poll()
    listening.router.revoke()
    (gone,) = listening.until(listening.router.disconnected)
    assert gone.peer == peer
    assert listening.accepted() is None


def test_without_an_answer_from_zap_no_peer_is_accepted(listening: Listening) -> None:
    """libzmq's default is to accept every peer when ZAP does not answer."""
    listening.serving = False
    listening.authenticator.close()
    listening.connect()
    assert listening.accepted() is None


def test_a_handshake_that_fails_before_a_key_is_sent(listening: Listening) -> None:
    """The peer expects another server key. This is logged once, with the address if it could still be read."""
    with capture_logs() as logs:
        listening.connect(server=listening.pair("other").public)
        listening.until(lambda: listening.router.disconnected() or logs)
        assert listening.accepted(1.0) is None
        listening.router.disconnected()
    assert {line["event"] for line in logs} == {"refused a peer that expects another server key"}
    assert all(line["address"].startswith(("127.0.0.1:", "unknown")) for line in logs)
    assert len(logs) <= 2


def event(kind: int, value: int) -> dict[str, Any]:
    return {"event": kind, "value": value}


def test_failures_are_told_apart_and_named() -> None:
    """A peer whose address could not be read is logged as unknown only after several such failures in a row."""
    monitor = HandshakeMonitor()
    mismatch = event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
    broken = event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.PROTOCOL_ERROR_ZMTP_UNEXPECTED_COMMAND)
    left = event(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        number = peer.fileno()
        with capture_logs() as logs:
            for failure in (mismatch, broken, left, mismatch):
                for seen in (event(zmq.EVENT_ACCEPTED, number), failure, event(zmq.EVENT_DISCONNECTED, number)):
                    monitor.observe(seen)
            monitor.observe(event(zmq.EVENT_DISCONNECTED, number))  # after a good handshake: nothing is logged
            named = len(logs)
            for _ in range(2):
                monitor.observe(mismatch)
                monitor.observe(event(zmq.EVENT_DISCONNECTED, 99))
            assert len(logs) == named == 3
            monitor.observe(mismatch)
            monitor.observe(event(zmq.EVENT_DISCONNECTED, 99))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert [(line["event"].split(":")[0], line["address"]) for line in logs] == [
        ("refused a peer without a key", address),
        ("refused a peer that breaks the protocol", address),
        ("a peer broke off its handshake", address),
        ("refused a peer without a key", "unknown"),
    ]


# ---- Changes ----


def test_the_allow_list_is_read_again(listening: Listening) -> None:
    listening.pair("late")
    listening.connect("late")
    assert listening.accepted() is None
    assert not listening.authenticator.poll()
    certificates.copy_public(listening.folder / "late.key", listening.keys.allow)
    assert listening.authenticator.poll()
    listening.connect("late")
    assert listening.accepted(WAIT_S) == b"1"


def test_a_revoked_peer_is_disconnected_and_cannot_reconnect(listening: Listening) -> None:
    listening.connect()
    peer = listening.accepted(WAIT_S)
    (listening.keys.allow / "peer.key").unlink()
    assert listening.authenticator.poll()
    listening.router.revoke()
    (gone,) = listening.until(listening.router.disconnected)
    assert gone.peer == peer
    assert listening.accepted() is None


def test_without_a_list_no_peer_is_accepted(listening: Listening) -> None:
    listening.keys.allow.rename(listening.folder / "elsewhere")
    assert listening.authenticator.poll()
    listening.connect()
    assert listening.accepted() is None


def test_a_damaged_key_in_the_list_excludes_only_itself(listening: Listening) -> None:
    (listening.keys.allow / "broken.key").write_text("half a fi")
    (listening.keys.allow / "secret.key").write_bytes((listening.folder / "peer.key_secret").read_bytes())
    with capture_logs() as logs:
        assert listening.authenticator.poll()
    assert len([line for line in logs if line["event"] == "an allowed key cannot be used"]) == 2
    listening.connect()
    assert listening.accepted(WAIT_S) == b"0"


def test_a_new_server_key_is_for_new_connections(listening: Listening) -> None:
    """Three server keys on one port: connections that exist stay, new ones need the latest key."""
    inside = []
    generations = [certificates.load_public(listening.folder / "broker.key")]
    for generation in range(3):
        inside.append(listening.connect())
        assert listening.accepted(WAIT_S) is not None, generation
        generations.append(listening.pair("broker", replace=True).public)
        listening.authenticator.poll()
    for old in generations[:-1]:
        listening.connect(server=old)
    assert listening.accepted() is None
    for _ in range(5):
        listening.connect()
    assert sum(listening.accepted(WAIT_S) is not None for _ in range(5)) == 5
    for peer in inside:
        peer.send(b"still here")
        assert listening.until(listening.router.receive)
    assert listening.router.disconnected() == []


def test_a_server_key_that_cannot_be_used_changes_nothing(listening: Listening) -> None:
    before = listening.keys.own.read_bytes()
    with capture_logs() as logs:
        listening.keys.own.chmod(0o644)
        listening.keys.own.write_bytes(before + b"\n")
        listening.authenticator.poll()
        listening.keys.own.unlink()
        for _ in range(3):
            listening.authenticator.poll()
    reasons = [
        line["reason"] for line in logs if line["event"] == "the new server key cannot be used, the old one stays"
    ]
    assert len(reasons) == 2
    listening.connect()
    assert listening.accepted(WAIT_S) == b"0"


def test_a_server_key_is_taken_once_its_file_is_right(listening: Listening) -> None:
    """A file that other users can read at first. Later only its mode changes."""
    new = listening.pair("broker", replace=True)
    listening.keys.own.chmod(0o644)
    listening.authenticator.poll()
    listening.keys.own.chmod(0o600)
    listening.authenticator.poll()
    listening.connect(server=new.public)
    assert listening.accepted(WAIT_S) == b"0"


def test_a_port_is_not_shared_with_another_broker(listening: Listening) -> None:
    """The listeners of one broker share it."""
    listening.pair("broker", replace=True)
    listening.authenticator.poll()
    with zmq.Context() as context, pytest.raises(SetupError, match=r"cannot listen on tcp://127\.0\.0\.1"):
        authenticator = Authenticator(context, listening.keys)
        with context.socket(zmq.ROUTER) as router:
            try:
                authenticator.listen(router, listening.endpoint, "worker")
            finally:
                authenticator.close()


# ---- Descriptors ----


def test_descriptors_that_are_no_connections_are_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for descriptor in (-1, 1_000_000, file.fileno()):
            disconnect(descriptor)
            assert peer_address(descriptor) == "unknown"
        file.write(b"still open")


def test_disconnect_ends_a_connection_at_both_ends() -> None:
    here, there = socket.socketpair()
    with here, there:
        disconnect(here.fileno())
        assert there.recv(1) == here.recv(1) == b""
