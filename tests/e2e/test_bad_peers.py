"""A compromised frontend and a compromised worker, with valid keys, beside a session that they must not touch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import zmq

from asr_process import allow_list, certificates
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from tests.e2e.clients import Native, cut, expected, noise
from tests.e2e.keyring import Keyring
from tests.e2e.service import Pool, eventually, free_port

WAIT_S = 30.0
SPEC = m.Spec("fake", "fake", ("en",), 64, 960, 1.0, "none")
"""So many slots that the broker sends the next session there."""
GHOST = m.Commit(16_000, 1, b"")


class BadPeer:
    """A process with a key of its own that sends any message."""

    def __init__(self, keys: Keyring, side: str, name: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.identity = side[0].upper().encode() + secrets.token_bytes(8)
        self.socket.identity = self.identity
        pair = certificates.load_pair(keys.folder / f"{name}.key_secret")
        self.socket.curve_publickey, self.socket.curve_secretkey = pair.public, pair.secret
        self.socket.curve_serverkey = certificates.load_public(keys.server_keys)
        self.socket.connect(keys.endpoint(side))

    def send(self, message: m.Message, frames: list[m.Frame] | None = None, body: bytes | None = None) -> None:
        parts = [wire.encode(message)]
        if frames is not None:
            body = wire.encode_frames(frames)
        self.socket.send_multipart(parts if body is None else [*parts, body])

    def until(self, kind: type[Any], timeout_s: float = WAIT_S) -> Any:
        """The next message of this kind; None if there is none in time."""
        deadline = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            with suppress(DecodeError):
                if isinstance(message := wire.decode(self.socket.recv_multipart()[0]), kind):
                    return message
        return None

    def close(self) -> None:
        self.socket.close()
        self._context.term()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    ring = Keyring(tmp_path_factory.mktemp("keys"))
    ring.make("broker")
    for name in ("worker", "frontend"):
        for owner in (name, f"bad-{name}"):
            allow_list.allow(ring.make(owner), ring.allowed, name)
    return ring


@pytest.fixture(scope="module")
def metrics() -> int:
    """The port of the worker's metrics."""
    return free_port()


@pytest.fixture(scope="module")
def pool(keys: Keyring, metrics: int) -> Iterator[Pool]:
    """Every key has one role."""
    worker = keys.worker("worker", f"--metrics=127.0.0.1:{metrics}")
    with Pool(broker=keys.broker(), workers=[worker], frontend=keys.frontend("frontend")) as pool:
        yield pool


@pytest.fixture
def bad_frontend(pool: Pool, keys: Keyring) -> Iterator[BadPeer]:
    peer = BadPeer(keys, "frontends", "bad-frontend")
    peer.send(m.RegisterFrontend(m.PROTOCOL_VERSION, "bad"))
    assert peer.until(m.Welcome)
    yield peer
    peer.close()


@pytest.fixture
def bad_worker(pool: Pool, keys: Keyring) -> Iterator[BadPeer]:
    peer = BadPeer(keys, "workers", "bad-worker")
    peer.send(m.RegisterWorker(m.PROTOCOL_VERSION, "bad", SPEC))
    assert peer.until(m.Welcome)
    yield peer
    peer.close()
    eventually(lambda: (status := pool.status()) and len(status.workers) == 1, pool.story)


def near(lease: int) -> list[int]:
    """The leases around one: a peer can guess those of others, because they are numbered."""
    return [lease + step for step in range(-5, 6) if step]


def test_a_bad_frontend_does_not_touch_sessions_of_others(pool: Pool, bad_frontend: BadPeer, metrics: int) -> None:
    pcm = noise(6.0, seed=61)
    with Native(pool.url) as client:
        client.send(*cut(pcm[:96_000], 3200))
        client.until("final")
        bad_frontend.send(m.Open("own", 0, "", ""), body=wire.encode_setup(m.Setup("en", True, 960, None)))
        own = bad_frontend.until(m.Pinned)
        for lease in near(own.lease):
            frames: list[m.Frame] = [m.Audio(lease, 0, bytes(64)), m.Flush(lease, "x"), m.Stop(lease)]
            for header in ((own.lease,), (own.lease, lease), (lease,)):
                bad_frontend.send(m.Bundle(own.worker, header), frames)
            for message in (m.Close(lease), m.Detach(lease), m.FrontendHeartbeat((lease,))):
                bad_frontend.send(message)
        bad_frontend.send(m.Close(own.lease))
        client.send(*cut(pcm[96_000:], 3200))
        client.stop()
    assert client.text == expected(pcm) and not client.of("migrating")
    foreign = 'asr_worker_foreign_frames_total{worker="worker-1"}'
    eventually(lambda: pool.metric(foreign, metrics) >= 3, pool.story)
    pool.workers[0].wait_for("error.*dropped frames of a frontend")
    pool.wait_sessions(0)


