"""The error that ends a process when its card fails."""

from __future__ import annotations

from typing import IO, Any

import click

EXIT_CODE = 3
"""Exit code after a card's failure: a supervisor may restart the process, whose self-test checks the card again.

Exit code 2 (SetupError) means that a restart is useless.
"""


class CardFailed(click.ClickException):
    """The card must not be used any further: its process ends with one sentence, and its sessions move.

    It is no SetupError, because it can happen at any time. It shows no traceback, because it is no bug.
    """

    exit_code = EXIT_CODE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)
