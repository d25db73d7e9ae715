"""`asr serve` runs a broker, workers and frontends on this machine as one command.

This is the shell around asr_ops.supervisor: processes, signals and the clock. It makes no decision about restarts and
must not know the sessions that the pool serves. Each child runs in its own process session, so that a terminal's Ctrl+C
reaches only this process. Each child's stdin closes when this process ends (asr_process.supervised).
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
from asr_process.stopping import Order
from asr_process.supervised import VARIABLE as SUPERVISED
from asr_proto.errors import SetupError

PROBE_TIMEOUT_S = 1.0
CAIMAN_PORT = 3030
STDERR = 2
CANNOT_START = 127
"""The exit code that POSIX shells give to a program that cannot be started."""

log = structlog.get_logger()


# ---- The command ----


@settings.command("asr serve")
@click.option(
    "--listen",
    type=settings.ADDRESS,
    multiple=True,
    default=["127.0.0.1:8000"],
    help="The address for clients; repeatable. 0.0.0.0:8000 accepts clients on other machines.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    default=1,
    metavar="N",
    help="Number of worker processes. Each loads the model.",
)
@click.option(
    "--frontends",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="Number of frontend processes, which share the ports. One serves some hundred sessions of 20 ms frames.",
)
@click.option(
    "--brokers",
    type=click.IntRange(1, 2),
    default=1,
    metavar="N",
    help="2 starts a standby broker too. It takes over within a second when the leader is lost.",
)
@click.option("--engine", metavar="NAME", show_default="moonshine", help="The workers' engine.")
@click.option(
    "--device",
    multiple=True,
    help="The workers' device, such as cpu or cuda:0. Repeatable: the workers use the devices in turn.",
)
@click.option(
    "--slots", type=click.IntRange(1), metavar="N", show_default="the engine's own", help="Most sessions of a worker."
)
@click.option(
    "--update-ms",
    type=click.IntRange(1),
    metavar="MS",
    help="Shortest time between two partials of a session, in milliseconds. Only for the engine moonshine.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65000),
    default=0,
    metavar="PORT",
    help="Prometheus metrics on 127.0.0.1: the broker on this port, then workers, then frontends, on the next ports. "
    "0 is off.",
)
@click.option(
    "--stop-s",
    type=click.FloatRange(min=1),
    default=supervisor.STOP_S,
    metavar="S",
    help="Longest time from Ctrl+C or SIGTERM to the end of all processes, in seconds. Clients receive the text of all "
    "audio that they have sent.",
)
@click.option("--tls-cert", metavar="FILE", help="Serve TLS with this certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, if it is in a separate file.")
@click.option("--keys", metavar="FILE", help="Accept only clients with an API key of this file (made with `asr key`).")
@click.option(
    "--broker-arg", multiple=True, metavar="ARG", help="Pass this argument to asr-broker, as in --broker-arg=--x=1."
)
@click.option(
    "--worker-arg",
    multiple=True,
    metavar="ARG",
    help="Pass this argument to each asr-worker, as in --worker-arg=--threads=2.",
)
@click.option("--frontend-arg", multiple=True, metavar="ARG", help="Pass this argument to each asr-frontend.")
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """Serve speech recognition on this machine: start a broker, workers and frontends.

    Prints `ready: ws://HOST:PORT` when clients can send audio. A process that ends is started again. Ctrl+C stops the
    processes in order; a second Ctrl+C, at least 2 s later, kills them.

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
    shell = Shell(children(pool), lambda: answers_ready(first, tls=tls), announcement(pool), pool.stop_s)
    ctx.exit(asyncio.run(shell.run()))


def _shared_args(ctx: click.Context) -> tuple[str, ...]:
    """The arguments that every child gets, so that all processes read the same config files and log in the same way."""
    shared: settings.Shared = ctx.obj
    args = [f"--config={path}" for path in shared.config]
    for name, value in (("log_level", shared.log_level), ("log_format", shared.log_format)):
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            args.append(f"--{name.replace('_', '-')}={value}")
    return tuple(args)


# ---- The children's command lines ----


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The settings of `asr serve`. For a value that is None or empty, the child's own setting applies."""

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
    stop_s: float = supervisor.STOP_S
    tls_cert: str | None = None
    tls_key: str | None = None
    keys: str | None = None
    broker_arg: tuple[str, ...] = ()
    worker_arg: tuple[str, ...] = ()
    frontend_arg: tuple[str, ...] = ()
    shared_args: tuple[str, ...] = ()


def children(pool: PoolOptions) -> list[Child]:
    """The broker (or the two that share the pool), then the workers, then the frontends."""
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
    # The standby's metrics port comes last, so that the other ports are the same with one broker and with two.
    offset = 0 if number == 0 else 1 + pool.workers + pool.frontends
    return _child(pool, f"broker-{number + 1}", "broker", [*args, *_metrics(pool, offset), *pool.broker_arg])


def _brokers(pool: PoolOptions, endpoint: Callable[[Path, int], str], given: Sequence[str]) -> list[str]:
    """The arguments with the brokers' endpoints.

    None for one broker, which has the default endpoint, and none if the user gives a `--broker` for these processes.
    """
    is_given = any(arg.startswith("--broker=") for arg in given)
    numbers = range(1, pool.brokers + 1) if pool.brokers > 1 and not is_given else ()
    return [f"--broker={endpoint(pool.run_dir, number)}" for number in numbers]


