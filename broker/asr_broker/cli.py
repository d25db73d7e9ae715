"""The command `asr-broker`."""

from __future__ import annotations

from pathlib import Path

import click

from asr_broker.loop import Broker, BrokerConfig
from asr_broker.peers import Timing
from asr_process import curve, settings
from asr_process.stop_signals import stop_signals
from asr_process.supervised import watch_parent


@settings.command("asr-broker")
@click.option(
    "--frontends",
    type=settings.ENDPOINT,
    help="Endpoint to which frontends connect.  [default: ipc://RUN_DIR/frontends.ipc]",
)
@click.option(
    "--workers",
    type=settings.ENDPOINT,
    help="Endpoint to which workers connect.  [default: ipc://RUN_DIR/workers.ipc]",
)
@click.option(
    "--control",
    type=settings.LOCAL_ENDPOINT,
    help="Endpoint to which `asr status` connects.  [default: ipc://RUN_DIR/control.ipc]",
)
@click.option(
    "--curve-key",
    type=click.Path(path_type=Path),
    help="File with the broker's key pair for tcp endpoints (NAME.key_secret, made with `asr-keys new`). The broker "
    "reads it again when it changes.",
)
@click.option(
    "--curve-allow",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the public keys (*.key) of the workers and frontends that may connect by tcp. The broker reads "
    "it again when it changes.",
)
@settings.insecure_option
@click.option(
    "--shared-lead",
    is_flag=True,
    help="Share the pool with another broker: this broker leads only while most workers vote for it, and stands by "
    "otherwise. Workers and frontends need one --broker option for each of the two brokers.",
)
@click.option("--metrics", type=settings.ADDRESS, help="Serve Prometheus metrics on HOST:PORT.")
@click.option(
    "--lease-s",
    type=click.FloatRange(min=2.0),
    default=10.0,
    help="Free a session's slot when its frontend has not renewed it for this many seconds.",
)
@click.option(
    "--grace-s",
    type=click.FloatRange(min=0),
    default=Timing().grace_s,
    help="Seconds for which a session waits for its client after the client's connection broke. A new session may take "
    "the slot before that.",
)
def main(
    run_dir: Path,
    frontends: str | None,
    workers: str | None,
    control: str | None,
    curve_key: Path | None,
    curve_allow: Path | None,
    insecure: bool,
    shared_lead: bool,
    metrics: settings.Address | None,
    lease_s: float,
    grace_s: float,
) -> None:
    """Pin each session to a worker and forward messages between frontends and workers.

    One broker serves a pool: start it first, then any number of asr-worker (one per device) and asr-frontend, all with
    the same --run-dir. The broker stores nothing on disk and does not decode audio. For peers on other hosts, --workers
    and --frontends take tcp://HOST:PORT with --curve-key and --curve-allow.
    """
    config = BrokerConfig(
        frontends=frontends or settings.frontends_endpoint(run_dir),
        workers=workers or settings.workers_endpoint(run_dir),
        control=control or settings.control_endpoint(run_dir),
        keys=curve.broker_keys(curve_key, curve_allow),
        metrics=str(metrics) if metrics else None,
        timing=Timing(lease_s=lease_s, grace_s=grace_s),
        shared_lead=shared_lead,
    )
    for endpoint in (config.frontends, config.workers):
        options = "--curve-key and --curve-allow"
        curve.check_guarded(endpoint, keyed=config.keys is not None, insecure=insecure, options=options)
    broker = Broker(config)
    try:
        with stop_signals(broker.stop):
            watch_parent().serve(broker.obey)
            broker.run()
    finally:
        broker.close()


if __name__ == "__main__":
    main()
