"""`asr-card`: lists cards, shows a card's data, and runs the worker's self-test on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from asr_process import settings
from asr_proto.errors import SetupError
from asr_workers.cards import carm, selftest
from asr_workers.cards.errors import FOR_GOOD
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import Card, CardError, CardIdentity, CardLibrary
from asr_workers.cards.traffic import Traffic

PCI_DEVICES = Path("/sys/bus/pci/devices")
PCI_ID = ("0x12ba", "0x0069")
"""BittWare's VectorPath S7t-VG6, the card that CAIMAN-ASR runs on."""
HANG_S = 30.0
SELFTEST_SLOTS = 16


class CardCommands(settings.ProgramGroup):
    """A group whose CardErrors are shown as one sentence, with the exit code of a worker."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CardError as error:
            if error.code not in FOR_GOOD:
                raise CardFailed(f"asr-card: {error}") from error
            with settings.refusals_as_sentences("asr-card"):
                raise SetupError(str(error)) from error


def card_options(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds the options for the card's library."""
    library = click.option(
        "--card-library",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="ASR_WORKER_CARD_LIBRARY",
        help="The vendor's library that implements asr_card.h.  [default: the simulator]",
    )
    options = click.option("--card-options", default="", help="Options for the library, such as cards=2.")
    return library(options(function))


@click.group("asr-card", cls=CardCommands)
def main() -> None:
    """Accelerator cards with a library that implements asr_card.h; without --card-library, the simulator.

    ops/cards.md explains how to install a card.
    """


@main.command("list")
@card_options
@click.pass_context
def list_cards(ctx: click.Context, card_library: Path | None, card_options: str) -> None:
    """Print one line per card. Exit code 1 if a card gives no answer or there is none; then print what to check."""
    library = CardLibrary(card_library, card_options)
    count = library.count()
    silent = 0
    for index in range(count):
        try:
            identity = library.identity(index)
        except CardError as error:
            click.echo(f"card:{index}  {error}", err=True)
            silent += 1
            continue
        kind = "card" if identity.is_physical else "simulator"
        click.echo(f"card:{index}  {identity.id}  {kind}  {identity.name}  up to {identity.capacity} streams")
    if not count:
        click.echo(nothing_found(on_bus(PCI_DEVICES)), err=True)
    if silent or not count:
        ctx.exit(1)


@main.command("info")
@click.argument("index", type=click.IntRange(min=0), default=0, metavar="[N]")
@card_options
def info(index: int, card_library: Path | None, card_options: str) -> None:
    """Print the data of card N without opening it: it may be in use."""
    for name, value in asdict(_identity(CardLibrary(card_library, card_options), index)).items():
        click.echo(f"{name:<14} {value}")


@main.command("selftest")
@click.argument("index", type=click.IntRange(min=0), default=0, metavar="[N]")
@click.option(
    "--model", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A compiled model (.carm)."
)
@card_options
def selftest_card(index: int, model: Path, card_library: Path | None, card_options: str) -> None:
    """Load a model into card N and run a worker's self-test. No other process may use the card."""
    library = CardLibrary(card_library, card_options)
    _identity(library, index)
    tokens_max = carm.read(model).config.n_classes - 1
    card = library.open(index)
    try:
        card.load(model)
        _test(card, Traffic(card, f"card:{index}", tokens_max, HANG_S))
    finally:
        card.close_card()


def _test(card: Card, traffic: Traffic[int]) -> None:
    identity = card.identity()
    slots = min(SELFTEST_SLOTS, identity.slots_max)
    card.slots(slots)
    found = selftest.run(card, traffic, slots)
    click.echo(f"passed  {identity.id}  {identity.capacity} streams with this model, {found.temperature_c:.0f} C")
    click.echo(f"one chunk {found.chunk_s * 1000:.2f} ms; {slots} at once {found.round_s * 1000:.2f} ms")


def _identity(library: CardLibrary, index: int) -> CardIdentity:
    count = library.count()
    if index >= count:
        raise SetupError(f"there is no card {index}: {count or 'no'} cards were found; see asr-card list")
    return library.identity(index)


def on_bus(devices: Path) -> list[str]:
    """PCIe addresses of the cards that the kernel finds, independent of the card's library."""
    found = []
    for device in sorted(devices.glob("*")):
        try:
            ids = tuple((device / name).read_text().strip() for name in ("vendor", "device"))
        except OSError:
            continue
        if ids == PCI_ID:
            found.append(device.name)
    return found


def nothing_found(addresses: list[str]) -> str:
    """Advice for a library that finds no card; `addresses` are those of `on_bus`."""
    if addresses:
        return (
            f"The library finds no card, although the kernel finds {', '.join(addresses)}: check that the vendor's "
            "driver is loaded, that its device files may be opened by this user, that the card's image fits the "
            "library's version, and that no other process has the card. Power-cycle the host after flashing."
        )
    return (
        "No card was found, and none is on the PCIe bus. Check `lspci -d 12ba:0069` (the id of a VectorPath S7t-VG6): "
        "if it prints nothing, check the seat of the card and its power cable, that it is flashed, and power-cycle the "
        "host (a reboot is not enough); in a container or virtual machine, that the card is passed through."
    )


if __name__ == "__main__":
    main(prog_name="asr-card")