def _frontend(pool: PoolOptions, number: int) -> Child:
    given = {"tls-cert": pool.tls_cert, "tls-key": pool.tls_key, "keys": pool.keys}
    args = [f"--listen={address}" for address in pool.listen]
    args += [f"--{option}={value}" for option, value in given.items() if value is not None]
    args += _brokers(pool, settings.frontends_endpoint, pool.frontend_arg)
    if pool.frontends == 1:
        return _child(pool, "frontend", "frontend", [*args, *pool.frontend_arg])
    name = f"frontend-{number + 1}"
    args += ["--reuse-port", f"--name={name}"]
    if pool.metrics_port:
        # A scrape of a shared port would reach any of the frontends.
        args.append(f"--listen=127.0.0.1:{pool.metrics_port + 1 + pool.workers + number}")
    return _child(pool, name, "frontend", [*args, *pool.frontend_arg])


def _worker(pool: PoolOptions, number: int) -> Child:
    name = f"worker-{number + 1}"
    device = pool.device[number % len(pool.device)] if pool.device else None
    given = {"engine": pool.engine, "device": device, "slots": pool.slots, "update-ms": pool.update_ms}
    args = [f"--{option}={value}" for option, value in given.items() if value is not None]
    args += _brokers(pool, settings.workers_endpoint, pool.worker_arg)
    return _child(pool, name, "worker", [f"--name={name}", *args, *_metrics(pool, number + 1), *pool.worker_arg])


def _metrics(pool: PoolOptions, offset: int) -> list[str]:
    return [f"--metrics=127.0.0.1:{pool.metrics_port + offset}"] if pool.metrics_port else []


def _child(pool: PoolOptions, name: str, role: supervisor.Role, args: Sequence[str]) -> Child:
    module = {"broker": "asr_broker.cli", "worker": "asr_workers.cli", "frontend": "asr_frontends.cli"}[role]
    run_dir = f"--run-dir={pool.run_dir}"
    return Child(name, role, (sys.executable, "-m", module, run_dir, *pool.shared_args, *args))


# ---- Checks of ports, of the run directory and of readiness ----


def check_free(address: Address) -> None:
    """Raise SetupError if another process listens at this address: the readiness check would accept its answers."""
    if address.port == 0:
        raise SetupError("--listen needs a fixed port: with port 0, clients cannot know which port is in use")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise SetupError(f"cannot listen on {address}: {error.strerror or error}") from error


def check_alone(run_dir: Path) -> None:
    """Raise SetupError if a broker listens in `run_dir`.

    Our workers would register with it before our own broker could report the conflict.
    """
    if listening(run_dir):
        raise SetupError(f"another broker is running in {run_dir}: stop it, or name another directory with --run-dir")


def announcement(pool: PoolOptions) -> str:
    """The text to print when the pool is ready. On CAIMAN-ASR's port it includes the line that its server prints."""
    lines = [f"ready: {'wss' if pool.tls_cert else 'ws'}://{pool.listen[0]}"]
    if any(address.port == CAIMAN_PORT for address in pool.listen):
        lines.append(f"Server started on port {CAIMAN_PORT}")
    return "\n".join(lines)


async def answers_ready(address: Address, *, tls: bool = False) -> bool:
    """Whether the frontend at this address answers GET /ready with 200. Its certificate is not verified."""
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
    """Performs the supervisor's commands until Exit."""

    def __init__(
        self,
        children: Sequence[Child],
        probe: Callable[[], Awaitable[bool]],
        announcement: str,
        stop_s: float = supervisor.STOP_S,
    ) -> None:
        self._core = supervisor.Supervisor(children, stop_s)
        self._probe = probe
        self._announcement = announcement
        self._events: asyncio.Queue[supervisor.Event] = asyncio.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._probing: asyncio.Task[None] | None = None
        self._exit_code: int | None = None

    async def run(self) -> int:
        """Start, supervise and stop the children. Returns the exit code; no child runs afterwards."""
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
        """The next event, or None when the core's deadline passes first."""
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
                case supervisor.StopChild(name, order):
                    self._give(name, order)
                case supervisor.KillChild(name):
                    self._kill(name)
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
                bufsize=0,
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
        with suppress(RuntimeError):  # the loop is closed, so no task waits for this event
            loop.call_soon_threadsafe(self._events.put_nowait, supervisor.ChildEnded(name, returncode))

    def _forget(self, name: str) -> None:
        """Remove a child that ended, and kill the processes that it left running."""
        process = self._processes.pop(name, None)
        if process is not None:
            _kill_group(process)
            _close_stdin(process)

    def _give(self, name: str, order: Order) -> None:
        """Write the order to a child's stdin. A child that has just ended cannot read it."""
        if (process := self._processes.get(name)) is not None:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(order.line())

    def _kill(self, name: str) -> None:
        if (process := self._processes.get(name)) is not None:
            _kill_group(process)

    def _clean_up(self) -> None:
        """Kill the children that still run: there are some only after an error here, or if a child cannot be killed."""
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
