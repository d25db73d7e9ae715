"""The pool under test: a real `asr serve` with its children, which are found by name, and its log.

It is started as a user starts it, so that its supervisor restarts the processes that the nemesis kills. The log goes to
a file. Every frontend also listens on a separate port, which answers GET /ready.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from asr_ops.status import NoAnswer, ask, listening
from asr_process import settings
from asr_proto.messages import Status
from tests.e2e.service import MODULES, environment, free_port
from tests.nemesis.links import endpoints
from tests.nemesis.schedule import Names

START_S = 120.0
STOP_S = 20.0
POLL_S = 0.05
BAD = "bad-"
"""The beginning of the names of processes that are no part of the pool."""
ROLES = {module: role for role, module in MODULES.items()}
FAKETIME = [
    *map(Path, filter(None, [os.environ.get("LIBFAKETIME")])),
    *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
]
"""Paths of the library of the package `libfaketime`; empty if it is not installed. LIBFAKETIME names another place."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The processes and options of a pool."""

    workers: int = 2
    frontends: int = 2
    brokers: int = 2
    """2: a leader and its standby."""
    engine: str = "fake"
    links: bool = False
    """Whether peers reach the broker through tests.nemesis.links."""
    clock: bool = False
    """Whether clocks can be set: libfaketime is then loaded into every process."""
    log: Path | None = None
    """File for the log, instead of one in the run directory; writes to /dev/full fail."""
    poison: bool = False
    """Whether the fake engine fails at poisonous audio."""
    args: tuple[str, ...] = ()
    asr: Path | None = None
    """The `asr` of another installation, whose pool is tested; None for this source tree."""


