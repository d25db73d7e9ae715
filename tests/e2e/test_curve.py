"""Links with CURVE keys, over real sockets: exact words, refusals that both sides log, and keys that change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.clients import Native, converse, cut, expected, noise
from tests.e2e.keyring import Keyring
from tests.e2e.service import Pool, Program, Service, eventually

LOUD_S = 30.0
"""Longest time until both sides report a wrong key: about two seconds, more on a busy machine."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def _pool(keys: Keyring) -> Iterator[Pool]:
    with keys.pool() as pool:
        yield pool


@pytest.fixture
def pool(_pool: Pool) -> Iterator[Pool]:
    """A broker, a worker and a frontend with keys. Processes that a test adds are ended after it."""
    ours = list(_pool.programs)
    yield _pool
    for program in [program for program in _pool.programs if program not in ours]:
        _pool.programs.remove(program)
        program.close()
    workers(_pool, 1)
    _pool.wait_sessions(0)


def workers(pool: Pool, count: int) -> None:
    eventually(lambda: (status := pool.status()) and len(status.workers) == count, pool.story)


def newcomer(pool: Service, *args: str, role: str = "worker", name: str = "newcomer") -> Program:
    """Start one more process and wait until it connects."""
    program = pool.start(role, f"--name={name}", *args, name=name)
    program.wait_for("worker ready" if role == "worker" else "listening")
    return program


def loud(broker: Program, since: int, newcomer: Program, at_broker: str, at_newcomer: str) -> None:
    """Check that both sides log the refusal as an error in time; `since` is the number of the broker's old lines."""
    start = time.monotonic()
    newcomer.wait_for(rf"error\s.*{at_newcomer}", timeout_s=LOUD_S)
    broker.wait_for(rf"error\s.*{at_broker}", since, timeout_s=LOUD_S)
    assert time.monotonic() - start < LOUD_S
    assert not [line for line in newcomer.lines if "registered" in line]


def test_words_are_exact(pool: Pool) -> None:
    pcm = noise(6.3, seed=41)
    assert converse(pool.url, cut(pcm, 640)).text == expected(pcm)
    accepted = [line for line in pool.broker.lines if "accepted a peer" in line]
    assert any("name=worker" in line for line in accepted)
    assert any("name=frontend" in line for line in accepted)


# ---- Wrong keys ----


def test_a_key_that_is_allowed_later_and_revoked(pool: Pool, keys: Keyring) -> None:
    """First refused with log lines, then accepted without a restart, then disconnected when its key is removed."""
    public = keys.make("later").read_text().split('"')[1]
    since = len(pool.broker.lines)
    worker = newcomer(pool, *keys.worker("later"))
    loud(pool.broker, since, worker, "refused an unknown key .*address=127.0.0.1", "the broker refuses our key")
    assert any(public in line for line in pool.broker.lines[since:])
    assert any(public in line for line in worker.lines)
    keys.allow("later")
    worker.wait_for("registered", timeout_s=LOUD_S)
    workers(pool, 2)
    since, told = len(pool.broker.lines), len(worker.lines)
    keys.revoke("later")
    pool.broker.wait_for("disconnected a peer", since, LOUD_S)
    workers(pool, 1)
    worker.wait_for("the broker refuses our key", told, LOUD_S)
    lines = len(pool.broker.lines)
    time.sleep(3)
    assert len(pool.broker.lines) - lines <= 1, "a refused peer dials every second and must not fill the log"


def test_a_peer_without_a_key(pool: Pool, keys: Keyring) -> None:
    since = len(pool.broker.lines)
    worker = newcomer(pool, "--engine=fake", f"--broker={keys.endpoint('workers')}")
    at_broker = "(refused a peer without a key|a peer broke off) .*address="  # whichever end saw it first
    loud(pool.broker, since, worker, at_broker, "(wants a key and we have none|may want a key)")


def test_a_wrong_server_key(pool: Pool, keys: Keyring) -> None:
    """The file is corrected while the worker runs, and the worker then connects."""
    keys.make("impostor")
    server = Path(shutil.copy(keys.folder / "impostor.key", keys.folder / "believed.pub"))
    since = len(pool.broker.lines)
    worker = newcomer(pool, *keys.worker("worker", server=server))
    loud(pool.broker, since, worker, "refused a peer that expects another server key", "its key is not the server key")
    shutil.copy(keys.server_keys, server)
    worker.wait_for("registered", timeout_s=LOUD_S)


def test_a_frontend_with_a_wrong_key_is_not_ready(pool: Pool, keys: Keyring) -> None:
    keys.make("stranger")
    since = len(pool.broker.lines)
    frontend = newcomer(pool, "--listen=127.0.0.1:0", *keys.frontend("stranger"), role="frontend")
    port = int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])
    loud(pool.broker, since, frontend, "refused an unknown key", "the broker refuses our key")
    assert pool.get("/ready", port)[0] == 503
    keys.allow("stranger")
    pool.wait_ready(port)


