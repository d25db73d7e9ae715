"""The broker's door, with real sockets: who gets in, what is said about the others, and keys that change meanwhile."""

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

from asr_broker.door import Door, Watch, cut, peer_address
from asr_broker.loop import Side
from asr_process import certificates
from asr_process.curve import BrokerKeys
from asr_proto.errors import SetupError

WAIT_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


class House:
    """A door with one side behind it, and peers that knock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = BrokerKeys(folder / "broker.key_secret", folder / "allowed")
        certificates.make_pair(folder, "broker")
        self.pair("peer")
        certificates.copy_public(folder / "peer.key", self.keys.allow)
        self.context: zmq.Context[Any] = zmq.Context()
        self.door = Door(self.context, self.keys)
        self.port = free_port()
        self.side = Side(self.context, self.endpoint, self.door)
        self.serving = True
        self._context_of_peers: zmq.Context[Any] = zmq.Context()
        self._peers: list[zmq.Socket[Any]] = []

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def pair(self, name: str, *, replace: bool = False) -> certificates.Pair:
        return certificates.load_pair(certificates.make_pair(self.folder, name, replace=replace)[1])

    def knock(self, name: str = "peer", server: bytes | None = None) -> zmq.Socket[Any]:
        """A peer with the key of that name, dialling; it says hello."""
        peer = self.plain()
        own = certificates.load_pair(self.folder / f"{name}.key_secret")
        peer.curve_publickey, peer.curve_secretkey = own.public, own.secret
        peer.curve_serverkey = server or certificates.load_public(self.folder / "broker.key")
        peer.connect(self.endpoint)
        peer.send(b"hello")
        return peer

    def plain(self) -> zmq.Socket[Any]:
        """A peer that has no keys and has not dialled."""
        peer = self._context_of_peers.socket(zmq.DEALER)
        peer.linger = 0
        peer.identity = b"%d" % len(self._peers)
        self._peers.append(peer)
        return peer

    def heard(self, timeout_s: float = 0.7) -> bytes | None:
        """Who is heard first, if anybody is; registered, as the broker does it."""
        found = self.until(self.side.receive, timeout_s)
        if found is None:
            return None
        self.side.connected(found[0], found[1][0])
        identity: bytes = found[0]
        return identity

    def until(self, happens: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """Serve the door until something is true."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.serving:
                self.door.answer()
            if found := happens():
                return found
            time.sleep(0.005)
        return None

    def close(self) -> None:
        self.side.close()
        self.door.close()
        self.context.term()
        for peer in self._peers:
            peer.close()
        self._context_of_peers.term()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    structlog.reset_defaults()
    house = House(tmp_path)
    yield house
    house.close()


def test_an_allowed_key_gets_in(house: House) -> None:
    with capture_logs() as logs:
        house.knock()
        assert house.heard(WAIT_S) == b"0"
    (line,) = [line for line in logs if line["event"] == "let in"]
    assert (line["name"], line["address"], line["endpoint"]) == ("peer", "127.0.0.1", house.endpoint)


def test_an_unknown_key_does_not(house: House) -> None:
    stranger = house.pair("stranger")
    with capture_logs() as logs:
        for _ in range(3):
            house.knock("stranger")
        assert house.heard() is None
    (line,) = [line for line in logs if line["event"] == "refused an unknown key"]
    assert (line["key"], line["address"], line["log_level"]) == (stranger.public.decode(), "127.0.0.1", "error")


def test_without_a_verdict_nobody_gets_in(house: House) -> None:
    """libzmq's own default is to let everybody in when nobody answers."""
    house.serving = False
    house.door.close()
    house.knock()
    assert house.heard() is None


def test_what_fails_before_a_key_is_shown(house: House) -> None:
    """Another server key: said, once, with the address if the connection was still there."""
    with capture_logs() as logs:
        house.knock(server=house.pair("other").public)
        house.until(lambda: house.side.disconnected() or logs)
        assert house.heard(1.0) is None
        house.side.disconnected()
    assert {line["event"] for line in logs} == {"refused a peer that expects another server key"}
    assert all(line["address"].startswith(("127.0.0.1:", "unknown")) for line in logs)
    assert len(logs) <= 2


def event(kind: int, value: int) -> dict[str, Any]:
    return {"event": kind, "value": value}


