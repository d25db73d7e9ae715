"""Which links need keys, and the connecting end: what it logs, how often, and that it keeps trying."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import zmq
from structlog.testing import capture_logs

from asr_process import curve
from asr_process.certificates import load_pair, make_pair
from asr_process.curve import BrokerKeys, Dialer, PeerKeys
from asr_process.logs import REPEAT_S
from asr_proto.errors import SetupError

FAR = "tcp://10.0.0.5:5555"
NEAR = "tcp://127.0.0.1:5555"
PATH = "ipc:///run/x.ipc"


@pytest.fixture
def keys(tmp_path: Path) -> PeerKeys:
    make_pair(tmp_path, "broker")
    return PeerKeys(make_pair(tmp_path, "worker")[1], tmp_path / "broker.key")


# ---- Fail closed ----


def test_a_link_that_leaves_the_machine_needs_keys(keys: PeerKeys) -> None:
    with pytest.raises(SetupError, match="leaves this machine: give --curve-key and --curve-server-key"):
        curve.peer_keys(FAR, None, None, insecure=False)
    with capture_logs() as logs:
        assert curve.peer_keys(FAR, None, None, insecure=True) is None
    assert [line["log_level"] for line in logs] == ["warning"]
    assert curve.peer_keys(FAR, keys.own, keys.server, insecure=False) == keys
    assert curve.peer_keys(FAR, keys.own, keys.server, insecure=True) == keys


def test_links_inside_a_machine(keys: PeerKeys) -> None:
    """A loopback port has keys when they are given; a path needs none."""
    assert curve.peer_keys(NEAR, None, None, insecure=False) is None
    assert curve.peer_keys(NEAR, keys.own, keys.server, insecure=False) == keys
    assert curve.peer_keys(PATH, keys.own, keys.server, insecure=False) is None


def test_keys_come_in_twos(keys: PeerKeys, tmp_path: Path) -> None:
    for own, other in ((keys.own, None), (None, tmp_path)):
        with pytest.raises(SetupError, match="go together"):
            curve.peer_keys(FAR, own, other, insecure=True)
        with pytest.raises(SetupError, match="go together"):
            curve.broker_keys(own, other)


def test_bad_files_are_refused_at_the_start(keys: PeerKeys, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read the key"):
        curve.peer_keys(FAR, keys.own, tmp_path / "nobody.key", insecure=False)
    keys.own.chmod(0o644)
    with pytest.raises(SetupError, match="can be read by others"):
        curve.peer_keys(FAR, keys.own, keys.server, insecure=False)
    with pytest.raises(SetupError, match="can be read by others"):
        curve.broker_keys(keys.own, tmp_path)


def test_a_missing_allow_list_is_an_empty_one(keys: PeerKeys, tmp_path: Path) -> None:
    assert curve.broker_keys(None, None) is None
    assert curve.broker_keys(keys.own, tmp_path / "none") == BrokerKeys(keys.own, tmp_path / "none")


# ---- Dialing ----


class Broker:
    """A ROUTER with a key; `allow` decides the ZAP answer (ZeroMQ RFC 27)."""

    def __init__(self, context: zmq.Context[Any], folder: Path) -> None:
        self.allow = True
        self.zap = context.socket(zmq.REP)
        self.zap.bind("inproc://zeromq.zap.01")
        self.router = context.socket(zmq.ROUTER)
        self.router.curve_server = 1
        pair = load_pair(folder / "broker.key_secret")
        self.router.curve_publickey, self.router.curve_secretkey = pair.public, pair.secret
        self.router.zap_domain = b"test"
        self.endpoint = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        for socket in (self.zap, self.router):
            socket.linger = 0

    def serve(self, dialer: Dialer, link: zmq.Socket[Any], until: float, now: float = 0.0) -> float:
        """Send a message every 50 ms until one arrives. Returns the virtual seconds that passed, at most `until`."""
        while now < until:
            dialer.poll(now)
            with suppress(zmq.Again):  # there may be no pipe: between connects, or after a rejection
                link.send(b"register", zmq.DONTWAIT)
            while self.zap.poll(20):
                number = self.zap.recv_multipart()[1]
                self.zap.send_multipart([b"1.0", number, b"200" if self.allow else b"400", b"", b"", b""])
            if self.router.poll(30):
                return now
            now += 0.5
        return now


@pytest.fixture
def broker(keys: PeerKeys) -> Iterator[Broker]:
    with zmq.Context() as context:
        broker = Broker(context, keys.server.parent)
        yield broker
        broker.zap.close()
        broker.router.close()


@pytest.fixture
def link() -> Iterator[zmq.Socket[Any]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 0
        yield link


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def logged(logs: list[Any], text: str) -> list[Any]:
    return [line for line in logs if text in line["event"]]


def test_a_refused_key_is_said_once_and_tried_on(broker: Broker, keys: PeerKeys, link: zmq.Socket[Any]) -> None:
    """libzmq stops after the first rejected handshake; the dialer connects again."""
    broker.allow = False
    dialer = Dialer(link, broker.endpoint, keys)
    with capture_logs() as logs:
        now = broker.serve(dialer, link, 10.0)
        (line,) = logged(logs, "the broker refuses our key")
        assert line["log_level"] == "error"
        assert line["our_key"] == load_pair(keys.own).public.decode()
        assert broker.serve(dialer, link, REPEAT_S + 2, now) >= REPEAT_S + 2
        assert len(logged(logs, "the broker refuses our key")) == 2
        broker.allow = True
        assert broker.serve(dialer, link, 50.0, 40.0) < 50.0
        dialer.poll(50.0)
    assert logged(logs, "the broker accepts our key")
    dialer.close()


def test_several_server_keys_are_tried_in_turn(broker: Broker, keys: PeerKeys, link: zmq.Socket[Any]) -> None:
    """While the broker's key is replaced, peers have both keys: nothing is logged as an error."""
    known = keys.server.parent / "known"
    make_pair(known, "a-next")
    shutil.copy(keys.server, known / "b-now.key")
    dialer = Dialer(link, broker.endpoint, PeerKeys(keys.own, known))
    with capture_logs() as logs:
        assert broker.serve(dialer, link, 10.0) < 10.0
    assert not [line for line in logs if line["log_level"] == "error"]
    dialer.close()


