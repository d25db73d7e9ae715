"""The broker's shell with real sockets: bytes that it forwards unchanged, and peers that disconnect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from structlog.testing import capture_logs

from asr_broker.events import Gone
from asr_broker.loop import Broker, BrokerConfig, RouterSocket
from asr_process.stopping import Order
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
WAIT_MS = 10_000


class Pool:
    """A broker in a thread, and sockets that play its peers."""

    def __init__(self, run_dir: Path, stack: ExitStack) -> None:
        self._at = {side: f"ipc://{run_dir}/{side}.ipc" for side in ("frontends", "workers", "control")}
        self.broker = Broker(BrokerConfig(**self._at))
        stack.callback(self.broker.close)
        self.thread = threading.Thread(target=self.broker.run)
        stack.callback(self.thread.join, 10)
        stack.callback(self.broker.stop)
        self._context: zmq.Context[Any] = stack.enter_context(zmq.Context())
        self._stack = stack
        self.thread.start()

    def peer(self, side: str, identity: bytes) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._stack.enter_context(self._context.socket(zmq.DEALER))
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._at[side])
        return socket

    def frontend(self, identity: bytes = b"F1") -> zmq.Socket[bytes]:
        frontend = self.peer("frontends", identity)
        frontend.send(wire.encode(m.RegisterFrontend(m.PROTOCOL_VERSION, "f")))
        received(frontend, m.Welcome)
        return frontend

    def worker(self, identity: bytes = b"W1") -> zmq.Socket[bytes]:
        worker = self.peer("workers", identity)
        worker.send(wire.encode(m.RegisterWorker(m.PROTOCOL_VERSION, "w", SPEC)))
        received(worker, m.Welcome)
        return worker


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with ExitStack() as stack:
        yield Pool(tmp_path, stack)


def parts(peer: zmq.Socket[bytes]) -> list[bytes]:
    assert peer.poll(WAIT_MS), "nothing came"
    return peer.recv_multipart()


def received(peer: zmq.Socket[bytes], kind: type[Any]) -> Any:
    """The next message of this kind."""
    while not isinstance(message := wire.decode(parts(peer)[0]), kind):
        pass
    return message


def pin(frontend: zmq.Socket[bytes], session: str = "s") -> m.Pinned:
    frontend.send_multipart([wire.encode(m.Open(session, 0, "", "")), b"setup"])
    pinned = received(frontend, m.Pinned)
    assert isinstance(pinned, m.Pinned)
    return pinned


def test_an_orphaned_broker_serves_its_frontends_to_their_end(pool: Pool) -> None:
    frontend = pool.frontend()
    pool.broker.obey(Order(600.0, 0.0))
    pool.worker()
    pin(frontend)
    frontend.close()
    pool.thread.join(WAIT_MS / 1000)
    assert not pool.thread.is_alive()


def test_a_broker_that_is_stopped_ends_at_once(pool: Pool) -> None:
    pool.frontend()
    pool.broker.obey(Order(0.0, 5.0))
    pool.thread.join(WAIT_MS / 1000)
    assert not pool.thread.is_alive()


def test_a_bundle_passes_byte_for_byte(pool: Pool) -> None:
    """This holds for an encoding that `wire` would not choose, too: the broker forwards the bytes that it received."""
    worker, frontend = pool.worker(), pool.frontend()
    lease = pin(frontend).lease
    received(worker, m.Grant)
    inward = b"\x93\x05" + msgpack.packb(b"W1") + b"\xdc\x00\x01" + msgpack.packb(lease)
    assert wire.decode(inward) == m.Bundle(b"W1", (lease,))
    assert inward != wire.encode(m.Bundle(b"W1", (lease,)))
    body = bytes(100_000)
    frontend.send_multipart([inward, body])
    assert parts(worker) == [inward, body]
    outward = wire.encode(m.Bundle(b"F1", (lease,)))
    worker.send_multipart([outward, b"frames"])
    assert parts(frontend) == [outward, b"frames"]


def test_a_bundle_with_one_stale_lease_is_answered_and_passes(pool: Pool) -> None:
    worker, frontend = pool.worker(), pool.frontend()
    lease = pin(frontend).lease
    received(worker, m.Grant)
    routing = wire.encode(m.Bundle(b"W1", (lease, lease + 1)))
    frontend.send_multipart([routing, b"frames"])
    assert received(frontend, m.Stale) == m.Stale(lease + 1)
    assert parts(worker) == [wire.encode(m.Bundle(b"W1", (lease,))), b"frames"]


def test_the_end_of_a_connection_is_seen_without_another_message(pool: Pool) -> None:
    worker, frontend = pool.worker(), pool.frontend()
    lease = pin(frontend).lease
    worker.close()
    assert received(frontend, m.Lost) == m.Lost(lease, "worker-lost")


def test_a_newcomer_is_not_taken_for_the_one_that_went(tmp_path: Path) -> None:
    """The system gives the next connection the same descriptor. The broker handles earlier disconnects first."""
    endpoint = f"ipc://{tmp_path}/side.ipc"
    with zmq.Context() as context, closing(RouterSocket(context, endpoint, "worker")) as side:

        def connected(identity: bytes) -> tuple[zmq.Socket[bytes], list[Gone]]:
            socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, identity)
            socket.connect(endpoint)
            socket.send(b"register")
            assert side.socket.poll(WAIT_MS)
            received = side.receive()
            assert received is not None and received[0] == identity
            return socket, side.connected(identity, received[1][0])

        first, gone = connected(b"first")
        assert gone == []
        first.close()
        assert side.monitor.poll(WAIT_MS)
        second, gone = connected(b"second")
        assert gone == [Gone(b"first", "worker")]
        assert side.disconnected() == []
        second.close()
        assert side.monitor.poll(WAIT_MS)
        assert side.disconnected() == [Gone(b"second", "worker")]


def test_workers_come_and_go_and_the_last_one_stays(pool: Pool) -> None:
    for number in range(30):
        pool.worker(b"W%d" % number).close()
    worker, frontend = pool.worker(b"W-stays"), pool.frontend()
    while received(frontend, m.Pool).workers != 1:
        frontend.send(wire.encode(m.FrontendHeartbeat(())))
    assert pin(frontend).worker == b"W-stays"
    received(worker, m.Grant)


@pytest.mark.parametrize("junk", [[b""], [b"\xc1"], [b"", b""], [b"x"] * 50])
def test_unreadable_messages_end_no_connection(pool: Pool, junk: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        wire.decode(junk[0])
    worker, frontend = pool.worker(), pool.frontend()
    for peer in (worker, frontend):
        peer.send_multipart(junk)
    assert pin(frontend).worker == b"W1"


# ---- Versions ----


def registration(side: str, version: int = m.PROTOCOL_VERSION) -> list[bytes]:
    name = side[0]
    message = m.RegisterFrontend(version, name) if side == "frontends" else m.RegisterWorker(version, name, SPEC)
    return [wire.encode(message)]


OTHER = msgpack.packb([28, 9, 8, "x"])
"""A Hello of versions that the broker does not understand."""


@pytest.mark.parametrize("side", ["frontends", "workers"])
@pytest.mark.parametrize("how", ["hello", "hello beside an unknown message", "registration", "broken registration"])
def test_a_peer_of_another_version_is_rejected(pool: Pool, side: str, how: str) -> None:
    """It is not registered: its heartbeat is answered with Unregistered."""
    peer = pool.peer(side, b"P1")
    (good,), (old,) = registration(side), registration(side, version=9)
    broken = msgpack.packb([msgpack.unpackb(old)[0], 9, {"not": "ours"}])
    parts_ = {
        "hello": [good, OTHER],
        "hello beside an unknown message": [msgpack.packb([99, "new"]), OTHER],
        "registration": [old],
        "broken registration": [broken],
    }[how]
    peer.send_multipart(parts_)
    theirs = "8 to 9" if "hello" in how else "9"
    assert (
        received(peer, m.Rejected).detail == f"its protocol version is {theirs}, the broker's is {m.PROTOCOL_VERSION}"
    )
    peer.send(wire.encode(m.FrontendHeartbeat(()) if side == "frontends" else m.Drain()))
    assert wire.decode(parts(peer)[0]) == m.Unregistered()


@pytest.mark.parametrize("side", ["frontends", "workers"])
def test_a_newer_peer_with_a_common_version_is_welcome(pool: Pool, side: str) -> None:
    peer = pool.peer(side, b"P1")
    hello = msgpack.packb([28, 9, m.PROTOCOL_VERSION, "x"])
    peer.send_multipart([*registration(side, version=9), hello])
    assert received(peer, m.Welcome)


def test_a_status_request_is_answered_by_its_version(pool: Pool) -> None:
    request = wire.encode(m.StatusRequest(m.PROTOCOL_VERSION))
    control = pool.peer("control", b"C1")
    for before in ([], [b""], [wire.encode_hello("c")]):
        control.send_multipart([*before, request])
        *envelope, answer = parts(control)
        assert envelope == before and isinstance(wire.decode(answer), m.Status)
    refused = [[OTHER, request], [msgpack.packb([20, 9])], [msgpack.packb([20, 9, {"more": 1}])]]
    refused.append([msgpack.packb([20, m.PROTOCOL_VERSION - 1])])
    for sent in refused:
        control.send_multipart(sent)
        answer = wire.decode(parts(control)[-1])
        assert isinstance(answer, m.Rejected) and answer.slug == "version-mismatch"
    control.send_multipart([wire.encode_hello("c"), b"\xc1"])
    answer = wire.decode(parts(control)[-1])
    assert isinstance(answer, m.Rejected) and answer.slug == "bad-message"


def test_log_lines_about_one_cause_are_throttled(pool: Pool) -> None:
    with capture_logs() as lines:
        peers = [pool.peer("workers", name) for name in (b"P1", b"P2")]
        for _ in range(50):
            for peer in peers:
                peer.send(b"\xc1")
                peer.send_multipart([*registration("workers"), OTHER])
        for peer in peers:
            for _ in range(50):
                received(peer, m.Rejected)
    found = sorted((line["event"], line["peer"]) for line in lines if line["log_level"] == "warning")
    causes = ("rejected a peer", "undecodable message")
    assert found == [(cause, peer.hex()) for cause in causes for peer in (b"P1", b"P2")]
