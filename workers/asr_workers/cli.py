"""The command `asr-worker`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from asr_proto import curve, settings
from asr_proto.supervised import watch_parent
from asr_workers.engines import registry
from asr_workers.worker import Worker, WorkerConfig, signals


def _list_engines(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    for name, entry in registry.ENGINES.items():
        missing = entry.missing()
        click.echo(f"{name:<12} {'usable' if missing is None else 'not usable: ' + missing}")
        click.echo(f"{'':<12} {entry.summary}; devices: {', '.join(entry.devices)}")
    ctx.exit()


@settings.command("asr-worker")
@click.option("--engine", default="moonshine", help="Which engine recognises; see --list-engines.")
@click.option("--device", default="cpu", metavar="cpu|cuda:N|card:N", help="The one device this worker owns.")
@click.option(
    "--list-engines",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_engines,
    help="Say which engines are usable here and what the others lack, then exit.",
)
@click.option("--name", help="Name in `asr status` and metrics.  [default: HOST-PID]")
@click.option(
    "--broker",
    type=settings.ENDPOINT,
    multiple=True,
    help="The broker's side for workers; repeatable, for brokers that share the pool.  "
    "[default: ipc://RUN_DIR/workers.ipc]",
)
@settings.link_options
@click.option("--slots", type=click.IntRange(min=1), help="Sessions served at once.  [default: the engine's]")
@click.option(
    "--update-ms",
    type=click.IntRange(min=50),
    help="How often a speaker's partial is renewed; rarer when the worker cannot keep up.  [default: 500]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one step.  [default: 1]")
@click.option("--step-ms", type=click.FloatRange(min=0), help="Pretended cost of a step (engine fake).  [default: 0]")
@click.option("--chunk-ms", type=click.FloatRange(min=0), help="And of each chunk in it (engine fake).  [default: 0]")
@click.option("--metrics", type=settings.ADDRESS, help="Serve Prometheus metrics on HOST:PORT.")
@click.option(
    "--drain-s",
    type=click.FloatRange(min=0),
    default=30.0,
    help="Longest time sessions may take to end after SIGTERM; a second SIGTERM ends at once.",
)
def main(
    run_dir: Path,
    engine: str,
    device: str,
    name: str | None,
    broker: tuple[str, ...],
    curve_key: Path | None,
    curve_server_key: Path | None,
    insecure: bool,
    slots: int | None,
    update_ms: int | None,
    threads: int | None,
    step_ms: float | None,
    chunk_ms: float | None,
    metrics: settings.Address | None,
    drain_s: float,
) -> None:
    """Recognise speech on one device for all sessions the broker pins here.

    Start one worker per GPU, FPGA card or CPU share. It loads its engine, registers with the broker and serves until
    SIGTERM, then finishes the sessions it holds.
    """
    endpoints = broker or (settings.workers_endpoint(run_dir),)
    config = WorkerConfig(
        brokers=curve.brokers_at(endpoints, curve_key, curve_server_key, insecure=insecure),
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        metrics=str(metrics) if metrics else None,
        drain_s=drain_s,
    )
    wanted = registry.EngineSettings(device, slots, update_ms, threads, step_ms, chunk_ms)
    worker = Worker(config, registry.load(engine, wanted))
    with signals(worker):
        watch_parent(worker.stop)
        try:
            worker.run()
        finally:
            worker.close()


if __name__ == "__main__":
    main()