def test_a_bad_worker_does_not_reach_clients_of_others(pool: Pool, bad_worker: BadPeer) -> None:
    """It has a session of the same frontend, and sends text, ends and errors under the leases of others."""
    pcm = noise(6.0, seed=62)
    bad_worker.send(m.Drain())  # the first session goes to the other worker
    with Native(pool.url) as client:
        client.send(*cut(pcm[:96_000], 3200))
        client.until("final")
        bad_worker.send(m.RegisterWorker(m.PROTOCOL_VERSION, "bad", SPEC))
        assert bad_worker.until(m.Welcome)
        with Native(pool.url):
            own = bad_worker.until(m.Grant)
            for lease in near(own.lease):
                forged: list[m.Frame] = [
                    m.Partial(lease, 0, "ghost", 0, 100),
                    m.Final(lease, 99, "ghost", 0, 100, "silence", None, None, GHOST),
                    m.Failed(lease, "x", "y"),
                    m.Ended(lease),
                ]
                for header in ((own.lease,), (own.lease, lease), (lease,)):
                    bad_worker.send(m.Bundle(own.frontend, header), forged)
                bad_worker.send(m.Closed(lease))
            eventually(lambda: pool.metric("asr_frontend_foreign_frames_total") >= 8, pool.story)
            client.send(*cut(pcm[96_000:], 3200))
            client.stop()
    assert client.text == expected(pcm) and not client.of("migrating")
    pool.frontend.wait_for("error.*dropped frames of a worker")


def test_a_session_with_unreadable_options_takes_no_slot(pool: Pool, bad_frontend: BadPeer) -> None:
    for number in range(3):
        bad_frontend.send(m.Open(f"junk-{number}", 0, "", ""), body=b"\xc1")
    assert bad_frontend.until(m.Pinned)
    pool.wait_sessions(0)


@pytest.mark.parametrize(
    ("side", "name", "message"),
    [
        ("frontends", "bad-worker", m.RegisterFrontend(m.PROTOCOL_VERSION, "bad")),
        ("workers", "bad-frontend", m.RegisterWorker(m.PROTOCOL_VERSION, "bad", SPEC)),
    ],
)
def test_a_key_has_one_role(pool: Pool, keys: Keyring, side: str, name: str, message: m.Message) -> None:
    since = len(pool.broker.lines)
    peer = BadPeer(keys, side, name)
    peer.send(message)
    pool.broker.wait_for(f"error.*refused a key that has another role.*role={side[:-1]}", since)
    assert peer.until(m.Welcome, timeout_s=1.0) is None
    peer.close()


def test_a_key_without_a_role_has_every_role(pool: Pool, keys: Keyring) -> None:
    """As every key had before there were roles."""
    keys.make("old", allow=True)
    eventually(lambda: "without_role=1" in pool.story(), "the list is read again")
    for side, message in (
        ("frontends", m.RegisterFrontend(m.PROTOCOL_VERSION, "old")),
        ("workers", m.RegisterWorker(m.PROTOCOL_VERSION, "old", SPEC)),
    ):
        peer = BadPeer(keys, side, "old")
        peer.send(message)
        assert peer.until(m.Welcome), side
        peer.close()


def test_a_worker_does_not_end_a_frontend_whose_identity_it_takes(
    pool: Pool, keys: Keyring, bad_worker: BadPeer
) -> None:
    pcm = noise(4.0, seed=63)
    with Native(pool.url) as client:
        client.ready()
        frontend = bad_worker.until(m.Grant).frontend
        bad_worker.close()  # the session moves to the other worker
        client.until("migrating")
        thief = BadPeer(keys, "workers", "bad-worker")
        thief.socket.disconnect(keys.endpoint("workers"))
        thief.socket.identity = frontend
        thief.socket.connect(keys.endpoint("workers"))
        thief.send(m.RegisterWorker(m.PROTOCOL_VERSION, "thief", SPEC))
        assert thief.until(m.Welcome)
        thief.close()
        client.send(*cut(pcm, 3200))
        client.stop()
    assert client.text == expected(pcm) and len(client.of("migrating")) == 1
