"""The command `asr-frontend`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import uvloop

from asr_frontends.dialects.registry import DIALECTS
from asr_frontends.servers.serve import FrontendConfig, serve
from asr_frontends.session import Limits
from asr_process import curve, settings
from asr_process.supervised import watch_parent

DEFAULTS = Limits()


def _dialect_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every dialect to a command."""
    for option in reversed([option for dialect in DIALECTS for option in dialect.options]):
        function = option(function)
    return function


@settings.command("asr-frontend")
@click.option(
    "--listen",
    type=settings.ADDRESS,
    multiple=True,
    default=("127.0.0.1:8000",),
    help="Address on which clients connect, HOST:PORT; repeatable. Every dialect is served on every address.",
)
@click.option(
    "--reuse-port",
    is_flag=True,
    help="Share the listening ports with other frontends that have this option too; the kernel distributes the "
    "clients. Every limit applies to each process separately.",
)
@click.option("--name", help="This frontend's name in `asr status`.  [default: HOST-PID]")
@click.option(
    "--broker",
    type=settings.ENDPOINT,
    multiple=True,
    help="The broker's endpoint for frontends; repeatable, for several brokers that share one pool.  "
    "[default: ipc://RUN_DIR/frontends.ipc]",
)
@settings.link_options
@click.option(
    "--idle-s",
    type=click.FloatRange(min=0.1),
    default=DEFAULTS.idle_s,
    help="End a session whose client has sent nothing for so many seconds.",
)
@click.option(
    "--credit-s",
    type=click.FloatRange(min=1),
    default=DEFAULTS.credit_s,
    help="Stop reading from a client whose audio is so many seconds ahead of the model.",
)
@click.option(
    "--session-s",
    type=click.FloatRange(min=1),
    default=DEFAULTS.audio_s,
    help="Longest session, in seconds of audio.",
)
@click.option(
    "--messages-per-s",
    type=click.IntRange(min=0),
    default=DEFAULTS.messages_per_s,
    help="End a session whose client sends more messages than this in a second; 0 for no limit.",
)
@click.option(
    "--message-bytes-max",
    type=click.IntRange(min=1024, max=2_000_000),
    default=1_048_576,
    help="Largest message that a client may send, in bytes.",
)
@click.option(
    "--journal-mb-max",
    type=click.IntRange(min=1),
    default=1024,
    help="Largest amount of unconfirmed audio that all sessions of this process hold together, in MiB. Above it, "
    "clients are not read from.",
)
@click.option(
    "--drain-s",
    type=click.FloatRange(min=0),
    default=20.0,
    help="Longest time to serve open sessions after SIGTERM, in seconds. The last 5 s of it, at most a half, are for "
    "the last texts of clients that are still sending.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    help="Require from clients an API key of this file (made with `asr key`). The file is read again when it changes.",
)
@click.option(
    "--origin",
    multiple=True,
    help="Accept browsers from this origin only, and answer them with CORS headers; repeatable; * for all origins.",
)
@click.option(
    "--sessions-per-key",
    type=click.IntRange(min=0),
    default=0,
    help="Largest number of concurrent sessions of one API key; 0 for no limit.",
)
@click.option(
    "--sessions-per-address",
    type=click.IntRange(min=0),
    default=0,
    help="Largest number of concurrent sessions of one client address; 0 for no limit.",
)
@_dialect_options
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Serve TLS with this certificate chain (PEM).")
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    help="The private key of the TLS certificate, if it is not in the certificate's file.",
)
def main(
    run_dir: Path,
    listen: tuple[settings.Address, ...],
    reuse_port: bool,
    name: str | None,
    broker: tuple[str, ...],
    curve_key: Path | None,
    curve_server_key: Path | None,
    insecure: bool,
    idle_s: float,
    credit_s: float,
    session_s: float,
    messages_per_s: int,
    message_bytes_max: int,
    journal_mb_max: int,
    drain_s: float,
    keys: Path | None,
    origin: tuple[str, ...],
    sessions_per_key: int,
    sessions_per_address: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    **of_dialects: Any,
) -> None:
    """Serve speech recognition to clients, in every dialect.

    The path of a request selects its dialect: /v1/stream is the project's own, /asr/v0.1/stream is CAIMAN-ASR's. GET
    /health, /ready and /metrics are served on the same ports.
    """
    endpoints = broker or (settings.frontends_endpoint(run_dir),)
    config = FrontendConfig(
        brokers=curve.brokers_at(endpoints, curve_key, curve_server_key, insecure=insecure),
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        listen=tuple(str(address) for address in listen),
        reuse_port=reuse_port,
        limits=Limits(idle_s=idle_s, credit_s=credit_s, audio_s=session_s, messages_per_s=messages_per_s),
        message_bytes_max=message_bytes_max,
        journal_bytes_max=journal_mb_max * 1_048_576,
        drain_s=drain_s,
        keys=keys,
        origins=frozenset(origin),
        sessions_per_key_max=sessions_per_key,
        sessions_per_address_max=sessions_per_address,
        tls_cert=tls_cert,
        tls_key=tls_key,
        dialects=of_dialects,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, watch_parent()))


if __name__ == "__main__":
    main()
