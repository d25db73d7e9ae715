"""`asr-compile`: make a card model (.carm) of a hardware checkpoint."""

from __future__ import annotations

from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from asr_process import settings
from asr_proto.errors import SetupError
from asr_workers.cards import carm
from asr_workers.cards.errors import CardError

if TYPE_CHECKING:
    from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("asr-compile")
@click.argument("checkpoint", type=FILE, metavar="IN.pt")
@click.argument("out", type=FILE, metavar="OUT.carm")
@click.option("--precision", type=click.Choice(carm.PRECISIONS), default="int8", show_default=True)
@click.option(
    "--arch",
    type=click.Choice(["testing", "base", "large", "other"]),
    help="Refuse a checkpoint of another architecture.",
)
def main(checkpoint: Path, out: Path, precision: str, arch: str | None) -> None:
    """Compile a hardware checkpoint for a card, or for the simulator.

    The weights are quantised to int8 (a scale per row), bfp16 (blocks of 8 share an exponent) or kept as fp32.
    """
    with settings.refusals_as_sentences("asr-compile"):
        _compile(checkpoint, out, cast(carm.Precision, precision), arch)


def _compile(path: Path, out: Path, precision: carm.Precision, arch: str | None) -> None:
    checkpoint = _loaded(path)
    sizes = checkpoint.sizes
    if arch not in (None, sizes.name):
        raise SetupError(f"{path} is a model of the architecture {sizes.name}, not {arch}")
    _write(checkpoint, out, precision)
    if sizes.name == "testing":
        click.echo("warning: the architecture testing is not for production", err=True)
    parameters = sum(prod(shape) for shape in sizes.shapes().values())
    click.echo(
        f"{out}: {sizes.name}, {parameters:,} parameters, {precision}, {out.stat().st_size:,} bytes, "
        f"checksum {carm.read(out).checksum[:16]}"
    )


def _loaded(path: Path) -> RnntCheckpoint:
    if any(find_spec(module) is None for module in ("torch", "sentencepiece")):
        raise SetupError("reading hardware checkpoints needs torch and sentencepiece: pip install 'asr-pool[card]'")
    from asr_workers.engines.rnnt import checkpoint  # noqa: PLC0415 (loads torch: only when it is there)

    return checkpoint.load(path)


def _write(checkpoint: RnntCheckpoint, out: Path, precision: carm.Precision) -> None:
    """Beside its place first: a card that loads the old model at this moment goes on reading the old one."""
    part = out.with_name(f"{out.name}.part")
    try:
        checkpoint.compile(part, precision)
        part.replace(out)
    except OSError as error:
        raise SetupError(f"cannot write {out}: {error.strerror}") from error
    except CardError as error:
        raise SetupError(f"cannot compile {out}: {error.sentence}") from error
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
