"""`asr serve`: a broker, workers and a frontend on this machine, as one command.

The shell around asr_ops.supervisor: real processes, signals and the clock. Decides nothing about restarts and knows
nothing of sessions. A child gets a session of its own, so that a terminal's Ctrl+C reaches only us, and a stdin that
ends when we do (asr_process.supervised).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import structlog
from click.core import ParameterSource

from asr_ops import supervisor
from asr_ops.status import listening
from asr_ops.supervisor import Child
from asr_process import settings
from asr_process.settings import Address
from asr_process.supervised import VARIABLE as SUPERVISED
from asr_proto.errors import SetupError

PROBE_TIMEOUT_S = 1.0
CAIMAN_PORT = 3030
STDERR = 2
CANNOT_START = 127
"""The return code that shells give to a program that could not be started."""

log = structlog.get_logger()


# ---- The command ----


@settings.command("asr serve")
@click.option(
    "--listen",
    type=settings.ADDRESS,
    multiple=True,
    default=["127.0.0.1:8000"],
    help="Where clients connect; repeatable. 0.0.0.0:8000 lets other machines in.",
)
@click.option(
    "--workers", type=click.IntRange(0, 64), default=1, metavar="N", help="Worker processes, each with its own model."
)
@click.option(
    "--frontends",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="Frontend processes that share the ports; one takes some hundred sessions of 20 ms frames.",
)
@click.option(
    "--brokers",
    type=click.IntRange(1, 2),
    default=1,
    metavar="N",
    help="2 for a broker and a standby, which takes over within a second when the other is lost.",
)
@click.option("--engine", metavar="NAME", show_default="moonshine", help="What the workers recognise speech with.")
@click.option(
    "--device",
    multiple=True,
    help="What the workers run on, such as cpu or cuda:0; repeatable: the workers take them in turn.",
)
@click.option(
    "--slots", type=click.IntRange(1), metavar="N", show_default="the engine's own", help="Sessions per worker at once."
)
@click.option(
    "--update-ms",
    type=click.IntRange(1),
    metavar="MS",
    help="Shortest time between two partials of a speaker, for workers of the engine moonshine.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65000),
    default=0,
    metavar="PORT",
    help="Prometheus metrics on 127.0.0.1: the broker on this port, workers, then frontends, on the next; 0 is off.",
)
@click.option("--tls-cert", metavar="FILE", help="Serve TLS with this certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, where it is a file of its own.")
@click.option("--keys", metavar="FILE", help="Ask clients for an API key of this file (made with `asr key`).")
@click.option(
    "--broker-arg", multiple=True, metavar="ARG", help="Pass this on to asr-broker, as in --broker-arg=--x=1."
)
@click.option(
    "--worker-arg",
    multiple=True,
    metavar="ARG",
    help="Pass this on to each asr-worker, as in --worker-arg=--threads=2.",
)
@click.option("--frontend-arg", multiple=True, metavar="ARG", help="Pass this on to asr-frontend.")
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """Serve speech recognition on this machine: a broker, workers and frontends in one go.

    Prints `ready: ws://HOST:PORT` when speech is being taken. A process that ends is started again. Ctrl+C ends
    everything in order; Ctrl+C again, at once.

    \b
        asr serve                                   the embedded English model on the CPU
        asr serve --listen 0.0.0.0:8000             reachable from other machines
        asr serve --workers 2 --device cuda:0 --device cuda:1
        asr transcribe speech.wav                   in another terminal: try it
    """
    pool = PoolOptions(**options, shared_args=_shared_args(ctx))
    check_alone(pool.run_dir)
    for address in pool.listen:
        check_free(address)
    counts = {"brokers": pool.brokers, "workers": pool.workers, "frontends": pool.frontends}
    log.info("starting brokers, workers and frontends", **counts, run_dir=str(pool.run_dir))
    first = pool.listen[0]
    tls = pool.tls_cert is not None
    shell = Shell(children(pool), lambda: answers_ready(first, tls=tls), announcement(pool))
    ctx.exit(asyncio.run(shell.run()))


def _shared_args(ctx: click.Context) -> tuple[str, ...]:
    """What every child is told of our own settings, so that all read the same files and log alike."""
    shared: settings.Shared = ctx.obj
    args = [f"--config={path}" for path in shared.config]
    for name, value in (("log_level", shared.log_level), ("log_format", shared.log_format)):
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            args.append(f"--{name.replace('_', '-')}={value}")
    return tuple(args)


# ---- The children's command lines ----


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The settings of `asr serve`; what is None or empty is left to the children's own settings."""

    listen: tuple[Address, ...]
    run_dir: Path
    workers: int = 1
    frontends: int = 1
    brokers: int = 1
    engine: str | None = None
    device: tuple[str, ...] = ()
    slots: int | None = None
    update_ms: int | None = None
    metrics_port: int = 0
    tls_cert: str | None = None
    tls_key: str | None = None
    keys: str | None = None
    broker_arg: tuple[str, ...] = ()
    worker_arg: tuple[str, ...] = ()
    frontend_arg: tuple[str, ...] = ()
    shared_args: tuple[str, ...] = ()


