"""`asr key`: a new API key. Only its digest is kept, so the key is shown once."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import click

KEY_BYTES = 32


@click.command("key")
@click.argument("name")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Add it to this key file.")
def key(name: str, file: Path | None) -> None:
    """Make an API key for the client NAME and print it, once.

    A frontend started with --keys FILE asks its clients for a key of that file and notices a change within seconds.
    Deleting a line takes the key back.

    \b
        asr key alice --file keys.txt
        asr serve --keys keys.txt
    """
    if name.split() != [name] or "#" in name:
        raise click.BadParameter("a name is one word without #", param_hint="NAME")
    made = secrets.token_urlsafe(KEY_BYTES)
    line = f"{name} {hashlib.sha256(made.encode()).hexdigest()}"
    if file:
        _append(file, line)
    else:
        click.echo(f"line for the key file: {line}", err=True)
    click.echo(made)


def _append(file: Path, line: str) -> None:
    """The file is readable by its owner only."""
    try:
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as keys:
            keys.write(line + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
