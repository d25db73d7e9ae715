"""`asr-compile`: compile a hardware checkpoint into a card model (.carm)."""

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
@click.option(
    "--precision",
    type=click.Choice(carm.PRECISIONS),
    default="int8",
    show_default=True,
    help="Number format of the weights in the card model.",
)
@click.option(
    "--arch",
    type=click.Choice(["testing", "base", "large", "other"]),
    help="Refuse a checkpoint that is not of this architecture.",
)
def main(checkpoint: Path, out: Path, precision: str, arch: str | None) -> None:
    """Compile a hardware checkpoint for a card or for the simulator.

    The weights are quantized to int8 (one scale for each row) or to bfp16 (one exponent for each block of 8 values),
    or they stay in fp32.
    """
    with settings.refusals_as_sentences("asr-compile"):
        _compile(checkpoint, out, cast(carm.Precision, precision), arch)


def _compile(path: Path, out: Path, precision: carm.Precision, arch: str | None) -> None:
    checkpoint = _loaded(path)
    sizes = checkpoint.sizes
    if arch not in (None, sizes.name):
        raise SetupError(f"{path} has the architecture {sizes.name}, not {arch}")
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
    from asr_workers.engines.rnnt import checkpoint  # noqa: PLC0415 (imports torch, which may not be installed)

    return checkpoint.load(path)


def _write(checkpoint: RnntCheckpoint, out: Path, precision: carm.Precision) -> None:
    """Write to a temporary file beside `out`, then rename it: a card that is loading the old file still reads that."""
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
