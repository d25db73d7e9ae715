"""`asr key` makes an API key. The key file stores only its SHA-256 digest, so the key is printed only once."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import click

KEY_BYTES = 32


@click.command("key")
@click.argument("name")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Add the key's digest to this key file.")
def key(name: str, file: Path | None) -> None:
    """Make an API key for the client NAME and print it. It cannot be printed again.

    A frontend started with --keys FILE accepts only clients with a key of that file. It reads a changed file within
    seconds. To revoke a key, delete its line.

    \b
        asr key alice --file keys.txt
        asr serve --keys keys.txt
    """
    if name.split() != [name] or "#" in name:
        raise click.BadParameter("a name must be one word without #", param_hint="NAME")
    made = secrets.token_urlsafe(KEY_BYTES)
    line = f"{name} {hashlib.sha256(made.encode()).hexdigest()}"
    if file:
        _append(file, line)
    else:
        click.echo(f"line for the key file: {line}", err=True)
    click.echo(made)


def _append(file: Path, line: str) -> None:
    """Append the line. A new file is readable by its owner only."""
    try:
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as keys:
            keys.write(line + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
