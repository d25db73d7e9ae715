"""The real processes of the service for the end-to-end tests. Tests wait for lines of their output.

A `Program` is one process and its output lines. A `Service` is a run directory with programs in it: a `Pool` starts
broker, workers and frontends one by one; a `Serve` starts `asr serve`, which starts the others. Every process with the
run directory in its command line was started here, so the end of a service can check that no process survives.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from asr_ops.status import NoAnswer, ask
from asr_process import settings
from asr_process.supervised import VARIABLE as SUPERVISED
from asr_proto.messages import Status

ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT / root) for root in ("proto", "broker", "workers", "frontends", "ops")]
MODULES = {
    "broker": "asr_broker.cli",
    "worker": "asr_workers.cli",
    "frontend": "asr_frontends.cli",
    "asr": "asr_ops.cli",
}
WAIT_S = 60.0
"""Longest wait for anything that a process does; it is far longer than needed."""
POLL_S = 0.02


def environment() -> dict[str, str]:
    """This process's environment without the variables that would configure the processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ASR_", "XDG_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(SOURCES), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def eventually(condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = WAIT_S) -> Any:
    """Poll a condition for its first true value, for states that no process reports."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)
    return value


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


class Program:
    """One process in a new process group, and all output lines of it and its children."""

    def __init__(
        self,
        name: str,
        role: str,
        args: Sequence[str],
        cwd: Path,
        within: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self.stdout: list[str] = []
        self._changed = threading.Condition()
        self._open = 2
        # If the tests are killed, the end of its stdin makes a process end (asr_process.supervised).
        supervised = {} if role == "asr" else {SUPERVISED: "1"}
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", MODULES[role], *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | supervised | dict(env or {}),
            cwd=cwd,
            start_new_session=True,
        )
        streams = ((self.process.stdout, self.stdout), (self.process.stderr, None))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, pattern: str, since: int = 0, timeout_s: float = WAIT_S) -> re.Match[str]:
        """The first match in a line from number `since` on. Waits for lines that are not written yet."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for line in self.lines[since:]:
                    if match := re.search(pattern, line):
                        return match
                since = max(since, len(self.lines))
                if not self._open or not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{self.name} did not write {pattern!r}:\n{self.story()}")

    def wait_for_silence(self, timeout_s: float = WAIT_S) -> None:
        """Wait until the program and all processes that it started have closed their output: all are gone."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open, timeout_s):
                raise AssertionError(f"a process of {self.name} is still running:\n{self.story()}")

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end of the process; returns its exit code."""
        return self.process.wait(timeout_s)

    def story(self) -> str:
        """The last output lines, for failure messages."""
        return "".join(f"    {self.name}| {line}\n" for line in self.lines[-80:])

    def close(self) -> None:
        """Kill the rest of the process group, and close the pipes."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        for reader in self._readers:
            reader.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read(self, stream: Any, own: list[str] | None) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                if own is not None:
                    own.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


class Service:
    """A run directory with programs. A context manager, at whose end no process is left, even after a failure."""

    port: int

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="asr-", dir="/tmp"))  # short: socket paths are limited
        self.programs: list[Program] = []

    def start(
        self,
        role: str,
        *args: object,
        name: str | None = None,
        within: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start one process of this service. `within` is a command that executes it; `env` extends its environment."""
        arguments = [str(arg) for arg in args]
        if role == "asr":
            arguments.insert(1, f"--run-dir={self.run_dir}")
        else:
            arguments.insert(0, f"--run-dir={self.run_dir}")
        program = Program(name or role, role, arguments, self.run_dir, within, env)
        self.programs.append(program)
        return program

    # ---- Asking ----

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def get(self, path: str, port: int | None = None, **headers: str) -> tuple[int, str]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=WAIT_S)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def is_ready(self, port: int | None = None) -> bool:
        try:
            return self.get("/ready", port)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self, port: int | None = None) -> None:
        """Wait until a frontend would accept a session, which no process reports."""
        eventually(lambda: self._alive() and self.is_ready(port), lambda: f"readiness\n{self.story()}")

    def metric(self, name: str, port: int | None = None) -> float:
        """The value of a Prometheus sample without labels."""
        body = self.get("/metrics", port)[1]
        match = re.search(rf"^{name} (\S+)$", body, re.MULTILINE)
        assert match, body
        return float(match[1])

    def status(self) -> Status | None:
        """The broker's status; None while there is no broker."""
        try:
            return ask(settings.control_endpoint(self.run_dir), timeout_s=1.0)
        except NoAnswer:
            return None

    def sessions(self) -> int:
        """The number of taken slots; -1 while it is unknown."""
        status = self.status()
        return -1 if status is None else sum(worker.sessions for worker in status.workers)

    def wait_sessions(self, count: int, timeout_s: float = WAIT_S) -> None:
        """Wait until exactly so many slots are taken."""
        eventually(
            lambda: self.sessions() == count,
            lambda: f"{count} sessions, there are {self.sessions()}\n{self.story()}",
            timeout_s,
        )

    def story(self) -> str:
        return "".join(program.story() for program in self.programs)

    # ---- Its processes ----

    def processes(self) -> Iterator[psutil.Process]:
        """Every living process with this run directory in its command line."""
        option = f"--run-dir={self.run_dir}"
        for process in psutil.process_iter():
            try:
                if option in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except psutil.Error:
                continue

    def pids(self) -> dict[str, int]:
        """The key of a process: its `--name`, or else its role."""
        roles = {module: role for role, module in MODULES.items()}
        pids = {}
        for process in self.processes():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            role = roles[argv[argv.index("-m") + 1]]
            named = [arg.removeprefix("--name=") for arg in argv if arg.startswith("--name=")]
            pids[named[0] if named else role] = process.pid
        return pids

    def _alive(self) -> bool:
        return True

    # ---- The end ----

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        pass

    def close(self) -> None:
        """End every process, and remove the run directory."""
        for program in reversed(self.programs):
            if program.process.poll() is None:
                program.process.terminate()
        for process in list(self.processes()):
            try:
                process.wait(1.0)
            except psutil.TimeoutExpired:
                process.kill()
        for program in self.programs:
            program.close()
        left = [process.cmdline() for process in self.processes()]
        shutil.rmtree(self.run_dir, ignore_errors=True)
        assert not left, f"processes were left over: {left}"


