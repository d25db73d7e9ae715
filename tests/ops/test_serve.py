"""The shell of `asr serve` with real processes: small stand-ins for the children, real signals, and no process left.

The stand-ins print to the supervisor's stderr. This pipe ends when the last process that holds it has ended, so
reading it to its end proves that no process is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asr_ops.serve import PoolOptions, answers_ready, check_alone, check_free, children, serve
from asr_process.settings import Address
from asr_process.stopping import AGAIN_S
from asr_proto.errors import SetupError

SUPERVISOR = """
import asyncio, json, sys
from asr_ops.serve import Shell
from asr_ops.supervisor import Child
from asr_process import logs, stopping

async def ready():
    return sys.argv[2] == "ready"

logs.set_up("supervisor")
stopping.AGAIN_S = float(sys.argv[3])
children = [Child(name, role, tuple(argv)) for name, role, argv in json.loads(sys.argv[1])]
sys.exit(asyncio.run(Shell(children, ready, "ready: here").run()))
"""

SAY = """
import os, signal, sys
from asr_process.stopping import ORPHANED
from asr_process.supervised import watch_parent

def say(what):
    os.write(1, f"{sys.argv[1]} {what} {os.getpid()}\\n".encode())

def end(what):
    say(what)
    os._exit(0)

def obey(order):
    end("orphaned" if order == ORPHANED else "ordered")
"""
GENTLE = f"""{SAY}
watch_parent().serve(obey)
say("started")
while True:
    signal.pause()
"""
STUBBORN = f"""{SAY}
watch_parent().serve(lambda order: obey(order) if order == ORPHANED else say("refused"))
say("started")
while True:
    signal.pause()
"""
CRASHING = f"{SAY}\nsay('started')\nsys.exit(5)"
MISCONFIGURED = f"{SAY}\nsay('misconfigured')\nsys.exit(2)"
PARENT = f"""{SAY}
if os.fork() == 0:
    say("grandchild")
    while True:
        signal.pause()
watch_parent().serve(obey)
say("started")
while True:
    signal.pause()
