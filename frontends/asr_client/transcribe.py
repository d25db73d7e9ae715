"""The command `asr transcribe`: turns sound files or the microphone into text, with a running service.

It is also the example of a client: it uses only the public parts of this package. This module handles options, exit
codes and error messages.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from asr_audio.files import AudioFile
from asr_client.display import Display, Source, SourceDone, SourceFailed, choose
from asr_client.errors import ConnectionFailed, InvalidUrl, ServerError
from asr_client.events import Ack, Event
from asr_client.microphone import Microphone
from asr_client.session import connect, stream_url
from asr_client.upload import paced, upload
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError, AudioError

COMMAND = "asr transcribe"
EXIT_SERVICE_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_NO_SERVER = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class TranscribeSettings:
    """The validated options of `asr transcribe`."""

    url: str
    api_key: str | None
    speed: float
    frame_ms: int
    model: str | None
    language: str | None
    partials: bool
    concurrency: int


def _check_url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return stream_url(value)
    except InvalidUrl as error:
        raise click.BadParameter(error.detail) from error


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--url",
    envvar="ASR_URL",
    show_envvar=True,
    default="ws://127.0.0.1:8000",
    callback=_check_url,
    help="URL of the service. The default path is /v1/stream.",
)
@click.option("--api-key", envvar="ASR_API_KEY", show_envvar=True, help="API key, for a service that requires one.")
@click.option("--mic", is_flag=True, help="Transcribe the microphone until Ctrl+C. Needs the extra 'mic'.")
@click.option("--model", help="Request this model instead of the service's default one.")
@click.option("--language", help="Language of the audio, such as en.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each file, with times.")
@click.option("--no-partials", is_flag=True, help="Request finished utterances only.")
@click.option(
    "--rtf",
    "speed",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SPEED",
    help="How fast to send files, relative to real time: 1 is real time, 2 is twice as fast, 0 is as fast as possible.",
)
@click.option(
    "--frame-ms", type=click.IntRange(10, 1000), default=100, metavar="MS", help="Milliseconds of audio in one frame."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=1, metavar="N", help="Files to send at the same time."
)
def transcribe(
    *,
    files: tuple[Path, ...],
    url: str,
    api_key: str | None,
    mic: bool,
    model: str | None,
    language: str | None,
    as_json: bool,
    no_partials: bool,
    speed: float,
    frame_ms: int,
    concurrency: int,
) -> None:
    """Transcribe sound files, or the microphone, with a running service.

    FILE is WAV, FLAC, MP3 or Ogg, of any sample rate and number of channels. The text goes to stdout: one line for
    each utterance, or "FILE: text" for several files. On a terminal the words appear while they are recognized.

    \b
    Examples:
      asr transcribe talk.mp3
      asr transcribe --json *.wav > talks.jsonl
      asr transcribe --rtf 1 talk.wav               in real time
      asr transcribe --url ws://speech.example:8000 talk.flac
      asr transcribe --mic

    \b
    Exit codes:
      0  everything was transcribed
      1  the service failed or rejected a session
      2  wrong usage, or a file that cannot be read (the other files are transcribed)
      3  no server answers
    """
    if mic == bool(files):
        raise click.UsageError("Give sound files or --mic, one of the two.")
    settings = TranscribeSettings(url, api_key, speed, frame_ms, model, language, not no_partials, concurrency)
    display = choose(as_json, len(files))
    try:
        with display:
            code = asyncio.run(_record(settings, display) if mic else _transcribe_files(files, settings, display))
    except ConnectionFailed as error:
        click.echo(f"{COMMAND}: {error.detail}; start one with 'make serve' or 'asr serve'", err=True)
        code = EXIT_NO_SERVER
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


async def _transcribe_files(files: Sequence[Path], settings: TranscribeSettings, display: Display) -> int:
    """Returns the exit code: a failure of the service takes precedence over a file that cannot be read."""
    waiting = iter(files)
    outcomes: list[SourceDone | SourceFailed] = []

    async def work() -> None:
        for path in waiting:
            outcomes.append(await _transcribe_file(path, settings, display))

    await asyncio.gather(*(work() for _ in range(settings.concurrency)))
    failures = [outcome.error for outcome in outcomes if isinstance(outcome, SourceFailed)]
    return max((_exit_code(error) for error in failures), key=[0, EXIT_UNUSABLE, EXIT_SERVICE_FAILED].index, default=0)


async def _transcribe_file(path: Path, settings: TranscribeSettings, display: Display) -> SourceDone | SourceFailed:
    source = Source(str(path))
    try:
        with AudioFile(path) as audio:
            source = replace(source, duration_s=audio.duration_s)
            frames = paced(audio.frames(settings.frame_ms), settings.frame_ms / 1000, settings.speed)
            return await _transcribe(source, frames, settings, display)
    except ConnectionFailed:
        raise
    except AsrError as error:
        return _give_up(SourceFailed(source, error), display)


async def _record(settings: TranscribeSettings, display: Display) -> int:
    """Returns the exit code. Ctrl+C ends the recording; the audio before it is still transcribed."""
    source = Source("microphone")
    try:
        microphone = Microphone(settings.frame_ms)
        with _on_interrupt(microphone):
            await _transcribe(source, microphone.frames(), settings, display)
    except ConnectionFailed:
        raise
    except AsrError as error:
        return _exit_code(_give_up(SourceFailed(source, error), display).error)
    return 0


@contextmanager
def _on_interrupt(microphone: Microphone) -> Iterator[None]:
    """The first Ctrl+C stops the recording, the second one stops the program."""
    loop = asyncio.get_running_loop()

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(microphone.stop)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _transcribe(
    source: Source, frames: AsyncIterator[bytes], settings: TranscribeSettings, display: Display
) -> SourceDone:
    started = time.perf_counter()
    samples = 0

    def on_event(event: Event) -> None:
        nonlocal samples
        if isinstance(event, Ack):
            samples = event.samples
        display.on_event(source, event)

    async with connect(
        settings.url,
        model=settings.model,
        language=settings.language,
        partials=settings.partials,
        api_key=settings.api_key,
    ) as session:
        transcript = await upload(session, frames, on_event)
    complete = source if source.duration_s else replace(source, duration_s=samples / SAMPLE_RATE)
    outcome = SourceDone(complete, transcript, time.perf_counter() - started)
    display.done(outcome)
    return outcome


def _give_up(outcome: SourceFailed, display: Display) -> SourceFailed:
    display.failed(outcome)
    hint = ""
    if isinstance(outcome.error, ServerError) and outcome.error.retry_after_s is not None:
        hint = f"; try again in {outcome.error.retry_after_s:g} s"
    display.complain(f"{COMMAND}: {outcome.source.name}: {outcome.error.detail}{hint}")
    return outcome


def _exit_code(error: AsrError) -> int:
    return EXIT_UNUSABLE if isinstance(error, AudioError) else EXIT_SERVICE_FAILED
