"""Reads `.nemo` checkpoints without NeMo and without running code that they contain.

A `.nemo` is a tar archive of a YAML configuration, a file of weights and the tokenizer's files. A folder with the
extracted files is read, too. Weights are read as plain tensors. A pickle that could run code is refused unless the
caller trusts it.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import IO, Any, cast

import torch
import yaml

from asr_proto.errors import SetupError
from asr_workers.engines.nemo.building import FAULTS
from asr_workers.engines.weights.hub import refusal

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"
ARTIFACT_PREFIX = "nemo:"
CONFIG_BYTES_MAX = 16 << 20
TOKENIZER_BYTES_MAX = 64 << 20
PARTS = ("preprocessor", "encoder", "decoder", "joint", "ctc_decoder")
"""Parts of the supported models. A checkpoint with another part, such as a prompt, is refused: its text would be wrong
without that part."""


@dataclass(frozen=True, slots=True)
class NemoCheckpoint:
    """The contents of a `.nemo`."""

    name: str
    """The path or hub name under which it was requested."""
    path: Path
    config: dict[str, Any]
    weights: dict[str, torch.Tensor]
    """Tensors on the CPU, by their names in NeMo's modules."""
    tokenizer: bytes
    """A serialized sentencepiece model."""
    checksum: str
    """First 16 hex digits of the sha256 of the file of weights."""
    license: str | None
    """From the configuration, else from the model card on the hub; None where neither names one."""


def read_checkpoint(model: str, *, trusted: bool = False) -> NemoCheckpoint:
    """The checkpoint at this path, or with this name on the hub. `trusted` permits a pickle that can run code.

    Raises SetupError with one sentence where it cannot be read, NotYet where the hub cannot be reached.
    """
    path, card = _locate(model)
    try:
        if path.is_dir():
            return _read(model, path, card, lambda name: _open_in_folder(path, name), trusted)
        with tarfile.open(path) as archive:
            members = {_plain(member.name): member for member in archive.getmembers() if member.isfile()}

            def open_member(name: str) -> IO[bytes]:
                found = members.get(name)
                file = archive.extractfile(found) if found else None
                if file is None:
                    raise SetupError(f"{path} has no {name}: it is not a NeMo checkpoint that can be read here")
                return file

            return _read(model, path, card, open_member, trusted)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SetupError(f"{path} is not a .nemo archive: {error}") from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(
    model: str, path: Path, card: str | None, opened: Callable[[str], IO[bytes]], trusted: bool
) -> NemoCheckpoint:
    with opened(CONFIG_NAME) as file:
        config = _config(file.read(CONFIG_BYTES_MAX), path)
    with opened(WEIGHTS_NAME) as file:
        checksum = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()[:16]
        file.seek(0)
        weights = _tensors(file, path, trusted)
    if others := sorted({name.partition(".")[0] for name in weights} - set(PARTS)):
        raise SetupError(f"{path} has the part {others[0]}: it is a kind of model that is not supported")
    with opened(_tokenizer_name(config, path)) as file:
        tokenizer = file.read(TOKENIZER_BYTES_MAX)
    license = config.get("license") or card
    return NemoCheckpoint(model, path, config, weights, tokenizer, checksum, str(license) if license else None)


def _config(text: bytes, path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SetupError(f"the configuration in {path} is not YAML") from error
    except FAULTS as error:
        raise SetupError(f"the configuration in {path} cannot be read") from error
    if not isinstance(config, dict):
        raise SetupError(f"the configuration in {path} is not a mapping")
    return config


def _tensors(file: IO[bytes], path: Path, trusted: bool) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=not trusted)
    except UnpicklingError as error:
        raise SetupError(
            f"the weights in {path} are a pickle that can run code: "
            "convert them to plain tensors, or trust the file with --trust-checkpoint"
        ) from error
    except FAULTS as error:
        raise SetupError(f"the weights in {path} are damaged") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise SetupError(f"the weights in {path} are not a table of tensors")
    return state


def _tokenizer_name(config: dict[str, Any], path: Path) -> str:
    """Name of the sentencepiece model in the archive: the configuration refers to it as `nemo:NAME`."""
    tokenizer = config.get("tokenizer")
    name = tokenizer.get("model_path") if isinstance(tokenizer, dict) else None
    if not isinstance(name, str) or not name.endswith(".model"):
        raise SetupError(f"{path} has no sentencepiece tokenizer, the only kind that is supported")
    return PurePosixPath(name.removeprefix(ARTIFACT_PREFIX)).name


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _open_in_folder(folder: Path, name: str) -> IO[bytes]:
    try:
        return (folder / name).open("rb")
    except FileNotFoundError as error:
        raise SetupError(f"{folder} has no {name}: it is not an extracted NeMo checkpoint") from error


def _locate(model: str) -> tuple[Path, str | None]:
    """Path of the archive or folder, and the license from the model card where it is on the hub."""
    path = Path(model).expanduser()
    if path.exists():
        return path, None
    if path.suffix == ".nemo" or model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise SetupError(f"there is no model at {model}")
    return _download(model)


def _download(model: str) -> tuple[Path, str | None]:
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for models that are not on disk
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise SetupError(f"model {model} is not on disk and huggingface_hub is not installed") from error
    name = f"{model.rsplit('/', maxsplit=1)[-1]}.nemo"
    try:
        # A cached file is used without a request to the hub, so that a start needs no network.
        return Path(hf_hub_download(model, name, local_files_only=True)), _cached_card(model)
    except (HFValidationError, LocalEntryNotFoundError):
        pass
    try:
        archive = hf_hub_download(model, name)
    except (HFValidationError, OSError) as error:
        raise refusal(model, error) from error
    with suppress(OSError):
        hf_hub_download(model, "README.md")
    return Path(archive), _cached_card(model)


def _cached_card(model: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only for models that are not on disk

    card = try_to_load_from_cache(model, "README.md")
    return card_license(Path(card).read_text("utf-8")) if isinstance(card, str) else None


def card_license(card: str) -> str | None:
    """The license in the YAML header of a model card; None where there is none."""
    parts = card.split("---", maxsplit=2)
    if len(parts) != 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    license = head.get("license") if isinstance(head, dict) else None
    return str(license) if license else None
