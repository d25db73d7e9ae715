"""Word error of a digits model on strings of unseen recordings, by NeMo's own greedy decoding of whole strings.

python ops/train/judge.py ops/models/digits-fastconformer.nemo --digits DIR --context 70 1
"""

from collections.abc import Sequence
from pathlib import Path

import click
import jiwer
import torch
from digits import WORDS, unseen_strings
from nemo_small import transcribe


def word_error(said: Sequence[Sequence[int]], texts: Sequence[str]) -> float:
    """Word errors over words said."""
    return float(jiwer.wer([" ".join(WORDS[digit] for digit in row) for row in said], list(texts)))


@click.command()
@click.argument("model_path", type=click.Path(exists=True, path_type=Path))
@click.option("--digits", "directory", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--speaker", "speakers", multiple=True, help="these only; all of the folder by default")
@click.option("--context", type=(int, int), multiple=True, help="attention context of a streaming model")
@click.option("--digits-max", default=10, show_default=True, help="a string's most digits")
@click.option("--count", default=300, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(
    model_path: Path,
    directory: Path,
    speakers: tuple[str, ...],
    context: tuple[tuple[int, int], ...],
    digits_max: int,
    count: int,
    seed: int,
) -> None:
    """Print the word error of MODEL_PATH, one line a context."""
    from nemo.collections.asr.models import ASRModel  # noqa: PLC0415 (seconds: not for --help)

    torch.set_num_threads(1)
    model = ASRModel.restore_from(str(model_path), map_location="cpu")
    rows = unseen_strings(directory, count, seed, speakers or None, digits_max)
    words = sum(len(digits) for _, digits in rows)
    for one in context or [None]:
        if one is not None:
            model.encoder.set_default_att_context_size(list(one))
        error = word_error([digits for _, digits in rows], transcribe(model, [audio for audio, _ in rows]))
        click.echo(f"{list(one) if one else 'whole'}  word error {error:.2%}  ({count} strings, {words} words)")


if __name__ == "__main__":
    main()
