"""`asr-keys` makes and manages the CURVE key files for links between hosts. It does not connect to a pool.

Running processes read changed files again (asr_broker.authentication, asr_process.curve).
"""

from __future__ import annotations

import string
from pathlib import Path

import click

from asr_process import allow_list, certificates, settings
from asr_process.certificates import PUBLIC, SECRET
from asr_proto.errors import SetupError

ALPHABET = frozenset(string.ascii_letters + string.digits + "._-")
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group("asr-keys", cls=settings.ProgramGroup)
def main() -> None:
    """Keys for brokers, workers and frontends on several hosts.

    \b
        asr-keys new keys --name broker                           on the broker's host
        asr-keys new keys --name worker-host-2                    on the worker's host
        asr-keys allow allowed --role worker worker-host-2.key    on the broker's host
    """


@main.command("new")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--name", required=True, help="The process that owns the key. Writes NAME.key and NAME.key_secret.")
@click.option("--replace", is_flag=True, help="Replace an existing pair.")
def new(folder: Path, name: str, *, replace: bool) -> None:
    """Make a key pair in DIR. Run it on the host that uses the pair, so that the secret key never leaves that host."""
    if not name or not set(name) <= ALPHABET or name.startswith("."):
        raise click.BadParameter("a name has letters, digits, dots, dashes and underscores", param_hint="--name")
    public, secret = certificates.make_pair(folder, name, replace=replace)
    click.echo(f"{secret}: keep it on this host, for --curve-key")
    click.echo(f"{public}: copy it to the other host")


@main.command("allow")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("keys", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PUBLIC...")
@click.option(
    "--role",
    type=click.Choice([*allow_list.ROLES, allow_list.ANY]),
    help="What the owner of the key may connect as.  [default: the role that the name has in DIR, otherwise any]",
)
def allow(folder: Path, keys: tuple[Path, ...], role: str | None) -> None:
    """Copy public keys, or folders of them, into the allow-list DIR. The broker reads it again within two seconds."""
    for key in keys:
        for file in _public_files(key):
            for copy in allow_list.allow(file, folder, role):
                click.echo(f"allowed {copy}")


@main.command("revoke")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def revoke(folder: Path, names: tuple[str, ...]) -> None:
    """Remove names from the allow-list DIR.

    The broker closes their connections within two seconds. Their sessions move to other workers.
    """
    for name in names:
        for path in allow_list.revoke(name, folder):
            click.echo(f"revoked {path}")


@main.command("show")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
def show(paths: tuple[Path, ...]) -> None:
    """Print the public keys of files and folders, and check the permissions of secret keys. Secrets are not printed."""
    for path in paths:
        for file in _all_files(path):
            if file.suffix == SECRET:
                click.echo(f"{certificates.load_pair(file).public.decode()}  {file}  (pair)")
            else:
                click.echo(f"{certificates.load_public(file).decode()}  {file}")


def _public_files(path: Path) -> list[Path]:
    files = list(certificates.public_keys(path)) if path.is_dir() else [path]
    if not files:
        raise SetupError(f"{path} holds no {PUBLIC} file")
    return files


def _all_files(path: Path) -> list[Path]:
    return sorted([*allow_list.all_files(path), *path.glob(f"*{SECRET}")]) if path.is_dir() else [path]


if __name__ == "__main__":
    main(prog_name="asr-keys")
