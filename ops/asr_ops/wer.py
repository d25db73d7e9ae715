"""Measures the word error rate of a running service on recorded speech: `python -m asr_ops.wer DIR`.

DIR/manifest.jsonl lists the clips, one JSON object a line: {"path", "text", "duration_s", "kind"}. Every clip is sent
through the whole service in small frames, as a client sends it. So the rate includes the engine, batching, endpointing
and the dialect. The word error rate is (substitutions + deletions + insertions) / words of the reference, from the
alignment with the fewest errors (Levenshtein 1966), computed by jiwer. Both texts are normalized first, as in Whisper's
evaluation (Radford et al. 2022, arXiv:2212.04356, appendix C): lower case, no punctuation, numbers as digits.

Without --url it starts `asr serve` for the measurement. This module must not know how the service recognizes speech.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from asr_audio.files import AudioFile
from asr_client import connect, stream_url, upload
from asr_client.upload import paced
from asr_ops.own_service import serving
from asr_proto.errors import AsrError, SetupError

READ_SENTENCES = ("speechbrain", "librivox_ps", "ljspeech", "harvard")
"""The kinds with sentences read aloud in a quiet room. Their row, `read sentences`, is compared between releases."""
SUMMARY_ROWS = ("read sentences", "total")
TWO_CITIES = "two_cities"
TWO_CITIES_TEXT = """
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was
the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it was
the spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were all
going direct to Heaven, we were all going direct the other way - in short, the period was so far like the present
period, that some of its noisiest authorities insisted on its being received, for good or for evil, in the superlative
degree of comparison only.
"""
"""The text read in two_cities.wav, a sample of the moonshine-voice wheel: Dickens, A Tale of Two Cities, 1859."""

Normalize = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and its reference text."""

    path: Path
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one clip or of several: words of the reference, and words that are wrong, missing or added."""

    clips: int
    words: int
    errors: int

    @property
    def wer_percent(self) -> float:
        """Word error rate in percent; 0 if there are no words."""
        return 100.0 * self.errors / self.words if self.words else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """The score of one clip. Both texts are normalized."""

    clip: Clip
    reference: str
    hypothesis: str
    score: Score


@click.command(context_settings={"show_default": True})
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--url", help="Measure this running service. Without it, `asr serve` is started for the measurement.")
@click.option("--kinds", metavar="A,B", help=f"Measure only these kinds. {TWO_CITIES} is the sample of the wheel.")
@click.option("--frame-ms", type=click.IntRange(10, 1000), default=20, metavar="MS", help="Milliseconds in a frame.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the texts of every clip.")
@click.option("--max-wer", type=float, metavar="PERCENT", help="Exit with 1 if the read sentences have a higher rate.")
def main(
    *, directory: Path, url: str | None, kinds: str | None, frame_ms: int, as_json: bool, max_wer: float | None
) -> None:
    """Measure the word error rate on the clips of DIR/manifest.jsonl."""
    try:
        normalize = _normalizer()
        clips = chosen([*read_manifest(directory), *two_cities()], kinds)
        results = asyncio.run(_measure(clips, url, frame_ms, normalize))
    except SetupError as error:
        click.echo(f"asr_ops.wer: {error.detail}", err=True)
        sys.exit(2)
    except AsrError as error:
        click.echo(f"asr_ops.wer: {error.detail}", err=True)
        sys.exit(1)
    rows = summary(results)
    _print_json(rows, results) if as_json else Console().print(_table(rows))
    sys.exit(_verdict(rows, max_wer))


def _verdict(rows: dict[str, Score], max_wer: float | None) -> int:
    """The exit code for a limit in percent: 1 if the rate is higher, or if no read sentences were measured."""
    if max_wer is None:
        return 0
    score = rows.get("read sentences")
    if score is not None and score.wer_percent <= max_wer:
        return 0
    found = "were not measured" if score is None else f"have {score.wer_percent:.2f} %"
    click.echo(f"asr_ops.wer: the read sentences {found}, the limit is {max_wer:g} %", err=True)
    return 1


# ---- The clips ----


def read_manifest(directory: Path) -> list[Clip]:
    """The clips of DIR/manifest.jsonl; paths are relative to DIR. Raises SetupError if it is missing or invalid."""
    manifest = directory / "manifest.jsonl"
    try:
        entries = [json.loads(line) for line in manifest.read_text("utf-8").splitlines() if line.strip()]
        return [Clip(directory / entry["path"], entry["text"], entry["kind"]) for entry in entries]
    except OSError as error:
        raise SetupError(f"{manifest}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{manifest}: a line is not an object with path, text and kind ({error})") from error


def two_cities() -> list[Clip]:
    """The sample of the moonshine-voice wheel; empty if it is not installed. The package is not imported."""
    spec = find_spec("moonshine_voice")
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / "assets" / "two_cities.wav"
    return [Clip(path, TWO_CITIES_TEXT, TWO_CITIES)] if path.exists() else []


def chosen(clips: Sequence[Clip], kinds: str | None) -> list[Clip]:
    """The clips of these comma-separated kinds; all clips for None. Raises SetupError for an unknown kind."""
    known = {clip.kind for clip in clips}
    wanted = {kind.strip() for kind in kinds.split(",")} if kinds else known
    if unknown := wanted - known:
        raise SetupError(f"no clips of kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return [clip for clip in clips if clip.kind in wanted]


# ---- Measuring ----


async def _measure(clips: Sequence[Clip], url: str | None, frame_ms: int, normalize: Normalize) -> list[Result]:
    if url is not None:
        return await _recognize_all(clips, stream_url(url), frame_ms, normalize)
    async with serving(()) as started:
        return await _recognize_all(clips, started.url, frame_ms, normalize)


async def _recognize_all(clips: Sequence[Clip], url: str, frame_ms: int, normalize: Normalize) -> list[Result]:
    """Recognize one clip after the other, so that no text depends on the load by other clips."""
    return [score(clip, await _recognize(clip, url, frame_ms), normalize) for clip in clips]


async def _recognize(clip: Clip, url: str, frame_ms: int) -> str:
    try:
        with AudioFile(clip.path) as audio:
            async with connect(url, partials=False) as session:
                transcript = await upload(session, paced(audio.frames(frame_ms), frame_ms / 1000, 0))
    except AsrError as error:
        error.detail = f"{clip.path}: {error.detail}"
        raise
    return transcript.text


def score(clip: Clip, recognized: str, normalize: Normalize) -> Result:
    """Normalize both texts, align their words with jiwer and count the errors."""
    reference, hypothesis = normalize(clip.text), normalize(recognized)
    found = _dev_extra("jiwer").process_words(reference, hypothesis)
    errors = found.substitutions + found.deletions + found.insertions
    return Result(clip, reference, hypothesis, Score(1, found.hits + found.substitutions + found.deletions, errors))


def _normalizer() -> Normalize:
    normalizer: Normalize = _dev_extra("whisper_normalizer.english").EnglishTextNormalizer()
    _dev_extra("jiwer")
    return normalizer


def _dev_extra(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SetupError("measuring needs the extra 'dev': pip install 'asr-pool[dev]'") from error


# ---- Output ----


def summary(results: Sequence[Result]) -> dict[str, Score]:
    """A row for each kind in the order of the clips, then `read sentences` if there are any, then `total`."""
    kinds = list(dict.fromkeys(result.clip.kind for result in results))
    rows = {kind: _sum(result for result in results if result.clip.kind == kind) for kind in kinds}
    read = [result for result in results if result.clip.kind in READ_SENTENCES]
    combined = {"read sentences": _sum(read)} if read else {}
    return {**rows, **combined, "total": _sum(results)}


def _sum(results: Iterable[Result]) -> Score:
    scores = [result.score for result in results]
    return Score(
        clips=sum(score.clips for score in scores),
        words=sum(score.words for score in scores),
        errors=sum(score.errors for score in scores),
    )


def _table(rows: dict[str, Score]) -> Table:
    table = Table("kind")
    for title in ("clips", "words", "errors", "WER %"):
        table.add_column(title, justify="right")
    last_kind = [name for name in rows if name not in SUMMARY_ROWS][-1]
    for name, row in rows.items():
        figures = (str(row.clips), str(row.words), str(row.errors), f"{row.wer_percent:.2f}")
        table.add_row(name, *figures, end_section=name == last_kind)
    return table


def _print_json(rows: dict[str, Score], results: Sequence[Result]) -> None:
    shown = {name: {**asdict(row), "wer_percent": round(row.wer_percent, 2)} for name, row in rows.items()}
    clips = [
        {
            "path": str(result.clip.path),
            "kind": result.clip.kind,
            "reference": result.reference,
            "heard": result.hypothesis,
            "words": result.score.words,
            "errors": result.score.errors,
        }
        for result in results
    ]
    click.echo(json.dumps({"rows": shown, "clips": clips}, ensure_ascii=False))


if __name__ == "__main__":
    main(prog_name="python -m asr_ops.wer")
