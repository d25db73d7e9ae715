"""The commands `asr client` and `asr warmup`: one session in any dialect, and its figures.

They accept the flags of the sample clients of the five systems. This module contains nothing about the protocol of
any dialect.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from asr_audio.files import AudioFile
from asr_client.dialects import DIALECTS, Dialect
from asr_client.errors import ConnectionFailed, InvalidUrl
from asr_client.figures import Figures, Run, figures
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Float32, from_float32
from asr_proto.errors import AsrError, AudioError, SetupError

SERVER = "127.0.0.1:8000"
SPEED_MIN, SPEED_MAX = 1.0, 10.0
TONE_S = 3.0
TONES_HZ = (180.0, 310.0)
TEXT_SHOWN = 60
"""Longest text shown without --full-text, in characters."""
EXIT_SERVICE_FAILED, EXIT_UNUSABLE, EXIT_NO_SERVER, EXIT_INTERRUPTED = 1, 2, 3, 130
ROWS = (
    ("Wall", "wall_s", "s"),
    ("Audio", "audio_s", "s"),
    ("RTF", "rtf", ""),
    ("xRT", "xrt", "x"),
    ("Time to first word", "ttfw_s", "s"),
    ("Partials", "partials", ""),
    ("Average partial gap", "avg_partial_gap_ms", "ms"),
    ("Sending", "send_duration_s", "s"),
    ("Finalize", "finalize_ms", "ms"),
    ("Delta to audio", "delta_to_audio_ms", "ms"),
)
DECIMALS = {"s": 3, "ms": 1, "x": 2, "": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The validated options of `asr client` and `asr warmup`."""

    server: str
    url: str | None
    secure: bool
    dialect: Dialect
    path: str | None
    model: str | None
    api_key: str | None
    file: Path | None
    speed: float
    frame_ms: int
    full_text: bool
    print_partials: bool
    debug: bool
    as_json: bool

    def address(self) -> str:
        """The URL to connect to in this dialect. Raises InvalidUrl."""
        return self.dialect.url(self.url or self.server, secure=self.secure, path=self.path, model=self.model)