def test_keys_meet_a_broker_without_any(fake: Pool, tmp_path: Path) -> None:
    """A broker without keys on a loopback port: a worker with keys logs the reason and does not connect."""
    ring = Keyring(tmp_path)
    for name in ("broker", "worker"):
        ring.make(name)
    with Service() as service:
        service.start("broker", *ring.broker()[:2]).wait_for("broker ready")
        worker = newcomer(service, *ring.worker("worker"))
        worker.wait_for(r"error\s.*(the broker's link has no encryption, ours has|or it has none)", timeout_s=LOUD_S)


# ---- Fail closed ----


@pytest.mark.parametrize(
    ("role", "args"),
    [
        ("broker", ["--workers=tcp://0.0.0.0:7101"]),
        ("broker", ["--frontends=tcp://*:7101"]),
        ("worker", ["--engine=fake", "--broker=tcp://10.255.0.1:7101"]),
        ("frontend", ["--listen=127.0.0.1:0", "--broker=tcp://10.255.0.1:7101"]),
    ],
)
def test_nothing_leaves_the_machine_in_the_clear(role: str, args: list[str]) -> None:
    with Service() as service:
        program = service.start(role, *args)
        assert program.wait() == 2
        program.wait_for("leaves this machine: give --curve-key and --curve-")
        assert len(program.lines) == 1, program.lines


def test_an_empty_allow_list_admits_no_peer(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    for name in ("broker", "worker"):
        ring.make(name)
    with Service() as service:
        broker = service.start("broker", *ring.broker())
        broker.wait_for("the allow-list is empty: every peer is refused")
        worker = newcomer(service, *ring.worker("worker"))
        loud(broker, 0, worker, "refused an unknown key", "the broker refuses our key")
        ring.allow("worker")
        worker.wait_for("registered", timeout_s=LOUD_S)


# ---- Rotation ----


def test_keys_change_under_a_session(pool: Pool, keys: Keyring) -> None:
    """The keys of broker and worker are replaced; the session keeps its connections and does not move."""
    pcm = noise(9.7, seed=42)
    pieces = cut(pcm, 62_080)
    since = len(pool.broker.lines)
    old = Path(shutil.copy(keys.server_keys, keys.folder / "old-broker.pub"))
    with Native(pool.url) as client:
        client.send(pieces[0])
        client.until("final")
        keys.make("broker", replace=True)
        pool.broker.wait_for("new connections need the new server key", since, LOUD_S)
        client.send(pieces[1])
        keys.make("worker-new", allow=True)
        pool.broker.wait_for("allow-list read", since, LOUD_S)
        late = newcomer(pool, *keys.worker("worker-new", server=old), name="late")
        late.wait_for("its key is not the server key", timeout_s=LOUD_S)
        new = newcomer(pool, *keys.worker("worker-new"), name="new")
        new.wait_for("registered", timeout_s=LOUD_S)
        client.send(*pieces[2:])
        client.stop()
    assert client.text == expected(pcm)
    assert not client.of("migrating")
    broker_said = "\n".join(pool.broker.lines[since:])
    assert "lease lost" not in broker_said
    assert "disconnected a peer" not in broker_said


def test_a_worker_s_own_key_is_replaced_in_its_place(pool: Pool, keys: Keyring) -> None:
    """The new key replaces the old one in the list: the worker is disconnected and connects again."""
    keys.make("replaced", allow=True)
    worker = newcomer(pool, *keys.worker("replaced"))
    worker.wait_for("registered")
    keys.make("replaced", replace=True)
    since, told = len(worker.lines), len(pool.broker.lines)
    keys.allow("replaced")
    pool.broker.wait_for("disconnected a peer", told, LOUD_S)
    worker.wait_for("registered", since, 2 * LOUD_S)
    workers(pool, 2)


def moved(client: Native) -> bool:
    """Whether the session has received `migrating` within a moment."""
    with suppress(TimeoutError):
        client.receive(0.1)
    return bool(client.of("migrating"))


def test_a_session_moves_off_a_worker_whose_key_is_revoked(pool: Pool, keys: Keyring) -> None:
    keys.make("second", allow=True)
    second = newcomer(pool, *keys.worker("second", "--slots=1"), name="second")
    second.wait_for("registered", timeout_s=LOUD_S)
    status = eventually(pool.status, pool.story)
    pcm = noise(6.6, seed=43)
    clients = [Native(pool.url) for _ in range(2)]
    for client in clients:
        client.ready()
        client.send(pcm[:64_000])
        client.until("final")
    eventually(lambda: (now := pool.status()) and all(w.sessions for w in now.workers), lambda: f"{status}")
    keys.revoke("second")
    eventually(lambda: any(moved(client) for client in clients), "a move", LOUD_S)
    for client in clients:
        client.send(pcm[64_000:])
        client.stop()
        client.__exit__()
        assert client.text == expected(pcm)
