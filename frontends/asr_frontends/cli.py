"""The command `asr-frontend`."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import click
import uvloop

from asr_frontends.servers import webrtc_extra
from asr_frontends.servers.amira import AmiraLimits
from asr_frontends.servers.serve import FrontendConfig, serve
from asr_frontends.session import Limits
from asr_process import curve, settings
from asr_process.supervised import watch_parent

DEFAULTS = Limits()


@settings.command("asr-frontend")
@click.option(
    "--listen",
    type=settings.ADDRESS,
    multiple=True,
    default=("127.0.0.1:8000",),
    help="Where clients connect, HOST:PORT; repeatable. Every dialect is served on each.",
)
@click.option(
    "--reuse-port",
    is_flag=True,
    help="Share the ports with other frontends that say so too: the system spreads the clients. "
    "Limits count in each process by itself.",
)
@click.option("--name", help="Name in `asr status`.  [default: HOST-PID]")
@click.option(
    "--broker",
    type=settings.ENDPOINT,
    multiple=True,
    help="The broker's side for frontends; repeatable, for brokers that share the pool.  "
    "[default: ipc://RUN_DIR/frontends.ipc]",
)
@settings.link_options
@click.option(
    "--idle-s",
    type=click.FloatRange(min=0.1),
    default=DEFAULTS.idle_s,
    help="End a session whose client has sent nothing for this long.",
)
@click.option(
    "--credit-s",
    type=click.FloatRange(min=1),
    default=DEFAULTS.credit_s,
    help="Seconds of audio that a client may be ahead of the model before it is no longer read from.",
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
    help="Refuse a client that sends more messages in a second; 0 for no limit but its credit.",
)
@click.option(
    "--message-bytes-max",
    type=click.IntRange(min=1024, max=2_000_000),
    default=1_048_576,
    help="Largest message of a client.",
)
@click.option(
    "--journal-mb-max",
    type=click.IntRange(min=1),
    default=1024,
    help="Unconfirmed audio that all sessions of this process may hold together; beyond it clients wait.",
)
@click.option(
    "--drain-s",
    type=click.FloatRange(min=0),
    default=5.0,
    help="Longest time sessions may take to end after SIGTERM.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    help="Ask clients for an API key of this file (made with `asr key`); read again when it changes.",
)
@click.option(
    "--origin",
    multiple=True,
    help="Let browsers in from this origin only, and answer it with CORS headers; repeatable; * for all.",
)
@click.option("--sessions-per-key", type=click.IntRange(min=0), default=0, help="Largest number; 0 for no limit.")
@click.option("--sessions-per-address", type=click.IntRange(min=0), default=0, help="Largest number; 0 for no limit.")
@click.option("--webrtc-path", default=webrtc_extra.PATH, help="Where Moonshine's clients POST their WebRTC offer.")
@click.option("--amira-streams-max", type=click.IntRange(min=1), default=10, help="AMIRA streams at once.")
@click.option("--amira-batches-max", type=click.IntRange(min=1), default=50, help="AMIRA batches at once.")
@click.option("--amira-batch-s-max", type=click.FloatRange(min=1), default=30.0, help="Longest AMIRA batch.")
@click.option("--amira-request-bytes-max", type=click.IntRange(min=1024), default=10_485_760, help="Its largest body.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Serve TLS with this certificate chain (PEM).")
@click.option(
    "--tls-key", type=click.Path(path_type=Path), help="The certificate's private key, where it is a file of its own."
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
    webrtc_path: str,
    amira_streams_max: int,
    amira_batches_max: int,
    amira_batch_s_max: float,
    amira_request_bytes_max: int,
) -> None:
    """Speak the clients' dialects and turn them into sessions.

    Dialects are told apart by path: /v1/stream is the project's own, /asr/v0.1/stream CAIMAN-ASR's. GET /health, /ready
    and /metrics answer on the same ports.
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
        webrtc_path=webrtc_path,
        amira=AmiraLimits(amira_streams_max, amira_batches_max, amira_batch_s_max, amira_request_bytes_max),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        watch_parent()
        runner.run(serve(config))


if __name__ == "__main__":
    main()
