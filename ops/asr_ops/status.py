"""`asr status` requests the state of a running pool from its broker's control socket. Prints tables or JSON.

It changes nothing in the pool. The broker sends one answer for each request.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import click
import zmq
from msgspec import structs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from asr_process import settings
from asr_proto import wire
from asr_proto.errors import AsrError, DecodeError
from asr_proto.messages import PROTOCOL_VERSION, Rejected, Spec, Status, StatusRequest, WorkerStatus

BROKERS_MAX = 2
NO_ANSWER = 3
"""Exit code when no broker answers."""


class NoAnswer(AsrError):
    """No broker answered, or the answer could not be decoded."""

    slug = "no-answer"


@click.command("asr status", cls=settings.Program)
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of tables.")
@click.option(
    "--watch",
    type=click.FloatRange(0.1),
    is_flag=False,
    flag_value=1.0,
    metavar="[SECONDS]",
    help="Refresh every SECONDS, by default every second. Ctrl+C ends it.",
)
@click.option(
    "--timeout-s", type=click.FloatRange(0), default=2.0, show_default=True, help="Longest wait for an answer, in s."
)
@click.pass_context
def status(ctx: click.Context, /, run_dir: Path, *, as_json: bool, watch: float | None, timeout_s: float) -> None:
    """Show the workers, frontends and sessions of a running pool.

    Exit code 3 means that no broker answers. If two brokers share the pool, the leader is printed first.

    \b
        asr status
        asr status --watch            refreshes once a second
        asr status --json | jq .workers
    """
    try:
        if watch is not None and not as_json:
            _watch(run_dir, watch, timeout_s)
        _print(ask_all(run_dir, timeout_s), as_json=as_json)
        while watch is not None:
            time.sleep(watch)
            _print(ask_all(run_dir, timeout_s), as_json=as_json)
    except NoAnswer as error:
        click.echo(f"asr status: {error}", err=True)
        ctx.exit(NO_ANSWER)


def listening(run_dir: Path) -> list[str]:
    """The control endpoints in `run_dir` at which a broker listens."""
    endpoints = [settings.control_endpoint(run_dir, number) for number in range(1, BROKERS_MAX + 1)]
    return [endpoint for endpoint in endpoints if _listens(endpoint.removeprefix("ipc://"))]


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def ask_all(run_dir: Path, timeout_s: float) -> list[Status]:
    """The answers of all brokers of the pool, the leader's first. Raises NoAnswer if no broker answers."""
    answers, failure = [], None
    for endpoint in listening(run_dir) or [settings.control_endpoint(run_dir)]:
        try:
            answers.append(ask(endpoint, timeout_s))
        except NoAnswer as error:
            failure = error
    if failure and not answers:
        raise failure
    return sorted(answers, key=lambda answer: not answer.leads)


def ask(endpoint: str, timeout_s: float) -> Status:
    """The broker's answer to one StatusRequest.

    Raises NoAnswer if none arrives within `timeout_s`, or if it is not a Status.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        dealer.send_multipart([wire.encode_hello("asr status"), wire.encode(StatusRequest(PROTOCOL_VERSION))])
        if not dealer.poll(int(timeout_s * 1000)):
            raise NoAnswer(f"no broker answers at {endpoint}: is `asr serve` running, with the same --run-dir?")
        return _decoded(dealer.recv_multipart()[-1], endpoint)


def _decoded(data: bytes, endpoint: str) -> Status:
    try:
        answer = wire.decode(data)
    except DecodeError as error:
        raise NoAnswer(f"the broker at {endpoint} has another protocol version: {error}") from error
    if isinstance(answer, Status):
        return answer
    reason = answer.detail if isinstance(answer, Rejected) else type(answer).__name__
    raise NoAnswer(f"the broker at {endpoint} rejected the request: {reason}")


def _print(answers: Sequence[Status], *, as_json: bool) -> None:
    if as_json:
        for answer in answers:
            click.echo(json.dumps(answer, default=structs.asdict))
    else:
        Console().print(tables(*answers))


def _watch(run_dir: Path, every_s: float, timeout_s: float) -> None:
    """Refresh the view until Ctrl+C. While no broker answers, the view shows why, and requests go on."""
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            try:
                view = tables(*ask_all(run_dir, timeout_s))
            except NoAnswer as error:
                view = str(error)
            live.update(view, refresh=True)
            time.sleep(every_s)


# ---- Tables ----


def tables(answer: Status, *standbys: Status) -> RenderableType:
    """The pool as tables: workers, frontends, totals, and a line for each standby broker."""
    view = [_workers(answer), "", _frontends(answer), "", _totals(answer)]
    if not answer.leads:
        view.insert(0, "No broker leads: sessions are refused until most workers vote for one.\n")
    return Group(*view, *map(_standby, standbys))


def _standby(answer: Status) -> str:
    known = f"{len(answer.workers)} workers and {len(answer.frontends)} frontends"
    return f"a standby broker is up {_duration(answer.uptime_s)} with {known} registered"


def _workers(answer: Status) -> RenderableType:
    if not answer.workers:
        return "No worker is registered: sessions are refused until one registers."
    table = _table("worker", "model", "device")
    for heading in ("sessions", "RTF", "step ms\np50 / p99", "busy", "waiting\nchunks"):
        table.add_column(heading, justify="right", no_wrap=True)
    for worker in sorted(answer.workers, key=lambda one: one.name):
        table.add_row(*_row(worker))
    return table


def _table(name: str, *headings: str) -> Table:
    """A table whose texts wrap in a narrow terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(name, no_wrap=True)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _row(worker: WorkerStatus) -> list[str]:
    spec, load = worker.spec, worker.load
    return [
        f"{worker.name}\ndraining" if worker.draining else worker.name,
        _model(spec),
        spec.device,
        f"{worker.sessions}/{spec.slots}",
        f"{load.real_time_factor:.3f}",
        f"{load.step_ms_p50:.3g} / {load.step_ms_p99:.3g}",
        f"{load.busy:.0%}",
        str(load.pending_chunks),
    ]


def _model(spec: Spec) -> str:
    """The model's name, then the weights' checksum and license, then the encode factor if it is above 1."""
    weights = ", ".join(filter(None, (spec.checksum, spec.license)))
    factor = f"encodes {spec.encode_factor:.1f} times" if spec.encode_factor > 1 else ""
    return "\n".join(filter(None, (spec.model, weights, factor)))


def _frontends(answer: Status) -> RenderableType:
    if not answer.frontends:
        return "No frontend is registered: clients cannot connect until one registers."
    table = _table("frontend")
    table.add_column("sessions", justify="right")
    for frontend in sorted(answer.frontends, key=lambda one: one.name):
        table.add_row(frontend.name, str(frontend.sessions))
    return table


def _totals(answer: Status) -> str:
    sessions = sum(worker.sessions for worker in answer.workers)
    slots = sum(worker.spec.slots for worker in answer.workers)
    return (
        f"{sessions} of {slots} slots taken · up {_duration(answer.uptime_s)} · since then {answer.sessions_total} "
        f"sessions, {answer.refused_total} refused, {answer.lost_total} lost"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
