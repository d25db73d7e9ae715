"""What a process dies of when its card does."""

from __future__ import annotations

from typing import IO, Any

import click

EXIT_CODE = 3
"""Unlike 2, which says that nothing is to be tried again: the card may be well again, which its self-test will tell."""


class CardFailed(click.ClickException):
    """The card must not be used any further: its process ends with one sentence, and its sessions move.

    It is no SetupError, for it can come at any time; and no bug, for which there is a traceback.
    """

    exit_code = EXIT_CODE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)
