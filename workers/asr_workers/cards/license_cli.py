"""`asr-license`: makes and shows licenses for the cards of a deployment. It connects to no card and no pool."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from asr_process import settings
from asr_proto.errors import SetupError

try:
    from asr_workers.cards import license
    from asr_workers.cards.license import License, Now
except ModuleNotFoundError as error:
    raise SystemExit("asr-license: signatures need cryptography: pip install 'asr-pool[card]'") from error

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DAY = click.DateTime(["%Y-%m-%d"])


@click.group("asr-license", cls=settings.ProgramGroup)
def main() -> None:
    """Licenses that bind physical cards to this deployment.

    \b
        asr-license issuer licenses --name example           once; keep example.key_secret elsewhere
        asr-license new licenses --key example.key_secret --card ID --holder NAME --expires 2027-12-31
        asr-license show licenses --card ID
    """


@main.command("issuer")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--name", required=True, help="Name of the secret key file, without .key_secret.")
def issuer(folder: Path, name: str) -> None:
    """Make an issuer's key pair in DIR. A license folder needs only the file issuer.pub."""
    secret, public = license.new_issuer(folder, name)
    click.echo(f"{secret}: signs licenses; keep it where no worker reads")
    click.echo(f"{public}: belongs into the folder of --license-dir")


@main.command("new")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--key", required=True, type=FILE, help="The issuer's secret key.")
@click.option("--card", required=True, help="The card's id, as printed by asr-card list.")
@click.option("--holder", required=True, help="The holder of the license.")
@click.option("--expires", required=True, type=DAY, help="The last valid day of the license, in UTC.")
@click.option("--version-max", default="", help="The highest version of asr-pool, such as 1.4.  [default: any]")
def new(folder: Path, key: Path, card: str, holder: str, expires: datetime, version_max: str) -> None:
    """Write a new license to DIR. Workers read it when they start."""
    if version_max and not license.VERSION.fullmatch(version_max):
        raise click.BadParameter("a version is numbers with dots", param_hint="--version-max")
    issued = datetime.now(UTC).date()
    document = License(card=card, holder=holder, expires=expires.date(), version_max=version_max, issued=issued)
    path = folder / f"{document.id}{license.SUFFIX}"
    text = document.encode(license.read_secret(key))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path}: for card {card}, until {document.expires}")


@main.command("show")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--card", help="Check whether each license is valid for this card.")
@click.pass_context
def show(ctx: click.Context, folder: Path, card: str | None) -> None:
    """Print the licenses in DIR, and why any is not valid. Exit code 1 if none is valid."""
    issuer_key = license.read_issuer(folder / license.ISSUER)
    good = 0
    for path in sorted(folder.glob(f"*{license.SUFFIX}")):
        try:
            document = license.read(path, issuer_key)
            license.check(document, card or document.card, Now.here())
        except SetupError as error:
            click.echo(f"{path.name}  REFUSED: it {error}")
            continue
        good += 1
        versions = f"versions up to {document.version_max}" if document.version_max else "any version"
        click.echo(f"{path.name}  card {document.card}  {document.holder}  until {document.expires}  {versions}")
    if not good:
        ctx.exit(1)


if __name__ == "__main__":
    main(prog_name="asr-license")
