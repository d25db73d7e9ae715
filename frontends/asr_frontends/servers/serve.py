"""Runs the application on its sockets with uvicorn until a signal, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from asr_frontends.access import Gate, Rules
from asr_frontends.dialect import Settings
from asr_frontends.frontend import Frontend
from asr_frontends.servers.app import App
from asr_frontends.servers.keyfile import POLL_S, KeyFile
from asr_frontends.servers.protocols import Http
from asr_frontends.servers.websocket import WebSocket
from asr_frontends.session import Limits
from asr_process import garbage
from asr_process.curve import BrokerAt
from asr_process.notify import Unit
from asr_process.stop_signals import SIGNALS, StopSignals
from asr_process.stopping import Order
from asr_process.supervised import Supervised
from asr_proto.errors import SetupError, cannot_listen

log = structlog.get_logger()

SEND_BUFFER_BYTES = 65_536
"""Send buffer of a client's socket: small, so that the frontend soon notices a client that does not read."""
BACKLOG = 2048
LAST_REQUESTS_S = 5
"""Longest wait, after the sessions are drained, for clients that still read, and for running requests."""
UNREAD_MS_MAX = 10_000
"""The kernel closes a connection whose client reads nothing for this long: no close frame would reach the client."""
CAIMAN_PORT = 3030
"""The port of CAIMAN-ASR's server, whose clients wait for its start line on stdout."""
REGISTERED_S_MAX = 5.0
"""Longest wait for a broker before a frontend with shared ports listens."""
REGISTERED_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """The settings of one frontend."""

    brokers: tuple[BrokerAt, ...]
    """The broker's endpoint for frontends; several where brokers share the pool."""
    name: str
    listen: tuple[str, ...]
    """Addresses to listen on, HOST:PORT each."""
    limits: Limits
    reuse_port: bool = False
    """Whether the ports are shared with other frontends."""
    message_bytes_max: int = 1_048_576
    """Largest message of a client, in bytes."""
    journal_bytes_max: int = 1_073_741_824
    """Largest amount of unconfirmed audio of all sessions together, in bytes."""
    drain_s: float = 20.0
    """Longest time to serve open sessions after SIGTERM, in seconds."""
    keys: Path | None = None
    """The file of API keys; None admits clients without a key."""
    origins: frozenset[str] = frozenset()
    """Allowed browser origins; empty allows all."""
    sessions_per_key_max: int = 0
    """Largest number of concurrent sessions of one key; 0 for no limit."""
    sessions_per_address_max: int = 0
    """Largest number of concurrent sessions of one client address; 0 for no limit."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); None serves without TLS."""
    tls_key: Path | None = None
    """The certificate's private key; None if it is in the certificate's file."""
    dialects: Settings = field(default_factory=dict)
    """The options of the dialects, by name."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: `serve` handles the signals and drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: Any, message_bytes_max: int, tls_cert: Path | None = None, tls_key: Path | None = None) -> Server:
    """A uvicorn server with the settings that every frontend uses."""
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http=Http,
            ws=WebSocket,
            ws_max_size=message_bytes_max,
            # No pings: the answer of a client that is not read from would not be read. The session has an idle limit.
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            lifespan="off",
            timeout_graceful_shutdown=LAST_REQUESTS_S,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
    )


class _Stop:
    """Why and when this process stops: by a signal alone, or with its whole pool by an order."""

    def __init__(self, supervised: Supervised) -> None:
        self._loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[None] = self._loop.create_future()
        """Done after the first signal, and after an order."""
        self.ordered: asyncio.Future[Order] = self._loop.create_future()
        handler = StopSignals(self._ask)
        for number in SIGNALS:
            self._loop.add_signal_handler(number, handler, number)
        supervised.serve(self._hand_over)

    def _hand_over(self, order: Order) -> None:
        """Called in the thread that reads the supervisor's orders."""
        self._loop.call_soon_threadsafe(self._obey, order)

    def _obey(self, order: Order) -> None:
        self.ordered.set_result(order)
        self._ask()

    def _ask(self) -> None:
        if not self.asked.done():
            self.asked.set_result(None)

    async def end_sessions(self, frontend: Frontend, drain_s: float) -> None:
        """Drain, for at most `drain_s`; when the whole pool stops, before or meanwhile, stop with it."""
        if not self.ordered.done():
            draining = asyncio.ensure_future(frontend.drain(drain_s))
            await asyncio.wait((draining, self.ordered), return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
        if self.ordered.done():
            await frontend.stop(self.ordered.result().drain_s)


async def serve(config: FrontendConfig, supervised: Supervised) -> None:
    """Serve until SIGTERM, SIGINT or the supervisor's order. Raises SetupError when it cannot start."""
    _check_tls(config)
    keyfile = KeyFile(config.keys) if config.keys else None
    gate = Gate(_rules(config, keyfile))
    frontend = Frontend(config.brokers, config.name, config.limits, config.journal_bytes_max)
    if config.reuse_port:
        await _registered(frontend)  # until then, other frontends on the port can serve clients and this one cannot
    sockets = [listen(address, reuse_port=config.reuse_port) for address in config.listen]
    app = App(frontend, gate, config.dialects)
    server = make_server(app, config.message_bytes_max, config.tls_cert, config.tls_key)
    stop = _Stop(supervised)
    garbage.settle()
    serving = asyncio.create_task(server.serve(sockets))
    watching = asyncio.create_task(_watch(config, keyfile, gate))
    _announce(sockets)
    unit = Unit()
    unit.ready(f"listening on {', '.join(config.listen)}")
    feeding = asyncio.create_task(_feed(unit))
    await asyncio.wait((stop.asked, serving), return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    log.info("draining", sessions=len(frontend.sessions))
    unit.stopping(f"draining {len(frontend.sessions)} sessions")
    if config.reuse_port:
        # The other frontends on the port accept new clients. A frontend alone on its port keeps listening, and answers
        # new clients with `going-away`.
        for listener in server.servers:
            listener.close()
    await stop.end_sessions(frontend, config.drain_s)
    feeding.cancel()
    if stop.ordered.done():
        server.config.timeout_graceful_shutdown = min(LAST_REQUESTS_S, int(stop.ordered.result().end_s / 2))
    server.should_exit = True
    await serving
    await app.close()
    frontend.close()


async def _registered(frontend: Frontend) -> None:
    """Wait for a registration at a broker. After REGISTERED_S_MAX, serve without: clients then receive `no-broker`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REGISTERED_S_MAX):
            while not frontend.connected():
                await asyncio.sleep(REGISTERED_POLL_S)


def _rules(config: FrontendConfig, keyfile: KeyFile | None) -> Rules:
    keys = keyfile.keys if keyfile else None
    return Rules(keys, config.origins, config.sessions_per_key_max, config.sessions_per_address_max)


async def _watch(config: FrontendConfig, keyfile: KeyFile | None, gate: Gate) -> None:
    while keyfile:
        await asyncio.sleep(POLL_S)
        if keyfile.poll():
            gate.rules = _rules(config, keyfile)


async def _feed(unit: Unit) -> None:
    """Feed systemd's watchdog as long as the loop runs."""
    while unit.feed_at < math.inf:
        unit.feed(time.monotonic())
        await asyncio.sleep(max(0.0, unit.feed_at - time.monotonic()))


def _check_tls(config: FrontendConfig) -> None:
    if config.tls_key and not config.tls_cert:
        raise SetupError("a TLS key needs its certificate: name both")
    if config.tls_cert:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(f"cannot use the TLS certificate {config.tls_cert}: {error}") from error


def listen(address: str, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket for HOST:PORT; port 0 takes a free one. Raises SetupError."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS_MAX)
        listener.bind((host.strip("[]") or "127.0.0.1", int(port)))
        listener.listen(BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise cannot_listen(repr(address), error) from error
    listener.setblocking(False)
    return listener


def _announce(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        host, port = listener.getsockname()[:2]
        log.info("listening", host=host, port=port)
        if port == CAIMAN_PORT:
            print(f"Server started on port {port}", flush=True)
