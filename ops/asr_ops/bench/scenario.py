"""Reads options of a run from a TOML file. The names are those of the command line. The command line wins."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from asr_proto.errors import SetupError


def read(ctx: click.Context, _param: click.Parameter, file: Path | None) -> None:
    """Make the file's values the defaults of the command. This is the callback of an eager option."""
    if file is not None:
        ctx.default_map = defaults(_parsed(file), ctx.command.params, str(file))


def defaults(given: dict[str, Any], params: Iterable[click.Parameter], file: str) -> dict[str, Any]:
    """Values by parameter. Raises SetupError for an unknown option. click checks the values."""
    names = {option.lstrip("-"): param.name for param in params for option in param.opts}
    if unknown := given.keys() - names.keys():
        raise SetupError(f"{file}: asr bench has no option --{min(unknown)}")
    return {str(names[option]): value for option, value in given.items()}


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"cannot parse {file}: {' '.join(str(error).split())}") from error
