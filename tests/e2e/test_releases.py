"""Processes of different releases in one pool: an upgrade process by process, and peers that have no version in common.

Another release is today's code with other messages (`other_release/sitecustomize.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

import asr_client
from asr_client import Final
from asr_ops.status import NO_ANSWER
from asr_process import settings
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import NotYet
from tests.e2e.clients import cut, expected, noise
from tests.e2e.service import ROOT, SOURCES, WAIT_S, Pool, Program, Service
from tests.e2e.test_resume import Talk

OTHER_RELEASE = Path(__file__).parent / "other_release"
TODAY = "today"


def of_release(release: str) -> dict[str, str]:
    """The environment that makes a process one of this release."""
    if release == TODAY:
        return {}
    return {"PYTHONPATH": os.pathsep.join((str(OTHER_RELEASE), *SOURCES, str(ROOT))), "WIRE_OF": release}


class MixedPool(Pool):
    """Processes start with the release `release`. Each can be replaced while clients have sessions."""

    WORKER = ("--engine=fake", "--drain-s=0.5")
    FRONTEND = ("--drain-s=0.5",)

    def __init__(self, release: str) -> None:
        super().__init__(workers=[self.WORKER], frontend=self.FRONTEND)
        self.release = release

    def start(self, role: str, *args: object, env: Mapping[str, str] | None = None, **options: Any) -> Program:
        return super().start(role, *args, env={**of_release(self.release), **(env or {})}, **options)

    def replace(self, role: str) -> None:
        """End the process of this role in order, before or after another one has replaced it."""
        {"worker": self._worker, "broker": self._broker, "frontend": self._frontend}[role]()

    def _worker(self) -> None:
        """Its session moves when the time to drain is over."""
        (old,) = self.workers
        self.add_worker(*self.WORKER).wait_for("registered")
        self._end(old)
        self.workers.remove(old)

    def _broker(self) -> None:
        """Every session moves to the new one."""
        self._end(self.broker)
        self.broker = self.start("broker")
        self.broker.wait_for("registered .*worker")

    def _frontend(self) -> None:
        """The client's connection moves to the new one."""
        old = self.frontend
        self.frontend, self.port = self.add_frontend(*self.FRONTEND)
        self.wait_ready()
        self._end(old)

    def _end(self, program: Program) -> None:
        program.process.terminate()
        assert program.wait() == 0, program.story()

    def _alive(self) -> bool:
        return True


ORDERS = (("worker", "frontend", "broker"), ("broker", "frontend", "worker"))
"""An old broker has new peers at the end of the first, and a new one has old peers at the beginning of the second."""


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(("before", "after"), [("older", TODAY), (TODAY, "newer")])
def test_a_session_lives_through_a_rolling_upgrade(before: str, after: str, order: tuple[str, ...]) -> None:
    """The session receives each word once, in any order of the replacements."""
    pcm = noise(8.4, seed=71)
    pieces = cut(pcm, 67_200)
    with MixedPool(before) as pool:
        with asr_client.connect_sync(pool.url) as session:
            talk = Talk(session)
            pool.release = after
            for piece, role in zip(pieces, order, strict=False):
                talk.send(piece)
                talk.until(Final)
                pool.replace(role)
            talk.send(pieces[-1])
            talk.stop()
        talk.check(expected(pcm), [])  # the old frontend hands the connection over to the new one
        pool.wait_sessions(0)
        assert not [line for program in pool.programs for line in program.lines if "undecodable" in line]


# ---- No version in common ----


def detail(theirs: str, ours: str) -> str:
    return f"its protocol version is {theirs}, the broker's is {ours}"


MISMATCHES = [
    pytest.param("foreign", TODAY, detail("8 to 9", "2"), id="newer peers"),
    pytest.param(TODAY, "foreign", detail("2", "8 to 9"), id="newer broker"),
]


@pytest.mark.parametrize(("peers", "broker", "reason"), MISMATCHES)
def test_peers_without_a_common_version_say_so(peers: str, broker: str, reason: str) -> None:
    """A worker ends and may be started again, a frontend is not ready, `asr status` fails: each logs one sentence."""
    with Service() as service:
        service.start("broker", env=of_release(broker)).wait_for("broker ready")
        worker = service.start("worker", "--engine=fake", env=of_release(peers))
        assert worker.wait() == NotYet.exit_code, worker.story()
        worker.wait_for(f"^asr-worker: the broker refuses this worker: {reason}$")
        status = service.start("asr", "status", env=of_release(peers))
        assert status.wait() == NO_ANSWER, status.story()
        status.wait_for(f"^asr status: the broker at .* rejected the request: {reason}$")
        frontend = service.start("frontend", "--listen=127.0.0.1:0", env=of_release(peers))
        frontend.wait_for(f"the broker refuses this frontend .*{reason}")
        service.port = int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        assert not service.is_ready()


@contextmanager
def stand_in(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A broker's socket, on which the test answers."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.rcvtimeo = int(WAIT_S * 1000)
        router.bind(endpoint)
        yield router


GARBAGE = b"\xc1"
UNDECODABLE = "undecodable message from the broker"


def test_a_frontend_logs_a_cause_once() -> None:
    """It registers again and again, since the next broker may have its version, but it logs the cause once."""
    with Service() as service, stand_in(settings.frontends_endpoint(service.run_dir)) as broker:
        frontend = service.start("frontend", "--listen=127.0.0.1:0")
        for _ in range(3):
            peer, registration, hello = broker.recv_multipart()
            assert isinstance(wire.decode(registration), m.RegisterFrontend)
            assert wire.decode_hello([hello]) is not None
            broker.send_multipart([peer, GARBAGE])
            broker.send_multipart([peer, wire.encode(m.Rejected("version-mismatch", "another version"))])
        broker.send_multipart([peer, wire.encode(m.Welcome(1, 1.0))])
        frontend.wait_for("registered")
        for cause in (UNDECODABLE, "the broker refuses this frontend"):
            assert sum(cause in line for line in frontend.lines) == 1, frontend.story()


def test_a_worker_logs_a_cause_once() -> None:
    with Service() as service, stand_in(settings.workers_endpoint(service.run_dir)) as broker:
        worker = service.start("worker", "--engine=fake")
        for _ in range(3):
            peer, *_ = broker.recv_multipart()
            broker.send_multipart([peer, GARBAGE])
        worker.wait_for("no broker answers the registration")
        broker.send_multipart([peer, wire.encode(m.Welcome(1, 1.0))])
        worker.wait_for("registered")
        assert sum(UNDECODABLE in line for line in worker.lines) == 1, worker.story()
