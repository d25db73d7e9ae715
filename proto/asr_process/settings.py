"""The shared parts of all command lines: sources of settings, paths of sockets, form of error messages.

Precedence: command line > environment > config.yaml > config.toml > defaults. Click implements all of it: a process
declares plain click options and nothing else.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from asr_compat import aliases
from asr_process import logs
from asr_proto.errors import NotYet, SetupError

SECTIONS = ("broker", "worker", "frontend", "serve")
CONFIG_DIRS = (Path("/etc/asr-pool"), Path())
"""Folders that are searched for config files if --config is not given, lowest precedence first."""
SHARED_RUN_DIR = Path("/run/asr-pool")
FALLBACK_PARENT = Path("/tmp")  # not TMPDIR: it must be the same for every process of a user
IPC_PATH_BYTES_MAX = 100
"""Longest path of a Unix socket, in bytes: Linux allows 107, other systems 103."""


# ---- Programs ----


class Program(click.Command):
    """A command whose SetupErrors are shown as `program: sentence`, with their exit code and no traceback."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        shown = info_name if parent else self.name  # also when run as `python -m`
        with refusals_as_sentences(self.name or ""):
            return super().make_context(shown, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with refusals_as_sentences(self.name or ""):
            return super().invoke(ctx)


class ProgramGroup(click.Group):
    """A group of commands whose SetupErrors are shown as those of a Program."""

    def invoke(self, ctx: click.Context) -> Any:
        with refusals_as_sentences(self.name or ""):
            return super().invoke(ctx)


@dataclass(frozen=True, slots=True)
class Shared:
    """The settings that every process has; `ctx.obj` of a Process."""

    config: tuple[Path, ...]
    log_level: str
    log_format: str


class Process(Program):
    """A program with a section in the config files, environment variables (ASR_WORKER_...) and a log."""

    def __init__(self, name: str, **attrs: Any) -> None:
        self.section = name.replace("-", " ").split()[-1]
        self.prefix = f"ASR_{self.section.upper()}"
        epilog = (
            f"Every option can also be set as {self.prefix}_<OPTION>, or under `{self.section}:` in config.yaml or "
            "config.toml (in this folder or in /etc/asr-pool). The command line wins, then the environment."
        )
        context = {"auto_envvar_prefix": self.prefix, "show_default": True, "max_content_width": 100}
        super().__init__(name, context_settings=context, epilog=epilog, **attrs)
        self.params += _shared_options()
        for param in self.params:
            _own_variable_first(self.prefix, param)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = Shared(ctx.params.pop("config"), ctx.params.pop("log_level"), ctx.params.pop("log_format"))
        logs.set_up(self.name or "", level=ctx.obj.log_level, output=ctx.obj.log_format)
        return super().invoke(ctx)


def command(name: str) -> Callable[[Callable[..., None]], Process]:
    """Decorator: turn a function with click options into the process `name`, such as "asr-worker".

    Its config section is the last word of the name. The function also receives `run_dir`; --config and the log options
    are applied before it is called.
    """
    return click.command(name, cls=Process)


@contextmanager
def refusals_as_sentences(program: str) -> Iterator[None]:
    """Turn a SetupError into the exception that click prints as one line."""
    try:
        yield
    except SetupError as error:
        kind = _Postponement if isinstance(error, NotYet) else _Refusal
        raise kind(program, str(error)) from error


class _Refusal(click.ClickException):
    exit_code = SetupError.exit_code

    def __init__(self, program: str, sentence: str) -> None:
        super().__init__(sentence)
        self.program = program

    def show(self, file: Any = None) -> None:
        click.echo(f"{self.program}: {self.message}", file=file, err=True)


class _Postponement(_Refusal):
    exit_code = NotYet.exit_code


def _own_variable_first(prefix: str, param: click.Parameter) -> None:
    """If an option has aliases for its environment variable, put its ASR_ name first."""
    if param.envvar and param.name:
        aliases = [param.envvar] if isinstance(param.envvar, str) else param.envvar
        param.envvar = [f"{prefix}_{param.name.upper()}", *aliases]


# ---- Shared options ----


def _shared_options() -> list[click.Parameter]:
    file = click.Path(path_type=Path)
    return [
        click.Option(["--run-dir"], **_run_dir()),
        click.Option(
            ["--config"],
            type=file,
            multiple=True,
            is_eager=True,
            callback=_read_config,
            metavar="FILE",
            envvar="ASR_CONFIG",
            help="Read settings from this .yaml or .toml file instead of the usual places; repeatable.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(logs.LEVELS),
            default="info",
            show_default=True,
            help="Log nothing below this level.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(logs.FORMATS),
            default="console",
            show_default=True,
            help="One line per event on stderr: for people or for machines.",
        ),
    ]


def _run_dir() -> dict[str, Any]:
    return {
        "type": click.Path(path_type=Path),
        "default": default_run_dir,
        "callback": lambda _ctx, _param, value: prepare_run_dir(value),
        "metavar": "DIR",
        "envvar": "ASR_RUN_DIR",
        "show_default": "/run/asr-pool, $XDG_RUNTIME_DIR/asr-pool or /tmp/asr-pool-UID",
        "help": "Folder for the sockets between the processes of one pool.",
    }


def run_dir_option(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds --run-dir to a command that is no Process."""
    return click.option("--run-dir", **_run_dir())(function)


def link_options(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds the options for connecting to brokers on other hosts."""
    file = click.Path(path_type=Path)
    options = (
        click.option(
            "--curve-key",
            type=file,
            help="Key pair of this process (NAME.key_secret, from `asr-keys new`) for tcp.",
        ),
        click.option(
            "--curve-server-key",
            type=file,
            help="The broker's public key, or a folder of keys to try in turn; read again before every connect.",
        ),
        insecure_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def insecure_option(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds --insecure, which allows unencrypted links between hosts."""
    return click.option(
        "--insecure",
        is_flag=True,
        help="Allow links to other hosts without keys: anyone on the network may connect.",
    )(function)


# ---- Config files ----


def _read_config(ctx: click.Context, _param: click.Parameter, named: tuple[Path, ...]) -> tuple[Path, ...]:
    settings: dict[str, Any] = {}
    for path in _weakest_first(named or _found()):
        settings |= _settings_of(path, ctx)
    ctx.default_map = settings | _aliased(ctx)
    return named


def _aliased(ctx: click.Context) -> dict[str, Any]:
    """Settings from the older systems' environment variables, for options of this process; they override files."""
    assert isinstance(ctx.command, Process)
    options = {param.name: param for param in ctx.command.get_params(ctx) if param.name}
    given = aliases.aliases(ctx.command.section, aliases.environment_of(os.environ))
    return {name: _checked(it.value, options[name], ctx, it.where) for name, it in given.items() if name in options}


def _found() -> list[Path]:
    files = [folder / name for folder in CONFIG_DIRS for name in ("config.toml", "config.yaml")]
    return [path for path in files if os.path.isfile(path)]


def _weakest_first(files: Iterable[Path]) -> list[Path]:
    """Sort by precedence: YAML overrides TOML; within a kind, the later file wins."""
    return sorted(files, key=lambda path: path.suffix != ".toml")


def _settings_of(path: Path, ctx: click.Context) -> dict[str, Any]:
    """The settings in the process's section, each checked against its option. Raises SetupError."""
    assert isinstance(ctx.command, Process)
    sections = _parsed(path)
    for name in sections:
        _known(str(name), SECTIONS, f"section in {path}")
    section = ctx.command.section
    given = sections.get(section) or {}
    if not isinstance(given, dict):
        raise SetupError(f'section "{section}" in {path} must hold settings by name')
    options = {param.name: param for param in ctx.command.get_params(ctx) if param.name not in ("config", "help")}
    settings = {}
    for key, value in given.items():
        name = _known(str(key).replace("-", "_"), filter(None, options), f'setting in section "{section}" of {path}')
        if value is not None:
            settings[name] = _checked(value, options[name], ctx, f'"{key}" in section "{section}" of {path}')
    return settings


def _parsed(path: Path) -> dict[Any, Any]:
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise SetupError(f"{path} is no config file: its name must end in .yaml or .toml")
    try:
        text = path.read_text(encoding="utf-8")
        parsed = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise SetupError(f"cannot understand {path}: {' '.join(str(error).split())}") from error
    if not isinstance(parsed or {}, dict):
        raise SetupError(f"{path} must hold sections: {', '.join(SECTIONS)}")
    return parsed or {}


def _known(name: str, names: Iterable[str], kind: str) -> str:
    known = list(names)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(sorted(known))}"
    raise SetupError(f'unknown {kind}: "{name}" ({hint})')


def _checked(value: Any, param: click.Parameter, ctx: click.Context, where: str) -> Any:
    """The value in the form of click's default map. Raises SetupError if the option does not accept it."""
    if isinstance(value, dict) or (isinstance(value, list) and not param.multiple):
        raise SetupError(f"{where} takes a single value")
    values = [value] if param.multiple and not isinstance(value, list) else value
    try:
        param.type_cast_value(ctx, values)
    except click.BadParameter as error:
        raise SetupError(f"{where}: {error.message}") from error
    return values


# ---- The run directory and the endpoints in it ----


def default_run_dir() -> Path:
    """The first of the usual folders that this user can write to."""
    if os.access(SHARED_RUN_DIR, os.W_OK | os.X_OK):
        return SHARED_RUN_DIR
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and os.access(runtime_dir, os.W_OK | os.X_OK):
        return Path(runtime_dir) / "asr-pool"
    return _fallback_run_dir()


def _fallback_run_dir() -> Path:
    return FALLBACK_PARENT / f"asr-pool-{os.getuid()}"


def prepare_run_dir(path: Path) -> Path:
    """Create the directory if needed. Returns its absolute path.

    Raises SetupError if it cannot be used, or if it is in /tmp and another user can write to it.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise SetupError(f"cannot use {path} as run directory: {error.strerror}") from error
    ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
    if path == _fallback_run_dir() and not ours:
        raise SetupError(f"{path} belongs to another user: name another directory with --run-dir")
    return path


def frontends_endpoint(run_dir: Path, broker: int = 1) -> str:
    """The broker's endpoint for frontends; `broker` is 1 or 2, for the first or second broker of the pool."""
    return _ipc_endpoint(run_dir, "frontends", broker)


def workers_endpoint(run_dir: Path, broker: int = 1) -> str:
    """The broker's endpoint for workers."""
    return _ipc_endpoint(run_dir, "workers", broker)


def control_endpoint(run_dir: Path, broker: int = 1) -> str:
    """The broker's endpoint for `asr status`."""
    return _ipc_endpoint(run_dir, "control", broker)


def _ipc_endpoint(run_dir: Path, name: str, broker: int) -> str:
    return check_endpoint(f"ipc://{run_dir}/{name if broker == 1 else f'{name}-{broker}'}.ipc")


def check_endpoint(endpoint: str) -> str:
    """Return the endpoint if ZeroMQ can use it. Raises SetupError. asr_process.curve checks whether it needs keys."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest:
        _check_ipc_path(rest)
    elif scheme == "tcp" and rest:
        parse_address(rest)
    else:
        raise SetupError(f"{endpoint!r} is no endpoint: write ipc://PATH or tcp://HOST:PORT")
    return endpoint


def check_local_endpoint(endpoint: str) -> str:
    """`check_endpoint`, for an endpoint that must not be reachable from other machines. Raises SetupError."""
    if not is_local(check_endpoint(endpoint)):
        raise SetupError(f"{endpoint} leaves this machine: use ipc:// or a loopback address")
    return endpoint


def is_local(endpoint: str) -> bool:
    """Whether only this machine can use the endpoint, which `check_endpoint` has accepted."""
    scheme, _, rest = endpoint.partition("://")
    return scheme == "ipc" or parse_address(rest).is_loopback


def _check_ipc_path(path: str) -> None:
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise SetupError(
            f"the socket path {path} is longer than {IPC_PATH_BYTES_MAX} bytes: name a shorter directory with --run-dir"
        )


# ---- Types of options ----


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str) -> Address:
    """Parse HOST:PORT, with an IPv6 host in brackets. Raises SetupError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host) != bracketed or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SetupError(f"{text!r} is no address: write HOST:PORT, as in 127.0.0.1:8000 or [::1]:8000")
    return Address(host.strip("[]"), int(port))


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """A click type from a parse function that raises SetupError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Address):
            return value
        try:
            return self._parse(str(value))
        except SetupError as error:
            self.fail(str(error), param, ctx)


ADDRESS = _Parsed("HOST:PORT", parse_address)
ENDPOINT = _Parsed("ENDPOINT", check_endpoint)
LOCAL_ENDPOINT = _Parsed("ENDPOINT", check_local_endpoint)
