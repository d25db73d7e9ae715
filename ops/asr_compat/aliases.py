"""Translates variables of the five systems that this project replaces into settings of its processes.

A process's own variables win over these variables, and these win over config files. So AMIRA's order holds:
environment > config.yaml > config.toml > defaults. ops/compat/environment.md lists every variable, also those that
have no meaning here. This module must not know click, nor which options a process has: the caller selects the options
that its process has.

    python -m asr_compat.aliases [yaml|toml]     writes this environment as a config file of this project
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr_proto.errors import SetupError

Value = str | list[str]
Environment = Mapping[str, str]
PROCESSES = ("broker", "worker", "frontend", "serve")
AMIRA_FILE = "AMIRA_CONFIG_FILE"
AMIRA_PREFIX = "AMIRA_"
LEGACY = ("SERVER_HOST", "SERVER_PORT")
"""AMIRA's variables without its prefix that have a meaning here."""
ANY_HOST, YAP_PORT, AMIRA_PORT = "0.0.0.0", "8000", "8057"
BYTES_PER_S = 32_000
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
LEVELS = {name: name for name in ("debug", "info", "warning", "error")}
OTHER_LEVELS = {"trace": "debug", "warn": "warning", "critical": "error", "off": "error"}


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value and the variables that gave it. Error messages name the variables."""

    value: Value
    variables: tuple[str, ...]

    @property
    def where(self) -> str:
        return " and ".join(self.variables)


@dataclass(frozen=True, slots=True)
class Alias:
    """An option of some processes and the older variables for it. The first variable that is set gives its value."""

    processes: tuple[str, ...]
    option: str
    variables: tuple[str, ...]
    read: Callable[[str, str], str | None] = lambda _variable, value: value
    """Converts (variable's name, variable's value) to the setting's value. None: the value has no meaning here."""

    def find(self, environment: Environment) -> Given | None:
        for variable in self.variables:
            value = self.read(variable, environment[variable]) if environment.get(variable) else None
            if value is not None:
                return Given(value, (variable,))
        return None


def _seconds_of_bytes(variable: str, value: str) -> str:
    """Convert a number of audio bytes to seconds. Raises SetupError unless `value` is an integer."""
    try:
        return f"{int(value) / BYTES_PER_S:g}"
    except ValueError:
        raise SetupError(f"{variable}: {value!r} is not a number of bytes") from None


def _seconds_of_ms(variable: str, value: str) -> str:
    try:
        return f"{int(value) / 1000:g}"
    except ValueError:
        raise SetupError(f"{variable}: {value!r} is not a number of milliseconds") from None


def _context(_variable: str, value: str) -> str | None:
    """The attention context. The older server took its default for any value that is not two numbers: None here."""
    left, _, right = value.strip("[] ").partition(",")
    return value if left.strip().isdigit() and right.strip().isdigit() else None


def _precision(_variable: str, value: str) -> str:
    """The precision. The older server took fp16 for any unknown value."""
    return value if value in PRECISIONS else "fp16"


def _level(_variable: str, value: str) -> str | None:
    """The level for all modules, from `INFO` or `info,some::module=debug`. None if it is unknown.

    An unknown level is no error, because other programs read RUST_LOG too.
    """
    levels = [part.strip().lower() for part in value.split(",") if "=" not in part]
    return (LEVELS | OTHER_LEVELS).get(levels[0]) if levels else None


def _any_origin(_variable: str, value: str) -> str | None:
    return "*" if value.strip().lower() in ("1", "true", "yes", "on") else None


ALIASES = (
    Alias(PROCESSES, "log_level", ("ASR_LOG_LEVEL", "RUST_LOG"), _level),
    Alias(("worker",), "device", ("ASR_DEVICE",)),
    Alias(("worker",), "slots", ("ASR_MAX_BATCH",)),
    Alias(("worker",), "threads", ("AMIRA_INFERENCE_THREADS",)),
    Alias(("worker",), "model", ("ASR_MODEL", "MOONSHINE_MODEL_ID")),
    Alias(("worker",), "att_context", ("ASR_ATT_CTX",), _context),
    Alias(("worker",), "decoder", ("ASR_DECODER",)),
    Alias(("worker",), "precision", ("MOONSHINE_PRECISION",), _precision),
    Alias(("worker",), "batch_size_max", ("MAX_BATCH_SIZE",)),
    Alias(("worker",), "batch_wait_ms", ("MAX_BATCH_WAIT_MS",)),
    Alias(("worker",), "chunk_s", ("STEP_MS",), _seconds_of_ms),
    Alias(("worker",), "right_s", ("RIGHT_CONTEXT_MS",), _seconds_of_ms),
    Alias(("frontend",), "idle_s", ("SESSION_IDLE_TIMEOUT", "AMIRA_STREAM_TIMEOUT_SECS")),
    Alias(("frontend",), "credit_s", ("AMIRA_AUDIO_BUFFER_CAPACITY",), _seconds_of_bytes),
    Alias(("frontend",), "webrtc_path", ("ASR_WEBRTC_PATH", "WEBRTC_OFFER_PATH")),
    Alias(("frontend",), "origin", ("AMIRA_ENABLE_CORS",), _any_origin),
    Alias(("frontend",), "amira_streams_max", ("AMIRA_MAX_CONCURRENT_STREAMS",)),
    Alias(("frontend",), "amira_batches_max", ("AMIRA_MAX_CONCURRENT_BATCHES",)),
    Alias(("frontend",), "amira_batch_s_max", ("AMIRA_MAX_BATCH_AUDIO_LENGTH_SECS",)),
    Alias(("frontend",), "amira_request_bytes_max", ("AMIRA_MAX_REQUEST_SIZE",)),
)


