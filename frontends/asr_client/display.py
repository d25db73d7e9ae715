"""The output of `asr transcribe`: one class for each situation; `choose` selects it once.

    JsonLines      --json: one object a file
    PlainText      stdout is no terminal: one line for each utterance, or "FILE: text" lines for several files
    LiveText       a terminal, one source: the utterance so far in grey, replaced by a line when it is final
    ProgressText   a terminal, several files: a bar below the lines "FILE: text"

This module opens no sessions and no files; its methods are called when something happens.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from asr_client.events import Ack, Event, Final, Partial, Reconnected, Word
from asr_client.upload import Transcript
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError


@dataclass(frozen=True, slots=True)
class Source:
    """A file or recording: its name and its length in seconds; the length of a recording is 0 until it ends."""

    name: str
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceDone:
    """A source that was transcribed to its end in `elapsed_s` seconds."""

    source: Source
    transcript: Transcript
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """A source that could not be transcribed."""

    source: Source
    error: AsrError


class Display:
    """Base of the displays: shows nothing. Use it in a `with` block around the whole run."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def on_event(self, source: Source, event: Event) -> None:
        """The service has sent an event for this source."""

    def done(self, outcome: SourceDone) -> None:
        """The source is transcribed."""

    def failed(self, outcome: SourceFailed) -> None:
        """The source could not be transcribed."""

    def complain(self, sentence: str) -> None:
        """Write an error to stderr."""
        click.echo(sentence, err=True)


class JsonLines(Display):
    """One JSON object for each file on stdout, also for a file that failed."""

    def done(self, outcome: SourceDone) -> None:
        click.echo(json.dumps(_as_json(outcome), ensure_ascii=False))

    def failed(self, outcome: SourceFailed) -> None:
        error = {"code": outcome.error.slug, "message": outcome.error.detail}
        click.echo(json.dumps({"file": outcome.source.name, "error": error}, ensure_ascii=False))


class PlainText(Display):
    """Lines on stdout and nothing else, each written immediately."""

    def __init__(self, several: bool) -> None:
        self._several = several

    def on_event(self, source: Source, event: Event) -> None:
        if isinstance(event, Final) and event.text and not self._several:
            click.echo(event.text)

    def done(self, outcome: SourceDone) -> None:
        if self._several:
            click.echo(f"{outcome.source.name}: {outcome.transcript.text}")


class LiveText(Display):
    """The words as they arrive, for one source on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(Text("listening", style="dim"), console=console, transient=True, refresh_per_second=15)

    def __enter__(self) -> LiveText:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text())
        self._live.stop()

    def on_event(self, source: Source, event: Event) -> None:
        if isinstance(event, Partial):
            self._live.update(Text(event.text, style="dim"))
        elif isinstance(event, Final) and event.text:
            self._live.update(Text())
            self._console.print(Text(event.text), soft_wrap=True)
        elif isinstance(event, Reconnected):
            self._console.print(_reconnected(event))

    def complain(self, sentence: str) -> None:
        self._live.update(Text())
        _complain_above(self._console, sentence)


class ProgressText(Display):
    """One progress bar for all files; each counts by the share of its audio that the service has accepted."""

    def __init__(self, console: Console, files: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._bar = self._progress.add_task("transcribing", total=files)
        self._finished = 0
        self._shares: dict[str, float] = {}

    def __enter__(self) -> ProgressText:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, source: Source, event: Event) -> None:
        if isinstance(event, Ack):
            self._shares[source.name] = min(1.0, event.samples / SAMPLE_RATE / source.duration_s)
            self._update()
        elif isinstance(event, Reconnected):
            self._progress.console.print(Text(f"{source.name}: ", style="dim").append(_reconnected(event)))

    def done(self, outcome: SourceDone) -> None:
        line = Text.assemble((f"{outcome.source.name}: ", "cyan"), outcome.transcript.text)
        self._progress.console.print(line, soft_wrap=True)
        self._finish(outcome.source)

    def failed(self, outcome: SourceFailed) -> None:
        self._finish(outcome.source)

    def complain(self, sentence: str) -> None:
        _complain_above(self._progress.console, sentence)

    def _finish(self, source: Source) -> None:
        self._shares.pop(source.name, None)
        self._finished += 1
        self._update()

    def _update(self) -> None:
        self._progress.update(self._bar, completed=self._finished + sum(self._shares.values()))


def _complain_above(console: Console, sentence: str) -> None:
    """Write through the console if stderr is a terminal: a direct write would damage the live lines."""
    if sys.stderr.isatty():
        console.print(Text(sentence, style="red"), soft_wrap=True)
    else:
        click.echo(sentence, err=True)


def _reconnected(event: Reconnected) -> Text:
    return Text(f"reconnected after {event.gap_s:.1f} s", style="dim")


def choose(as_json: bool, files: int) -> Display:
    """The display for this run; 0 files is the microphone."""
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty():
        return PlainText(several=files > 1)
    console = Console(highlight=False)
    return ProgressText(console, files) if files > 1 else LiveText(console)


def _as_json(outcome: SourceDone) -> dict[str, Any]:
    ready = outcome.transcript.ready
    return {
        "file": outcome.source.name,
        "text": outcome.transcript.text,
        "utterances": [_utterance(final) for final in outcome.transcript.finals],
        "duration_s": round(outcome.source.duration_s, 3),
        "elapsed_s": round(outcome.elapsed_s, 3),
        "session": ready.session,
        "model": ready.model,
        "language": ready.language,
        "engine": ready.engine,
    }


def _utterance(final: Final) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "text": final.text,
        "start_s": final.start_s,
        "end_s": final.end_s,
        "endpoint": final.endpoint,
    }
    if final.confidence is not None:
        shown["confidence"] = final.confidence
    if final.words:
        shown["words"] = [_word(word) for word in final.words]
    return shown


def _word(word: Word) -> dict[str, Any]:
    shown: dict[str, Any] = {"word": word.text, "start_s": word.start_s, "end_s": word.end_s}
    if word.confidence is not None:
        shown["confidence"] = word.confidence
    return shown