def children(pool: PoolOptions) -> list[Child]:
    """The broker or the two that share the pool, the workers, the frontends."""
    return [
        *(_broker(pool, number) for number in range(pool.brokers)),
        *(_worker(pool, number) for number in range(pool.workers)),
        *(_frontend(pool, number) for number in range(pool.frontends)),
    ]


def _broker(pool: PoolOptions, number: int) -> Child:
    if pool.brokers == 1:
        return _child(pool, "broker", "broker", [*_metrics(pool, 0), *pool.broker_arg])
    at = {
        "frontends": settings.frontends_endpoint(pool.run_dir, number + 1),
        "workers": settings.workers_endpoint(pool.run_dir, number + 1),
        "control": settings.control_endpoint(pool.run_dir, number + 1),
    }
    args = ["--shared-lead", *(f"--{side}={endpoint}" for side, endpoint in at.items())]
    # The standby's metrics come after everybody's, so that the others' stay where they are with one broker.
    offset = 0 if number == 0 else 1 + pool.workers + pool.frontends
    return _child(pool, f"broker-{number + 1}", "broker", [*args, *_metrics(pool, offset), *pool.broker_arg])


def _brokers(pool: PoolOptions, endpoint: Callable[[Path, int], str]) -> list[str]:
    """Where the others find them, unless it is where they look by themselves."""
    numbers = range(1, pool.brokers + 1) if pool.brokers > 1 else ()
    return [f"--broker={endpoint(pool.run_dir, number)}" for number in numbers]


def _frontend(pool: PoolOptions, number: int) -> Child:
    given = {"tls-cert": pool.tls_cert, "tls-key": pool.tls_key, "keys": pool.keys}
    args = [f"--listen={address}" for address in pool.listen]
    args += [f"--{option}={value}" for option, value in given.items() if value is not None]
    args += _brokers(pool, settings.frontends_endpoint)
    if pool.frontends == 1:
        return _child(pool, "frontend", "frontend", [*args, *pool.frontend_arg])
    name = f"frontend-{number + 1}"
    args += ["--reuse-port", f"--name={name}"]
    if pool.metrics_port:
        # On the shared ports a scrape would reach any of them.
        args.append(f"--listen=127.0.0.1:{pool.metrics_port + 1 + pool.workers + number}")
    return _child(pool, name, "frontend", [*args, *pool.frontend_arg])


def _worker(pool: PoolOptions, number: int) -> Child:
    name = f"worker-{number + 1}"
    device = pool.device[number % len(pool.device)] if pool.device else None
    given = {"engine": pool.engine, "device": device, "slots": pool.slots, "update-ms": pool.update_ms}
    args = [f"--{option}={value}" for option, value in given.items() if value is not None]
    args += _brokers(pool, settings.workers_endpoint)
    return _child(pool, name, "worker", [f"--name={name}", *args, *_metrics(pool, number + 1), *pool.worker_arg])


def _metrics(pool: PoolOptions, offset: int) -> list[str]:
    return [f"--metrics=127.0.0.1:{pool.metrics_port + offset}"] if pool.metrics_port else []


def _child(pool: PoolOptions, name: str, role: supervisor.Role, args: Sequence[str]) -> Child:
    module = {"broker": "asr_broker.cli", "worker": "asr_workers.cli", "frontend": "asr_frontends.cli"}[role]
    run_dir = f"--run-dir={pool.run_dir}"
    return Child(name, role, (sys.executable, "-m", module, run_dir, *pool.shared_args, *args))


# ---- What must be free, and what must answer ----


def check_free(address: Address) -> None:
    """Raise SetupError if something listens there already: its answers would be taken for our frontend's."""
    if address.port == 0:
        raise SetupError("--listen needs a port of its own: clients could not know which one 0 became")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise SetupError(f"cannot listen on {address}: {error.strerror or error}") from error


