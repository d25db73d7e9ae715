"""Word error of a digits model on strings of unseen recordings: NeMo on whole strings, or a streaming engine.

python ops/train/judge.py ops/models/digits-fastconformer.nemo --digits DIR --context 70 1
python ops/train/judge.py ops/models/digits-fastconformer.nemo --digits DIR --context 70 1 --engine fastconformer
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import jiwer
import torch
from augment import Audio
from digits import WORDS, unseen_strings
from nemo_small import transcribe

from asr_proto.audio import from_float32
from asr_workers.engines.base import Chunk, Engine, Hypothesis, SlotOptions
from asr_workers.engines.fastconformer.config import FastConformerConfig
from asr_workers.engines.fastconformer.engine import FastConformerEngine
from asr_workers.engines.parakeet.config import ParakeetConfig
from asr_workers.engines.parakeet.engine import ParakeetEngine

Recognize = Callable[[Sequence[Audio]], list[str]]


def word_error(spoken: Sequence[Sequence[int]], texts: Sequence[str]) -> float:
    """The word error rate of `texts`, from 0: errors divided by the number of spoken digits."""
    return float(jiwer.wer([" ".join(WORDS[digit] for digit in row) for row in spoken], list(texts)))


def by_nemo(model: Path, context: tuple[int, int] | None) -> Recognize:
    """Recognize whole strings with NeMo's own greedy decoding."""
    from nemo.collections.asr.models import ASRModel  # noqa: PLC0415 (seconds: not for --help)

    network = ASRModel.restore_from(str(model), map_location="cpu")
    if context:
        network.encoder.set_default_att_context_size(list(context))
    return lambda audios: transcribe(network, audios)


def by_engine(name: str, model: Path, context: tuple[int, int] | None) -> Recognize:
    """Recognize with a worker's engine and its default settings. Each string is one session."""
    engine: Engine
    if name == "parakeet":
        engine = ParakeetEngine(ParakeetConfig(model=str(model), slots=1))
    else:
        engine = FastConformerEngine(FastConformerConfig(model=str(model), slots=1, att_context=context))
    return lambda audios: [_streamed(engine, audio) for audio in audios]


def _streamed(engine: Engine, audio: Audio) -> str:
    pcm = from_float32(audio)
    size, texts = engine.spec.chunk_samples, []
    engine.open(0, SlotOptions(), None)
    for start in range(0, len(pcm), size):
        chunks = [Chunk(0, pcm[start : start + size], flush=start + size >= len(pcm))]
        while chunks or engine.pending():
            outputs = engine.step(chunks, 0.0)
            texts += [output.text for output in outputs if isinstance(output, Hypothesis) and output.endpoint]
            chunks = []
    engine.close(0)
    return " ".join(texts)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--digits", "directory", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--speaker", "speakers", multiple=True, help="only these speakers; all of the folder by default")
@click.option("--context", "contexts", type=(int, int), multiple=True, help="attention context of a streaming model")
@click.option(
    "--engine",
    type=click.Choice(["fastconformer", "parakeet"]),
    help="stream through this engine; without it, NeMo, offline",
)
@click.option("--digits-max", default=10, show_default=True, help="most digits in a string")
@click.option("--count", default=300, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(
    model: Path,
    directory: Path,
    speakers: tuple[str, ...],
    contexts: tuple[tuple[int, int], ...],
    engine: str | None,
    digits_max: int,
    count: int,
    seed: int,
) -> None:
    """Print the word error of MODEL, one line for each context."""
    torch.set_num_threads(1)
    rows = unseen_strings(directory, count, seed, speakers or None, digits_max)
    words = sum(len(digits) for _, digits in rows)
    for context in contexts or [None]:
        recognize = by_engine(engine, model, context) if engine else by_nemo(model, context)
        error = word_error([digits for _, digits in rows], recognize([audio for audio, _ in rows]))
        click.echo(f"{list(context) if context else 'whole'}  word error {error:.2%}  ({count} strings, {words} words)")


if __name__ == "__main__":
    main()