def _speed(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Raise a speed below real time to real time; reject one above SPEED_MAX. The Yap scripts do the same."""
    if math.isnan(value) or value > SPEED_MAX:
        raise click.BadParameter(f"at most {SPEED_MAX:g} times real time")
    return max(SPEED_MIN, value)


def _options(speed: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of both commands; `speed` is the default of --rtf."""
    decorators = [
        click.option("--server", metavar="HOST:PORT", default=SERVER, help="Address of the service."),
        click.option(
            "--url", envvar="ASR_URL", show_envvar=True, help="URL of the service, instead of --server; path optional."
        ),
        click.option("--secure", is_flag=True, help="Connect with TLS."),
        click.option("--dialect", type=click.Choice(list(DIALECTS)), default="native", help="Protocol to use."),
        click.option("--path", metavar="/PATH", help="Path of the dialect.  [default: the dialect's usual path]"),
        click.option("--model", help="Request this model, if the dialect supports it."),
        click.option(
            "--api-key", envvar="ASR_API_KEY", show_envvar=True, help="API key, for a service that requires one."
        ),
        click.option(
            "--rtf",
            "speed",
            type=float,
            default=speed,
            callback=_speed,
            metavar="SPEED",
            help=f"How fast to send, relative to real time: 1 to {SPEED_MAX:g}.",
        ),
        click.option(
            "--frame-ms", type=click.IntRange(10, 1000), default=20, metavar="MS", help="Length of a frame, in ms."
        ),
        click.option("--full-text", is_flag=True, help=f"Show the whole text, not only {TEXT_SHOWN} characters."),
        click.option("--print-partials", is_flag=True, help="Show the text whenever it changes."),
        click.option("--debug", is_flag=True, help="Write the events of the session with their times to stderr."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


CONTEXT = {"show_default": True, "max_content_width": 100}


@click.command(context_settings=CONTEXT)
@click.option("--file", type=click.Path(path_type=Path), required=True, help="WAV, FLAC, MP3 or Ogg; any sample rate.")
@_options(speed=1.0)
def client(**options: Any) -> None:
    """Send an audio file to a running service, in any dialect, and print the text and the session's figures.

    \b
    Examples:
      asr client --file talk.wav
      asr client --dialect caiman --server 127.0.0.1:3030 --file talk.wav --full-text
      asr client --dialect parakeet --url ws://127.0.0.1:8000/ws --file talk.wav --print-partials

    \b
    Exit codes:
      0  the text is complete
      1  the service failed or rejected the session
      2  wrong usage, or a file that cannot be read
      3  no server answers
    """
    sys.exit(_main("asr client", **options))


@click.command(context_settings=CONTEXT)
@click.option("--file", type=click.Path(path_type=Path), help="Send this file.  [default: a tone of 3 s]")
@_options(speed=10.0)
def warmup(**options: Any) -> None:
    """Warm up a running service and check that it answers: `asr client` at ten times real time.

    Without a file a tone is sent; an empty text counts as success. Exit codes are those of `asr client`.
    """
    sys.exit(_main("asr warmup", **options))


def _main(command: str, *, dialect: str, **given: Any) -> int:
    """Run one session and print it. Returns the exit code."""
    options = ClientOptions(dialect=DIALECTS[dialect], **given)
    try:
        run = asyncio.run(_run_session(options))
    except ConnectionFailed as error:
        click.echo(f"{command}: {error.detail}; start one with 'make serve' or 'asr serve'", err=True)
        return EXIT_NO_SERVER
    except AsrError as error:
        click.echo(f"{command}: {error.detail or error}", err=True)
        return EXIT_UNUSABLE if isinstance(error, AudioError | InvalidUrl | SetupError) else EXIT_SERVICE_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _show(run, options)
    return 0


async def _run_session(options: ClientOptions) -> Run:
    url = options.address()
    frames = _frames(options.file, options.dialect.frame_ms(options.frame_ms, options.speed))
    if options.debug:
        click.echo(f"{url}: {options.dialect.name}, {len(frames)} frames", err=True)

    def on_text(text: str) -> None:
        if options.print_partials:
            click.echo(text, err=options.as_json)

    return await options.dialect.speak(
        url, frames, options.speed, on_text, model=options.model, api_key=options.api_key
    )


# ---- Audio ----


def _frames(path: Path | None, frame_ms: int) -> list[bytes]:
    """All frames, decoded before the session starts so that decoding is not measured. Raises AudioError."""
    if path is None:
        return cut(from_float32(tone(TONE_S)).tobytes(), frame_ms)
    try:
        with AudioFile(path) as audio:
            return list(audio.frames(frame_ms))
    except AudioError as error:
        raise AudioError(f"{path}: {error.detail}") from error


def tone(duration_s: float) -> Float32:
    """Two sine tones in the range of a voice: float32 [samples] at 16 kHz."""
    times = np.arange(int(duration_s * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    waves = [np.sin(2 * np.pi * hertz * times) for hertz in TONES_HZ]
    mixed: Float32 = (0.2 * np.sum(waves, axis=0)).astype(np.float32)
    return mixed


def cut(pcm: bytes, frame_ms: int) -> list[bytes]:
    """Split PCM16LE into frames of `frame_ms`; the last frame may be shorter."""
    size = SAMPLE_RATE * frame_ms // 1000 * BYTES_PER_SAMPLE
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


# ---- Output ----


def _show(run: Run, options: ClientOptions) -> None:
    if options.debug:
        for line in _timeline(run):
            click.echo(line, err=True)
    found = figures(run)
    if options.as_json:
        click.echo(json.dumps({"text": run.text, **_rounded(found)}, ensure_ascii=False))
        return
    click.echo(f"Text: {run.text if options.full_text else shortened(run.text)}")
    for name, field, unit in ROWS:
        click.echo(f"{name:<20} {_shown(getattr(found, field), unit)}")


def _timeline(run: Run) -> list[str]:
    events = [
        (run.connected_s, "connected"),
        (run.first_audio_s, "first audio sent"),
        (run.last_audio_s, "last audio sent"),
        *((said.at_s, f"text: {said.text}") for said in run.said),
        (run.final_s, "complete"),
    ]
    return [f"{at_s:8.3f} s  {what}" for at_s, what in sorted(events, key=lambda event: event[0])]


def _rounded(found: Figures) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in asdict(found).items()}


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    number = str(value) if isinstance(value, int) else f"{value:.{DECIMALS[unit]}f}"
    return f"{number} {unit}".rstrip()


def shortened(text: str) -> str:
    """The last TEXT_SHOWN characters, which are the newest."""
    return text if len(text) <= TEXT_SHOWN else f"...{text[-TEXT_SHOWN:]}"
