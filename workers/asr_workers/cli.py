"""The command `asr-worker`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import click
import structlog

from asr_process import curve, settings
from asr_process.notify import Unit
from asr_process.stop_signals import stop_signals
from asr_process.supervised import watch_parent
from asr_workers.engine_options import IGNORED, EngineProcess
from asr_workers.engines import registry
from asr_workers.worker import Worker, WorkerConfig

log = structlog.get_logger()


def _list_engines(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    for name in registry.ENGINES:
        entry = registry.find(name)
        missing = entry.missing()
        click.echo(f"{name:<12} {'usable' if missing is None else 'not usable: ' + missing}")
        click.echo(f"{'':<12} {entry.summary}; devices: {', '.join(entry.devices)}")
    ctx.exit()


@click.command("asr-worker", cls=EngineProcess)
@click.option(
    "--engine", default=registry.DEFAULT, help="Engine that recognizes speech: one that --list-engines shows."
)
@click.option(
    "--list-engines",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_engines,
    help="List the engines, whether each can be used on this machine, and which packages it lacks; then exit.",
)
@click.option("--name", help="Name of this worker in `asr status` and metrics.  [default: HOST-PID]")
@click.option(
    "--broker",
    type=settings.ENDPOINT,
    multiple=True,
    help="Endpoint at which a broker accepts workers. Repeat the option for each broker that shares the pool.  "
    "[default: ipc://RUN_DIR/workers.ipc]",
)
@settings.link_options
@click.option("--metrics", type=settings.ADDRESS, help="Serve Prometheus metrics on HOST:PORT.")
@click.option(
    "--drain-s",
    type=click.FloatRange(min=0),
    default=30.0,
    help="Seconds for which sessions may continue after SIGTERM. Another SIGTERM at least 2 s later ends the worker "
    "immediately.",
)
def main(
    run_dir: Path,
    engine: str,
    name: str | None,
    broker: tuple[str, ...],
    curve_key: Path | None,
    curve_server_key: Path | None,
    insecure: bool,
    metrics: settings.Address | None,
    drain_s: float,
    **engine_options: Any,
) -> None:
    """Recognize speech on one device, for the sessions that the broker pins to this worker.

    Start one worker for each GPU, FPGA card or share of the CPU. It loads its engine and registers with the broker. It
    serves until SIGTERM, then finishes its sessions and ends.
    """
    endpoints = broker or (settings.workers_endpoint(run_dir),)
    config = WorkerConfig(
        brokers=curve.brokers_at(endpoints, curve_key, curve_server_key, insecure=insecure),
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        metrics=str(metrics) if metrics else None,
        drain_s=drain_s,
    )
    ignored = click.get_current_context().meta[IGNORED]
    if ignored:
        log.info("settings of other engines are ignored", engine=engine, settings=ignored)
    supervised = watch_parent()
    Unit().status(f"loading {engine}")
    worker = Worker(config, registry.load(engine, **engine_options))
    with stop_signals(worker.stop):
        supervised.serve(worker.obey)
        try:
            worker.run()
        finally:
            worker.close()


if __name__ == "__main__":
    main()
