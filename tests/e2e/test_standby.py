"""Two brokers that share a pool: when one is lost, hangs or returns, no word is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from asr_ops.status import NoAnswer, ask
from asr_process import settings
from asr_proto.messages import Status
from tests.e2e.clients import Native, converse, cut, expected, noise
from tests.e2e.service import Program, Serve, Service, asr, eventually

NUMBERS = (1, 2)


class Pair(Service):
    """Two brokers, workers and a frontend, each started here, so that a killed broker is not started again."""

    def __init__(self, workers: int = 2) -> None:
        super().__init__()
        self._workers = workers
        self.brokers: dict[int, Program] = {}

    def _begin(self) -> None:
        for number in NUMBERS:
            self.start_broker(number)
        for number in range(1, self._workers + 1):
            name = f"worker-{number}"
            self.start("worker", f"--name={name}", "--engine=fake", *self._at(settings.workers_endpoint), name=name)
        self.frontend = self.start("frontend", "--listen=127.0.0.1:0", *self._at(settings.frontends_endpoint))
        self.port = int(self.frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        if self._workers:
            self.settle()

    def _at(self, endpoint: object) -> list[str]:
        return [f"--broker={endpoint(self.run_dir, number)}" for number in NUMBERS]  # type: ignore[operator]

    def start_broker(self, number: int) -> None:
        endpoints = {
            "frontends": settings.frontends_endpoint(self.run_dir, number),
            "workers": settings.workers_endpoint(self.run_dir, number),
            "control": settings.control_endpoint(self.run_dir, number),
        }
        args = [f"--{side}={endpoint}" for side, endpoint in endpoints.items()]
        self.brokers[number] = self.start("broker", "--shared-lead", *args, name=f"broker-{number}")

    def ask(self, number: int) -> Status | None:
        try:
            return ask(settings.control_endpoint(self.run_dir, number), timeout_s=1.0)
        except NoAnswer:
            return None

    def leader(self) -> int | None:
        """The broker that leads, if there is one."""
        leading = [number for number in NUMBERS if (status := self.ask(number)) and status.leads]
        return leading[0] if len(leading) == 1 else None

    def settle(self) -> int:
        """Wait until one leads, both have all registrations, and sessions are accepted. Returns the leader."""

        def settled() -> int | None:
            statuses = [self.ask(number) for number in NUMBERS]
            whole = all(one and len(one.workers) == self._workers and one.frontends for one in statuses)
            return self.leader() if whole else None

        leader: int = eventually(settled, self.story)
        self.wait_ready()
        return leader

    def signal(self, number: int, what: signal.Signals) -> None:
        os.kill(self.brokers[number].pid, what)

    def kill(self, number: int) -> None:
        program = self.brokers.pop(number)
        program.process.kill()
        program.wait()
        self.programs.remove(program)
        program.close()


@pytest.fixture(scope="module")
def _pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


@pytest.fixture
def pair(_pair: Pair) -> Pair:
    """After a test, all processes must run; either broker may lead."""
    _pair.settle()
    return _pair


def numbered(client: Native) -> bool:
    finals = client.of("final")
    return [final["utterance"] for final in finals] == list(range(len(finals)))


def test_a_session_moves_once_when_the_leader_is_killed(pair: Pair) -> None:
    pcm = noise(8.4, seed=51)
    leader = pair.settle()
    with Native(pair.url) as client:
        client.send(*cut(pcm[:112_000], 640))
        client.until("final")
        pair.kill(leader)
        client.until("migrating")
        client.send(*cut(pcm[112_000:], 640))
        client.stop()
    assert client.text == expected(pcm) and numbered(client)
    assert len(client.of("migrating")) == 1
    assert pair.leader() not in (None, leader)
    pair.start_broker(leader)
    assert pair.settle() != leader


def test_the_death_and_the_return_of_the_standby_disturb_no_session(pair: Pair) -> None:
    pcm = noise(6.4, seed=52)
    leader = pair.settle()
    (standby,) = set(NUMBERS) - {leader}
    with Native(pair.url) as client:
        client.send(*cut(pcm[:64_000], 640))
        client.until("final")
        pair.kill(standby)
        client.send(*cut(pcm[64_000:128_000], 640))
        client.until("final")
        pair.start_broker(standby)
        assert pair.settle() == leader
        client.send(*cut(pcm[128_000:], 640))
        client.stop()
    assert client.text == expected(pcm)
    assert not client.of("migrating")


def test_messages_of_a_leader_that_hung_are_ignored(pair: Pair) -> None:
    """When it continues, its sockets contain the audio, the finals and the votes of its term."""
    pcm = noise(8.4, seed=53)
    leader = pair.settle()
    with Native(pair.url) as client:
        client.send(*cut(pcm[:112_000], 640))
        client.until("final")
        pair.signal(leader, signal.SIGSTOP)
        client.send(*cut(pcm[112_000:160_000], 640))
        client.until("migrating")
        client.until("final")
        written = len(pair.brokers[leader].lines)
        pair.signal(leader, signal.SIGCONT)
        pair.brokers[leader].wait_for("following", since=written)
        client.send(*cut(pcm[160_000:], 640))
        client.stop()
    assert client.text == expected(pcm) and numbered(client)
    assert len(client.of("migrating")) == 1
    assert pair.settle() != leader


def test_without_a_leader_no_broker_is_ready() -> None:
    """Without a worker, two brokers receive no votes, so neither may serve."""
    with Pair(workers=0) as pair:
        eventually(lambda: all((one := pair.ask(number)) and one.frontends for number in NUMBERS), pair.story)
        assert pair.leader() is None
        assert not pair.is_ready()
        with Native(pair.url) as client:
            assert client.error()["code"] == "no-broker"
        assert "No broker leads" in asr("status", f"--run-dir={pair.run_dir}").stdout


def test_serve_starts_both_and_status_shows_them() -> None:
    with Serve("--brokers=2") as serve:
        run_dir = f"--run-dir={serve.run_dir}"

        def both() -> list[dict[str, object]] | None:
            lines = asr("status", run_dir, "--json").stdout.splitlines()
            answers = [json.loads(line) for line in lines]
            return answers if len(answers) == 2 and answers[1]["workers"] else None

        first, second = eventually(both, serve.story)
        assert (first["leads"], second["leads"]) == (True, False)
        assert "a standby broker is up" in asr("status", run_dir).stdout
        pcm = noise(1.0)
        assert converse(serve.url, [pcm]).text == expected(pcm)
        second_serve = asr("serve", run_dir, "--engine=fake", "--listen=127.0.0.1:1")
        assert second_serve.returncode == 2
        assert "another broker is running" in second_serve.stderr