def aliases(process: str, environment: Environment) -> dict[str, Given]:
    """The settings that the older variables give this process, by option. Raises SetupError for an invalid number."""
    found = {alias.option: alias.find(environment) for alias in ALIASES if process in alias.processes}
    if process in ("frontend", "serve"):
        found["listen"] = _listen(environment)
    return {option: given for option, given in found.items() if given is not None}


def _listen(environment: Environment) -> Given | None:
    """The addresses of all older systems whose variables are set. One frontend serves all dialects on each address."""
    addresses = [
        _address(environment, ("ASR_HOST",), ("ASR_PORT",), YAP_PORT),
        _address(environment, ("AMIRA_SERVER_HOST", "SERVER_HOST"), ("AMIRA_SERVER_PORT", "SERVER_PORT"), AMIRA_PORT),
    ]
    given = [one for one in addresses if one is not None]
    if not given:
        return None
    values = list(dict.fromkeys(str(one.value) for one in given))
    return Given(values, tuple(variable for one in given for variable in one.variables))


def _address(
    environment: Environment, hosts: tuple[str, ...], ports: tuple[str, ...], default_port: str
) -> Given | None:
    """HOST:PORT from two variables. Either may be missing; None if both are."""
    host = next((name for name in hosts if environment.get(name)), None)
    port = next((name for name in ports if environment.get(name)), None)
    variables = tuple(name for name in (host, port) if name is not None)
    if not variables:
        return None
    host_value = environment[host] if host else ANY_HOST
    shown = f"[{host_value}]" if ":" in host_value and not host_value.startswith("[") else host_value
    return Given(f"{shown}:{environment[port] if port else default_port}", variables)


# ---- AMIRA's config file ----


def environment_of(environ: Environment) -> dict[str, str]:
    """The environment, completed by the settings of the file that AMIRA_CONFIG_FILE names. The environment wins.

    Raises SetupError if the file cannot be read or parsed.
    """
    named = environ.get(AMIRA_FILE)
    if not named:
        return dict(environ)
    from_file = {f"{AMIRA_PREFIX}{name.upper()}": value for name, value in _flat(Path(named)).items()}
    legacy = {f"{AMIRA_PREFIX}{name}": environ[name] for name in LEGACY if environ.get(name)}
    return from_file | legacy | dict(environ)


def _flat(path: Path) -> dict[str, str]:
    """The settings of a file in AMIRA's form: names and plain values, without sections. Raises SetupError."""
    try:
        text = path.read_text(encoding="utf-8")
        parsed = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise SetupError(f"{AMIRA_FILE}: cannot read {path}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise SetupError(f"{AMIRA_FILE}: cannot parse {path}: {' '.join(str(error).split())}") from error
    if not isinstance(parsed or {}, dict) or any(isinstance(value, dict | list) for value in (parsed or {}).values()):
        raise SetupError(f"{AMIRA_FILE}: {path} has sections; name a file of this project with ASR_CONFIG instead")
    return {str(name): _plain(value) for name, value in (parsed or {}).items() if value is not None}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- As a config file ----


def sections(environment: Environment) -> dict[str, dict[str, Value]]:
    """All settings that the older variables give, by process and option, as in a config file."""
    found = {process: aliases(process, environment) for process in PROCESSES}
    return {
        process: {option: given.value for option, given in settings.items()}
        for process, settings in found.items()
        if settings
    }


def to_yaml(settings: dict[str, dict[str, Value]]) -> str:
    """The settings as YAML text; empty without settings."""
    return yaml.safe_dump(settings, sort_keys=True) if settings else ""


def to_toml(settings: dict[str, dict[str, Value]]) -> str:
    """The settings as TOML text. JSON strings and lists of them are valid TOML."""
    lines = []
    for process, options in sorted(settings.items()):
        lines.append(f"[{process}]")
        lines += [f"{option} = {json.dumps(value)}" for option, value in sorted(options.items())]
    return "".join(f"{line}\n" for line in lines)


def main(arguments: list[str], environ: Environment) -> int:
    """Write the config file to stdout. Returns the exit code: 2 for wrong arguments or an invalid setting."""
    formats = {"yaml": to_yaml, "toml": to_toml}
    form = arguments[0] if arguments else "yaml"
    if len(arguments) > 1 or form not in formats:
        sys.stderr.write("usage: python -m asr_compat.aliases [yaml|toml]\n")
        return 2
    try:
        sys.stdout.write(formats[form](sections(environment_of(environ))))
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
