"""Compares this project's Moonshine engine with moonshine-voice's own streaming: CPU time per second of a stream.

python ops/bench/peers/moonshine_voice/run.py [FOLDER] --rounds 3 --json peer.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path

import child
import click
import side
import speech
from rich.console import Console

from asr_proto.audio import Pcm16
from asr_proto.errors import AsrError

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"MOONSHINE_ORT_SINGLE_THREAD": "1", "OMP_NUM_THREADS": "1"}
Costs = dict[str, list[side.Cost]]


@click.command(context_settings={"show_default": True})
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rounds", type=click.IntRange(1), default=3, metavar="N", help="Number of runs of each side.")
@click.option("--seconds", type=click.FloatRange(10), default=80.0, metavar="S", help="Use at most S s of speech.")
@click.option("--slots", type=click.IntRange(1), default=8, metavar="N", help="Sessions of our engine.")
@click.option("--service/--no-service", default=True, help="Also measure `asr serve`, in real time.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to a file."
)
def main(
    *, folder: Path | None, rounds: int, seconds: float, slots: int, service: bool, json_file: Path | None
) -> None:
    """Measure both sides on the same speech, in turn. FOLDER has a manifest.jsonl and clips."""
    try:
        samples = speech.ring(speech.paths(folder), seconds)
    except AsrError as error:
        raise click.ClickException(error.detail) from error
    costs: Costs = {}
    with tempfile.TemporaryDirectory(prefix="asr-peer-") as work:
        wav = Path(work, "speech.wav")
        write(wav, samples)
        for number in range(1, rounds + 1):
            click.echo(f"round {number} of {rounds}", err=True)
            _round(costs, wav, slots, service)
    found = side.rows(costs)
    Console().print(side.table(found))
    click.echo(side.verdict(found))
    if json_file is not None:
        json_file.write_text(json.dumps(side.as_json(found, costs), indent=1) + "\n", encoding="utf-8")


def write(wav: Path, samples: Pcm16) -> None:
    """Write the samples to a WAV file for the measured processes."""
    with wave.open(str(wav), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(child.RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def _round(costs: Costs, wav: Path, slots: int, service: bool) -> None:
    share = str(min(1.0, 2 / slots))  # all slots together get the speech twice
    _add(costs, side.PEER, _cost("theirs.py", str(wav), "audio"))
    _add(costs, side.ENGINE, _cost("ours.py", str(wav), str(slots), share))
    _add(costs, side.PEER_LEAN, _cost("theirs.py", str(wav), "lean"))
    if service:
        worker, everything = _service(wav, slots)
        _add(costs, side.WORKER, worker)
        _add(costs, side.SERVICE, everything)


def _add(costs: Costs, name: str, cost: side.Cost) -> None:
    costs.setdefault(name, []).append(cost)


def _cost(program: str, *arguments: str) -> side.Cost:
    """The cost that a child process measures of itself, on one core."""
    printed = _output([sys.executable, str(HERE / program), *arguments], _on_one_core)
    return side.Cost(**json.loads(printed.splitlines()[-1]))


def _on_one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _service(wav: Path, slots: int) -> tuple[side.Cost, side.Cost]:
    figures = wav.with_name("bench.json")
    options = [f"--sessions={slots}", "--frame-ms=20", "--duration=20", f"--file={wav}", f"--json={figures}"]
    _output([str(Path(sys.executable).with_name("asr")), "bench", "--engine=moonshine", *options])
    return side.service_costs(json.loads(figures.read_text("utf-8")))


def _output(command: list[str], before: Callable[[], None] | None = None) -> str:
    done = subprocess.run(
        command, env=os.environ | ONE_THREAD, preexec_fn=before, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:3])} ended with {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