"""


class Run:
    """A supervisor with stand-ins, and the output of all of them."""

    def __init__(
        self, scripts: dict[str, str], *, ready: bool = True, program: str = sys.executable, again_s: float = AGAIN_S
    ) -> None:
        roles = {"broker": "broker", "frontend": "frontend"}
        argv = [(name, roles.get(name, "worker"), [program, "-c", script, name]) for name, script in scripts.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, json.dumps(argv), "ready" if ready else "never", str(again_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def until(self, *texts: str) -> list[str]:
        """Read until each text has appeared. Returns the lines that contain them, in the order of `texts`."""
        found: dict[str, str] = {}
        assert self.process.stderr is not None
        seen = []
        while len(found) < len(texts):
            line = self.process.stderr.readline()
            assert line, f"ended without {set(texts) - set(found)}: {seen}"
            seen.append(line)
            found |= {text: line for text in texts if text in line and text not in found}
        return [found[text] for text in texts]

    def pids(self, *names: str) -> list[int]:
        """Wait until these stand-ins have started."""
        return [int(line.split()[-1]) for line in self.until(*(f"{name} started" for name in names))]

    def rest(self) -> str:
        """All output until the end of the last process."""
        assert self.process.stderr is not None
        return self.process.stderr.read()


RunSupervisor = Callable[..., Run]


@pytest.fixture
def run() -> Iterator[RunSupervisor]:
    runs: list[Run] = []

    def start(scripts: dict[str, str], **options: Any) -> Run:
        runs.append(Run(scripts, **options))
        return runs[-1]

    yield start
    for one in runs:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


POOL = {"broker": GENTLE, "worker-1": GENTLE, "frontend": GENTLE}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(run: RunSupervisor, signum: signal.Signals) -> None:
    supervisor = run(POOL)
    supervisor.pids(*POOL)
    supervisor.process.send_signal(signum)
    expected = [line.split()[0] for line in supervisor.rest().splitlines() if "ordered" in line]
    assert expected == ["frontend", "worker-1", "broker"]
    assert supervisor.process.wait() == 0


def test_announces_readiness_alone_on_stdout(run: RunSupervisor) -> None:
    supervisor = run(POOL)
    assert supervisor.process.stdout is not None
    assert supervisor.process.stdout.readline() == "ready: here\n"
    supervisor.pids(*POOL)
    supervisor.process.terminate()
    assert supervisor.process.stdout.read() == ""
    assert supervisor.process.wait() == 0


def test_a_killed_child_is_started_again(run: RunSupervisor) -> None:
    supervisor = run(POOL)
    *_, worker, _frontend = supervisor.pids(*POOL)
    os.kill(worker, signal.SIGKILL)
    supervisor.until("worker-1 ended by SIGKILL: starting it again in 0.2 s")
    assert supervisor.pids("worker-1") != [worker]
    supervisor.process.terminate()
    supervisor.rest()
    assert supervisor.process.wait() == 0


def test_a_killed_supervisor_leaves_no_process(run: RunSupervisor) -> None:
    supervisor = run(POOL | {"worker-2": STUBBORN})
    supervisor.pids(*POOL, "worker-2")
    supervisor.process.kill()
    expected = {line.split()[0] for line in supervisor.rest().splitlines() if "orphaned" in line}
    assert expected == {*POOL, "worker-2"}
    assert supervisor.process.wait() == -signal.SIGKILL


def test_a_crash_loop_backs_off(run: RunSupervisor) -> None:
    supervisor = run({"broker": GENTLE, "worker-1": CRASHING})
    for delay in ("0.2", "0.4", "0.8"):
        supervisor.until(f"worker-1 ended with exit code 5: starting it again in {delay} s")
    supervisor.process.terminate()
    supervisor.rest()
    assert supervisor.process.wait() == 0


def test_a_bad_configuration_ends_everything_with_exit_code_2(run: RunSupervisor) -> None:
    supervisor = run({"broker": GENTLE, "worker-1": MISCONFIGURED}, ready=False)
    supervisor.until("worker-1 cannot start as configured (exit code 2)")
    supervisor.rest()
    assert supervisor.process.wait() == 2


def test_a_second_signal_kills_at_once(run: RunSupervisor) -> None:
    supervisor = run({"broker": GENTLE, "worker-1": STUBBORN}, again_s=0.0)
    supervisor.pids("broker", "worker-1")
    supervisor.process.terminate()
    supervisor.until("worker-1 refused")
    supervisor.process.terminate()
    assert "ordered" not in supervisor.rest()
    assert supervisor.process.wait() == 1


def test_a_signal_that_is_passed_on_kills_nothing(run: RunSupervisor) -> None:
    """Ctrl+C in `make serve`: the terminal sends SIGINT to all, then make sends SIGTERM."""
    supervisor = run(POOL)
    supervisor.pids(*POOL)
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.rest().count("ordered") == len(POOL)
    assert supervisor.process.wait() == 0


def test_what_a_child_started_ends_with_it(run: RunSupervisor) -> None:
    supervisor = run({"worker-1": PARENT})
    worker, _grandchild = (int(line.split()[-1]) for line in supervisor.until("started", "grandchild"))
    os.kill(worker, signal.SIGKILL)
    supervisor.until("worker-1 started", "worker-1 grandchild")
    supervisor.process.terminate()
    supervisor.rest()  # ends only if the grandchildren of both lives have ended
    assert supervisor.process.wait() == 0


def test_a_program_that_is_not_there_is_tried_again(run: RunSupervisor) -> None:
    supervisor = run({"worker-1": GENTLE}, program="/nonexistent/program")
    supervisor.until("cannot start a process", "worker-1 ended with exit code 127: starting it again in 0.2 s")
    supervisor.process.terminate()
    supervisor.rest()
    assert supervisor.process.wait() == 0


# ---- Around the shell ----


def test_the_children_get_what_was_asked_for() -> None:
    pool = PoolOptions(
        listen=(Address("127.0.0.1", 8000), Address("::1", 8001)),
        run_dir=Path("/run/pool"),
        workers=3,
        engine="fake",
        device=("cuda:0", "cuda:1"),
        slots=8,
        metrics_port=9100,
        worker_arg=("--rare=1",),
        shared_args=("--log-level=debug",),
    )
    args = {child.name: list(child.argv[2:]) for child in children(pool)}
    shared = ["--run-dir=/run/pool", "--log-level=debug"]
    assert args["broker"] == ["asr_broker.cli", *shared, "--metrics=127.0.0.1:9100"]
    assert args["frontend"] == ["asr_frontends.cli", *shared, "--listen=127.0.0.1:8000", "--listen=[::1]:8001"]
    given = ["--engine=fake", "--device=cuda:0", "--slots=8", "--metrics=127.0.0.1:9103", "--rare=1"]
    assert args["worker-3"] == ["asr_workers.cli", *shared, "--name=worker-3", *given]
    assert "--device=cuda:1" in args["worker-2"]


def test_several_frontends_share_the_ports_and_are_scraped_apart() -> None:
    listen = (Address("127.0.0.1", 8000),)
    pool = PoolOptions(listen=listen, run_dir=Path("/r"), workers=2, frontends=2, metrics_port=9100)
    args = {child.name: list(child.argv[3:]) for child in children(pool)}
    for number in (1, 2):
        shared = ["--run-dir=/r", "--listen=127.0.0.1:8000", "--reuse-port", f"--name=frontend-{number}"]
        assert args[f"frontend-{number}"] == [*shared, f"--listen=127.0.0.1:{9102 + number}"]


def test_two_brokers_share_the_lead_and_all_processes_have_both_endpoints() -> None:
    pool = PoolOptions(
        listen=(Address("127.0.0.1", 8000),), run_dir=Path("/r"), workers=2, brokers=2, metrics_port=9100
    )
    args = {child.name: list(child.argv[3:]) for child in children(pool)}
    assert list(args) == ["broker-1", "broker-2", "worker-1", "worker-2", "frontend"]
    sides = ("frontends", "workers", "control")
    first = [f"--{side}=ipc:///r/{side}.ipc" for side in sides]
    second = [f"--{side}=ipc:///r/{side}-2.ipc" for side in sides]
    assert args["broker-1"] == ["--run-dir=/r", "--shared-lead", *first, "--metrics=127.0.0.1:9100"]
    assert args["broker-2"] == ["--run-dir=/r", "--shared-lead", *second, "--metrics=127.0.0.1:9104"]
    for name, side in (("worker-1", "workers"), ("frontend", "frontends")):
        named = [arg for arg in args[name] if arg.startswith("--broker=")]
        assert named == [f"--broker=ipc:///r/{side}.ipc", f"--broker=ipc:///r/{side}-2.ipc"]


def test_a_broker_that_the_user_names_replaces_ours() -> None:
    pool = PoolOptions(
        listen=(Address("127.0.0.1", 8000),), run_dir=Path("/r"), brokers=2, worker_arg=("--broker=ipc:///x.ipc",)
    )
    args = {child.name: child.argv for child in children(pool)}
    assert [arg for arg in args["worker-1"] if arg.startswith("--broker=")] == ["--broker=ipc:///x.ipc"]
    assert len([arg for arg in args["frontend"] if arg.startswith("--broker=")]) == 2


def test_what_was_not_asked_for_is_left_to_the_children() -> None:
    pool = PoolOptions(listen=(Address("127.0.0.1", 8000),), run_dir=Path("/r"))
    broker, worker, _ = children(pool)
    assert broker.argv[2:] == ("asr_broker.cli", "--run-dir=/r")
    assert worker.argv[2:] == ("asr_workers.cli", "--run-dir=/r", "--name=worker-1")


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address(*server.getsockname())


def test_an_address_in_use_is_one_sentence(taken: Address, tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, ["--listen", str(taken), "--run-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == f"asr serve: cannot listen on {taken}: Address already in use\n"


def test_a_run_directory_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as broker:
        broker.bind(str(tmp_path / "control.ipc"))
        check_alone(tmp_path)  # a socket that a dead broker left
        broker.listen()
        result = CliRunner().invoke(serve, ["--run-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"asr serve: another broker is running in {tmp_path}")


def test_port_0_is_refused() -> None:
    with pytest.raises(SetupError, match="needs a fixed port"):
        check_free(Address("127.0.0.1", 0))


async def _asked(answer: bytes) -> tuple[bytes, bool]:
    requests: list[bytes] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        ready = await answers_ready(Address(*server.sockets[0].getsockname()))
    return requests[0], ready


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
        (b"SSH-2.0-x\r\n", False),
    ],
)
def test_ready_means_200(answer: bytes, ready: bool) -> None:
    request, answered = asyncio.run(_asked(answer))
    assert request.startswith(b"GET /ready HTTP/1.1\r\n")
    assert answered is ready


def test_a_closed_port_is_not_ready() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound but not listening: refused
        assert not asyncio.run(answers_ready(Address(*bound.getsockname())))