def test_keys_are_read_again_at_every_dialing(broker: Broker, keys: PeerKeys, link: zmq.Socket[Any]) -> None:
    """A file that cannot be used meanwhile is logged as an error, and the previous keys are kept."""
    right = keys.server.read_bytes()
    make_pair(keys.server.parent, "wrong")
    shutil.copy(keys.server.parent / "wrong.key", keys.server)
    dialer = Dialer(link, broker.endpoint, keys)
    with capture_logs() as logs:
        now = broker.serve(dialer, link, 4.0)
        keys.server.write_text("half a fi")
        now = broker.serve(dialer, link, 8.0, now)
        keys.server.write_bytes(right)
        assert broker.serve(dialer, link, 20.0, now) < 20.0
    assert logged(logs, "its key is not the server key that we expect")
    assert logged(logs, "cannot use the keys as they are now")
    dialer.close()


def test_nobody_at_the_broker_s_address(keys: PeerKeys, link: zmq.Socket[Any]) -> None:
    dialer = Dialer(link, "tcp://127.0.0.1:1", keys)
    with capture_logs() as logs:
        for now in (0.0, 1.0, 2.0, 4.0, 5.0, 6.0):
            time.sleep(0.3)
            dialer.poll(now)
    (line,) = logs
    assert line["event"] == "no answer at the broker's address"
    dialer.close()


def test_a_link_by_path_is_not_watched(link: zmq.Socket[Any], tmp_path: Path) -> None:
    dialer = Dialer(link, f"ipc://{tmp_path}/x.ipc")
    dialer.poll(0.0)
    dialer.close()
    assert link.getsockopt(zmq.HEARTBEAT_IVL) == 0