def check_alone(run_dir: Path) -> None:
    """Raise SetupError if a broker answers there: our workers would join its pool before our broker could refuse."""
    if listening(run_dir):
        raise SetupError(f"another broker is running in {run_dir}: stop it, or name another directory with --run-dir")


def announcement(pool: PoolOptions) -> str:
    """What is printed when a session would succeed; on CAIMAN-ASR's port also what its server prints."""
    lines = [f"ready: {'wss' if pool.tls_cert else 'ws'}://{pool.listen[0]}"]
    if any(address.port == CAIMAN_PORT for address in pool.listen):
        lines.append(f"Server started on port {CAIMAN_PORT}")
    return "\n".join(lines)


async def answers_ready(address: Address, *, tls: bool = False) -> bool:
    """Does the frontend there answer GET /ready with 200? Whom its certificate names does not matter here."""
    context = ssl.create_default_context() if tls else None
    if context:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, address.port, ssl=context)
            try:
                writer.write(f"GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except OSError:
        return False
    return status.split(b" ")[1:2] == [b"200"]


# ---- The shell ----


class Shell:
    """Performs what the supervisor decides, until it says Exit."""

    def __init__(self, children: Sequence[Child], probe: Callable[[], Awaitable[bool]], announcement: str) -> None:
        self._core = supervisor.Supervisor(children)
        self._probe = probe
        self._announcement = announcement
        self._events: asyncio.Queue[supervisor.Event] = asyncio.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._probing: asyncio.Task[None] | None = None
        self._exit_code: int | None = None

    async def run(self) -> int:
        """Start the children, supervise them, end them. Returns the exit code; no child is left."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._events.put_nowait, supervisor.StopAsked())
        self._events.put_nowait(supervisor.Begin())
        try:
            while self._exit_code is None:
                await self._turn()
        finally:
            self._clean_up()
        return self._exit_code

    async def _turn(self) -> None:
        event = await self._next_event()
        if isinstance(event, supervisor.ChildEnded):
            self._forget(event.name)
        if event is not None:
            self._perform(self._core.handle(event, time.monotonic()))
        self._perform(self._core.tick(time.monotonic()))

    async def _next_event(self) -> supervisor.Event | None:
        """What happens next, or None when the core's deadline comes first."""
        deadline = self._core.next_deadline()
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            return None

    def _perform(self, commands: Sequence[supervisor.Command]) -> None:
        for command in commands:
            match command:
                case supervisor.StartChild(child):
                    self._start(child)
                case supervisor.TerminateChild(name):
                    self._signal(name, signal.SIGTERM)
                case supervisor.KillChild(name):
                    self._signal(name, signal.SIGKILL)
                case supervisor.Probe():
                    self._probing = asyncio.create_task(self._run_probe())
                case supervisor.Announce():
                    click.echo(self._announcement)
                case supervisor.Warn(sentence):
                    log.warning(sentence)
                case supervisor.Exit(code):
                    self._exit_code = code

    async def _run_probe(self) -> None:
        self._events.put_nowait(supervisor.Probed(await self._probe()))

    def _start(self, child: Child) -> None:
        try:
            process = subprocess.Popen(
                child.argv,
                stdin=subprocess.PIPE,
                stdout=STDERR,  # our stdout is for the announcement alone
                env=os.environ | {SUPERVISED: "1"},
                start_new_session=True,
            )
        except OSError as error:
            log.error("cannot start a process", child=child.name, reason=str(error))
            self._events.put_nowait(supervisor.ChildEnded(child.name, CANNOT_START))
            return
        self._processes[child.name] = process
        arguments = (child.name, process, asyncio.get_running_loop())
        threading.Thread(target=self._await_end, args=arguments, name=f"await-{child.name}", daemon=True).start()

    def _await_end(self, name: str, process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        returncode = process.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
            loop.call_soon_threadsafe(self._events.put_nowait, supervisor.ChildEnded(name, returncode))

    def _forget(self, name: str) -> None:
        """The child is gone; so is whatever it had started itself."""
        process = self._processes.pop(name, None)
        if process is not None:
            _kill_group(process)
            _close_stdin(process)

    def _signal(self, name: str, signum: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is None:
            return
        if signum == signal.SIGKILL:
            _kill_group(process)
        else:
            process.send_signal(signum)

    def _clean_up(self) -> None:
        """Only after an error of ours, or with a child that cannot be killed, is anything left to do here."""
        if self._probing is not None:
            self._probing.cancel()
        for process in self._processes.values():
            _kill_group(process)
            _close_stdin(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