def test_failures_are_told_apart_and_named() -> None:
    """Peers whose connection is gone too soon are named as unknown only when that happens again and again."""
    watch = Watch()
    mismatch = event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
    broken = event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.PROTOCOL_ERROR_ZMTP_UNEXPECTED_COMMAND)
    left = event(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        number = peer.fileno()
        with capture_logs() as logs:
            for failure in (mismatch, broken, left, mismatch):
                for seen in (event(zmq.EVENT_ACCEPTED, number), failure, event(zmq.EVENT_DISCONNECTED, number)):
                    watch.note(seen)
            watch.note(event(zmq.EVENT_DISCONNECTED, number))  # after a good handshake: nothing to say
            named = len(logs)
            for _ in range(2):
                watch.note(mismatch)
                watch.note(event(zmq.EVENT_DISCONNECTED, 99))
            assert len(logs) == named == 3
            watch.note(mismatch)
            watch.note(event(zmq.EVENT_DISCONNECTED, 99))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert [(line["event"].split(":")[0], line["address"]) for line in logs] == [
        ("refused a peer without a key", address),
        ("refused a peer that breaks the protocol", address),
        ("a peer broke off its handshake", address),
        ("refused a peer without a key", "unknown"),
    ]


# ---- Changes ----


def test_the_allow_list_is_read_again(house: House) -> None:
    house.pair("late")
    house.knock("late")
    assert house.heard() is None
    assert not house.door.poll()
    certificates.copy_public(house.folder / "late.key", house.keys.allow)
    assert house.door.poll()
    house.knock("late")
    assert house.heard(WAIT_S) == b"1"


def test_a_revoked_peer_is_cut_off_and_stays_out(house: House) -> None:
    house.knock()
    peer = house.heard(WAIT_S)
    (house.keys.allow / "peer.key").unlink()
    assert house.door.poll()
    house.side.revoke()
    (gone,) = house.until(house.side.disconnected)
    assert gone.peer == peer
    assert house.heard() is None


def test_a_list_that_is_gone_lets_nobody_in(house: House) -> None:
    house.keys.allow.rename(house.folder / "elsewhere")
    assert house.door.poll()
    house.knock()
    assert house.heard() is None


def test_a_damaged_key_in_the_list_harms_only_itself(house: House) -> None:
    (house.keys.allow / "broken.key").write_text("half a fi")
    (house.keys.allow / "secret.key").write_bytes((house.folder / "peer.key_secret").read_bytes())
    with capture_logs() as logs:
        assert house.door.poll()
    assert len([line for line in logs if line["event"] == "an allowed key cannot be used"]) == 2
    house.knock()
    assert house.heard(WAIT_S) == b"0"


def test_a_new_server_key_is_for_new_connections(house: House) -> None:
    """Three generations on one port; whoever is inside stays, whoever comes needs the latest."""
    inside = []
    generations = [certificates.load_public(house.folder / "broker.key")]
    for generation in range(3):
        inside.append(house.knock())
        assert house.heard(WAIT_S) is not None, generation
        generations.append(house.pair("broker", replace=True).public)
        house.door.poll()
    for old in generations[:-1]:
        house.knock(server=old)
    assert house.heard() is None
    for _ in range(5):
        house.knock()
    assert sum(house.heard(WAIT_S) is not None for _ in range(5)) == 5
    for peer in inside:
        peer.send(b"still here")
        assert house.until(house.side.receive)
    assert house.side.disconnected() == []


def test_a_server_key_that_cannot_be_used_changes_nothing(house: House) -> None:
    before = house.keys.own.read_bytes()
    with capture_logs() as logs:
        house.keys.own.chmod(0o644)
        house.keys.own.write_bytes(before + b"\n")
        house.door.poll()
        house.keys.own.unlink()
        for _ in range(3):
            house.door.poll()
    said = [line["reason"] for line in logs if line["event"] == "the server key stays what it was"]
    assert len(said) == 2
    house.knock()
    assert house.heard(WAIT_S) == b"0"


def test_a_server_key_is_taken_once_its_file_is_right(house: House) -> None:
    """A file that others can read at first: its mode changes later, and nothing else."""
    new = house.pair("broker", replace=True)
    house.keys.own.chmod(0o644)
    house.door.poll()
    house.keys.own.chmod(0o600)
    house.door.poll()
    house.knock(server=new.public)
    assert house.heard(WAIT_S) == b"0"


def test_a_port_is_not_shared_with_another_broker(house: House) -> None:
    """Although its own listeners share it."""
    house.pair("broker", replace=True)
    house.door.poll()
    with zmq.Context() as context, pytest.raises(SetupError, match=r"cannot listen on tcp://127\.0\.0\.1"):
        door = Door(context, house.keys)
        with context.socket(zmq.ROUTER) as router:
            try:
                door.listen(router, house.endpoint)
            finally:
                door.close()


# ---- Descriptors ----


def test_descriptors_that_are_no_connections_are_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for descriptor in (-1, 1_000_000, file.fileno()):
            cut(descriptor)
            assert peer_address(descriptor) == "unknown"
        file.write(b"still open")


def test_a_connection_is_cut_at_both_ends() -> None:
    here, there = socket.socketpair()
    with here, there:
        cut(here.fileno())
        assert there.recv(1) == here.recv(1) == b""