class Pool(Service):
    """A broker, workers and a frontend, each started here. `workers` has the arguments of each worker."""

    def __init__(
        self,
        *,
        workers: Sequence[Sequence[str]] = (("--engine=fake",),),
        frontend: Sequence[str] = (),
        broker: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._worker_args, self._frontend_args, self._broker_args = workers, frontend, broker
        self.workers: list[Program] = []

    def _begin(self) -> None:
        self.broker = self.start("broker", *self._broker_args)
        for args in self._worker_args:
            self.add_worker(*args)
        self.frontend, self.port = self.add_frontend(*self._frontend_args)
        for worker in self.workers:
            worker.wait_for("registered")
        self.frontend.wait_for("registered")
        if self.workers:
            self.wait_ready()

    def add_worker(self, *args: str) -> Program:
        name = f"worker-{len(self.workers) + 1}"
        self.workers.append(self.start("worker", f"--name={name}", *args, name=name))
        return self.workers[-1]

    def add_frontend(self, *args: str, listen: str = "127.0.0.1:0") -> tuple[Program, int]:
        """Start one more frontend and wait until it listens. Returns the program and its port."""
        frontend = self.start("frontend", f"--listen={listen}", *args)
        return frontend, int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])

    def _alive(self) -> bool:
        return all(program.process.poll() is None for program in self.programs)


class Serve(Service):
    """`asr serve` and all that it starts."""

    def __init__(self, *args: str, engine: str = "fake", workers: int = 1) -> None:
        super().__init__()
        self.port = free_port()
        self._workers = workers
        drains = ("--frontend-arg=--drain-s=1", "--worker-arg=--drain-s=2")
        self._args = (f"--listen=127.0.0.1:{self.port}", f"--engine={engine}", f"--workers={workers}", *drains, *args)

    def _begin(self) -> None:
        self.supervisor = self.start("asr", "serve", *self._args, name="serve")
        self.supervisor.wait_for("^ready: ws://", timeout_s=60)

    def children(self) -> dict[str, int]:
        """Wait until all children run; returns their process ids by name."""
        return {name: pid for name, pid in self.pids().items() if name != "asr"}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> dict[str, int]:
        """Send a signal to a child. Returns the children before the signal."""
        before = self.children()
        os.kill(before[name], number)
        return before

    def wait_whole(self) -> None:
        """Wait until every worker is registered and the frontend is ready."""
        eventually(lambda: (status := self.status()) and len(status.workers) == self._workers, self.story)
        self.wait_ready()

    def wait_replaced(self, name: str, before: dict[str, int]) -> dict[str, int]:
        """Wait until the child runs again with another process id. Returns the children after that."""

        def replaced() -> dict[str, int] | None:
            now = self.children()
            return now if now.keys() == before.keys() and now[name] != before[name] else None

        now: dict[str, int] = eventually(replaced, lambda: f"{name} again\n{self.story()}")
        return now


def asr(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real `asr` command to its end."""
    argv = [sys.executable, "-m", MODULES["asr"], *(str(arg) for arg in args)]
    return subprocess.run(
        argv, capture_output=True, text=True, env=environment(), timeout=120, check=False, stdin=subprocess.DEVNULL
    )