class Pool:
    """A running `asr serve`. A context manager, which ends all processes on exit."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.run_dir = Path(tempfile.mkdtemp(prefix="asr-", dir="/tmp"))  # short: socket paths are limited
        self.port = free_port()
        self.private_port = _free_ports(shape.brokers + shape.workers + shape.frontends)
        self.log = shape.log or self.run_dir / "log"
        self.clock_file = self.run_dir / "clock"
        self._process: subprocess.Popen[bytes] | None = None
        self._names: dict[int, str] = {}

    @property
    def address(self) -> str:
        """HOST:PORT that all frontends share."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the native dialect that all frontends share."""
        return f"ws://{self.address}/v1/stream"

    def frontends(self) -> dict[str, int]:
        """The separate port of each frontend, by name."""
        if self.shape.frontends == 1:
            return {"frontend": self.port}
        first = self.private_port + 1 + self.shape.workers
        return {f"frontend-{number + 1}": first + number for number in range(self.shape.frontends)}

    def endpoints(self, side: str) -> list[str]:
        """The endpoint of each broker for "workers" or "frontends"."""
        of = settings.workers_endpoint if side == "workers" else settings.frontends_endpoint
        return [of(self.run_dir, number + 1) for number in range(self.shape.brokers)]

    @property
    def names(self) -> list[str]:
        """Names of all processes that the supervisor starts."""
        named = Names(self.shape.workers, self.shape.frontends, self.shape.brokers)
        return [*named.all_brokers, *named.all_workers, *named.all_frontends]

    # ---- Its processes ----

    def children(self) -> dict[str, psutil.Process]:
        """The running child processes, by name."""
        assert self._process is not None
        found: dict[str, psutil.Process] = {}
        for pid in _children(self._process.pid):
            with suppress(psutil.NoSuchProcess):
                if (name := self.name_of(pid)) is not None:
                    found[name] = psutil.Process(pid)
        return found

    def left_over(self) -> list[psutil.Process]:
        """The processes of this pool that outlived their supervisor."""
        return [psutil.Process(pid) for pid in list(self._names) if _is_of(pid, self.run_dir)]

    def supervisor(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def name_of(self, pid: int) -> str | None:
        """The name of a child process; None for other processes, and for a child whose name is not set yet."""
        if pid not in self._names:
            try:
                process = psutil.Process(pid)
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                name = _name_in(process.cmdline())
            except psutil.Error:
                return None
            if name is None:
                return None
            self._names[pid] = name
        return self._names[pid] if _runs(pid) else None

    # ---- State ----

    def statuses(self, timeout_s: float = 1.0) -> list[Status]:
        """The status of each broker that answers."""
        answers = []
        for endpoint in listening(self.run_dir):
            with suppress(NoAnswer):
                answers.append(ask(endpoint, timeout_s))
        return answers

    def status(self, timeout_s: float = 1.0) -> Status | None:
        """The leader's status; None while no broker leads."""
        return next((status for status in self.statuses(timeout_s) if status.leads), None)

    def whole(self) -> bool:
        """Whether one broker leads, and all workers and frontends are registered with every broker and none drains."""
        statuses = self.statuses()
        leaders = sum(status.leads for status in statuses)
        return (leaders, len(statuses)) == (1, self.shape.brokers) and all(map(self._complete, statuses))

    def _complete(self, status: Status) -> bool:
        workers = [worker for worker in status.workers if worker.name.startswith("worker")]
        frontends = [frontend for frontend in status.frontends if not frontend.name.startswith(BAD)]
        there = len(workers), len(frontends)
        return there == (self.shape.workers, self.shape.frontends) and not any(one.draining for one in workers)

    def log_lines(self) -> list[str]:
        """The lines of the log; none if it is no regular file."""
        if not self.log.is_file():
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    # ---- Start and end ----

    def __enter__(self) -> Pool:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def start_again(self) -> None:
        """Start a new supervisor after the one before was killed."""
        assert self._process is not None
        self._process.wait()
        self._start()

    def _start(self) -> None:
        shape = self.shape
        args = [f"--run-dir={self.run_dir}", f"--listen=127.0.0.1:{self.port}", f"--engine={shape.engine}"]
        args += [f"--workers={shape.workers}", f"--frontends={shape.frontends}", f"--brokers={shape.brokers}"]
        args += [f"--metrics-port={self.private_port}"]
        args += ["--worker-arg=--poison"] if shape.poison else []
        if shape.links:
            args += [f"--{side[:-1]}-arg=--broker={end}" for side, end in endpoints(self.run_dir, shape.brokers)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._asr(), "serve", *args, *shape.args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self._environment() | self._clock_variables(),
                cwd=self.run_dir,
                start_new_session=True,
            )

    def _asr(self) -> list[str]:
        return [str(self.shape.asr)] if self.shape.asr else [sys.executable, "-m", MODULES["asr"]]

    def _environment(self) -> dict[str, str]:
        """The variables of the processes. Another installation must not import the modules of this source tree."""
        variables = environment()
        if self.shape.asr:
            del variables["PYTHONPATH"]
        return variables

    def wait_whole(self, timeout_s: float = START_S) -> None:
        """Wait until the pool is whole. Raises AssertionError with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while not self.whole():
            assert self._process is not None
            assert self._process.poll() is None and time.monotonic() < deadline, "\n".join(self.log_lines()[-30:])
            time.sleep(POLL_S)

    def _clock_variables(self) -> dict[str, str]:
        """Environment variables for libfaketime. It changes only the time of day: monotonic clocks never jump."""
        if not self.shape.clock:
            return {}
        assert FAKETIME, "the package libfaketime is not installed"
        self.set_clock(0)
        return {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_clock(self, by_s: float) -> None:
        """Set the clock of every process `by_s` seconds from the real one; takes effect within a second."""
        draft = self.clock_file.with_suffix(".new")
        draft.write_text(f"{by_s:+g}\n", encoding="ascii")
        draft.rename(self.clock_file)

    def close(self) -> None:
        """End all processes, also paused ones, and delete the run directory."""
        if self._process is not None and self._process.poll() is None:
            processes = self.supervisor().children(recursive=True)
            for child in processes:
                _signal(child, signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _, left = psutil.wait_procs(processes, timeout=STOP_S)
            for child in left:
                _signal(child, signal.SIGKILL)
        for orphan in self.left_over():
            _signal(orphan, signal.SIGKILL)
        shutil.rmtree(self.run_dir, ignore_errors=True)


def _children(pid: int) -> list[int]:
    """Process ids of the children, from /proc: psutil would read every process of the machine, many times a second."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return found


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _name_in(argv: list[str]) -> str | None:
    role = next((ROLES[arg] for arg in argv if arg in ROLES), None)
    if role in (None, "asr"):
        return None
    if "--shared-lead" in argv:
        return f"broker-{2 if any(arg.endswith('-2.ipc') for arg in argv) else 1}"
    return next((arg.removeprefix("--name=") for arg in argv if arg.startswith("--name=")), role)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_of(pid: int, run_dir: Path) -> bool:
    """Whether a process runs in this run directory: its number may have been given to another process."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and f"--run-dir={run_dir}" in process.cmdline()
    except psutil.Error:
        return False


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports."""
    for _ in range(100):
        first = free_port()
        taken = {connection.laddr.port for connection in psutil.net_connections("tcp")}
        if first + count < 65_536 and not taken & set(range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def descriptors(process: psutil.Process) -> int:
    """Number of its open descriptors; 0 if it has ended."""
    try:
        return int(process.num_fds())
    except psutil.Error:
        return 0


def open_files_max(process: psutil.Process) -> tuple[int, int]:
    """Its soft and hard limit of open files."""
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    return int(soft), int(hard)
