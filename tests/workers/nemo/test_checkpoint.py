"""Checkpoints are read without running code in them. A checkpoint that cannot be read gives one sentence."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_proto.errors import NotYet, SetupError

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.nemo import checkpoint as nemo_checkpoint  # noqa: E402 - needs torch

CONFIG: dict[str, Any] = {"tokenizer": {"model_path": "nemo:abc_tokenizer.model"}, "license": "CC-BY-4.0"}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def folder_of(tmp_path: Path, config: Any = CONFIG, state: Any = None) -> Path:
    folder = tmp_path / "extracted"
    folder.mkdir()
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"encoder.w": torch.arange(3.0)} if state is None else state, folder / "model_weights.ckpt")
    (folder / "abc_tokenizer.model").write_bytes(b"pieces")
    return folder


def archive_of(folder: Path, mode: str = "w") -> Path:
    path = folder.parent / "model.nemo"
    with tarfile.open(path, mode) as archive:
        for file in folder.iterdir():
            archive.add(file, f"./{file.name}")
    return path


@pytest.mark.parametrize("form", ["folder", "tar", "gzip"])
def test_reads_config_weights_tokenizer_and_license(tmp_path: Path, form: str) -> None:
    folder = folder_of(tmp_path)
    path = folder if form == "folder" else archive_of(folder, "w" if form == "tar" else "w:gz")
    checkpoint = nemo_checkpoint.read_checkpoint(str(path))
    assert checkpoint.weights["encoder.w"].tolist() == [0, 1, 2]
    assert (checkpoint.tokenizer, checkpoint.license) == (b"pieces", "CC-BY-4.0")
    digest = hashlib.sha256((folder / "model_weights.ckpt").read_bytes()).hexdigest()
    assert checkpoint.checksum == digest[:16]


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    path = archive_of(folder_of(tmp_path, state={"encoder.w": Evil(made)}))
    with pytest.raises(SetupError, match="can run code"):
        nemo_checkpoint.read_checkpoint(str(path))
    assert not made.exists()


def test_a_trusted_pickle_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    path = archive_of(folder_of(tmp_path, state={"encoder.w": Evil(made)}))
    with pytest.raises(SetupError, match="not a table of tensors"):
        nemo_checkpoint.read_checkpoint(str(path), trusted=True)
    assert made.exists()


def test_members_outside_the_archive_are_not_touched(tmp_path: Path) -> None:
    config = {"tokenizer": {"model_path": "nemo:../../secret.model"}}
    (tmp_path / "secret.model").write_bytes(b"secret")
    with pytest.raises(SetupError, match=r"no secret\.model"):
        nemo_checkpoint.read_checkpoint(str(folder_of(tmp_path, config)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "no sentencepiece tokenizer"),
        ({"tokenizer": {"type": "agg"}}, "no sentencepiece tokenizer"),
        (["list"], "not a mapping"),
    ],
)
def test_configurations_that_are_not_understood(tmp_path: Path, config: Any, sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        nemo_checkpoint.read_checkpoint(str(folder_of(tmp_path, config)))


def test_damaged_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "model_weights.ckpt").write_bytes(b"\x80\x02garbage")
    with pytest.raises(SetupError, match="weights in"):
        nemo_checkpoint.read_checkpoint(str(folder))
    (folder / "model_weights.ckpt").unlink()
    with pytest.raises(SetupError, match=r"no model_weights\.ckpt"):
        nemo_checkpoint.read_checkpoint(str(archive_of(folder)))
    no_archive = tmp_path / "x.nemo"
    no_archive.write_bytes(b"text")
    with pytest.raises(SetupError, match=r"not a \.nemo archive"):
        nemo_checkpoint.read_checkpoint(str(no_archive))


@pytest.mark.parametrize("model", ["./gone", "gone.nemo", "/gone/model", "name"])
def test_a_path_that_is_not_there(model: str) -> None:
    with pytest.raises(SetupError, match="there is no model at"):
        nemo_checkpoint.read_checkpoint(model)


def test_a_hub_name_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra nemo")
    errors = pytest.importorskip("huggingface_hub.errors")

    def offline(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("cannot reach the hub\nmore lines")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(NotYet, match=r"^model nvidia/some_model is not on disk and the hub cannot be reached$"):
        nemo_checkpoint.read_checkpoint("nvidia/some_model")


def _answer(status: int) -> Any:
    httpx = pytest.importorskip("httpx")
    return httpx.Response(status, request=httpx.Request("GET", "http://hub.test/x"))


@pytest.mark.parametrize(
    ("error", "status", "refused", "sentence"),
    [
        ("GatedRepoError", 403, SetupError, "the hub gives nvidia/some_model only after its terms were accepted"),
        ("RepositoryNotFoundError", 404, SetupError, "neither on disk nor on the hub"),
        ("RemoteEntryNotFoundError", 404, SetupError, "lacks the file that this engine needs"),
        ("HfHubHTTPError", 403, SetupError, "the hub refuses nvidia/some_model, with status 403"),
        ("HfHubHTTPError", 429, NotYet, "the hub cannot be reached"),
        ("HfHubHTTPError", 503, NotYet, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_has_answered_for_good_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch, error: str, status: int, refused: type[SetupError], sentence: str
) -> None:
    """A worker that ends with NotYet is started again and again."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra nemo")
    errors = pytest.importorskip("huggingface_hub.errors")

    def download(_: str, __: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        raise getattr(errors, error)("it says so", response=_answer(status))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(SetupError, match=sentence) as caught:
        nemo_checkpoint.read_checkpoint("nvidia/some_model")
    assert type(caught.value) is refused


def test_a_hub_name_is_fetched_with_its_cards_license(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra nemo")
    errors = pytest.importorskip("huggingface_hub.errors")
    path = archive_of(folder_of(tmp_path, {"tokenizer": CONFIG["tokenizer"]}))
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: cc-by-4.0\n---\n# Model\n")
    asked = []

    def download(repository: str, name: str, local_files_only: bool = False) -> str:
        asked.append((repository, name, local_files_only))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        return str(card if name == "README.md" else path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: str(card))
    checkpoint = nemo_checkpoint.read_checkpoint("nvidia/some_model")
    assert (checkpoint.name, checkpoint.license) == ("nvidia/some_model", "cc-by-4.0")
    assert asked[:2] == [("nvidia/some_model", "some_model.nemo", local) for local in (True, False)]


@pytest.mark.parametrize("card", ["no head", "---\n- list\n---\n", "---\n: [\n---\n", "---\ntitle: x\n---\n"])
def test_cards_that_state_no_license(card: str) -> None:
    assert nemo_checkpoint.card_license(card) is None


@pytest.mark.parametrize("cut", [1, 2, 40, 100, 200, 400, 800])
def test_weights_that_end_early(tmp_path: Path, cut: int) -> None:
    folder = folder_of(tmp_path)
    file = folder / "model_weights.ckpt"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(SetupError, match="weights in"):
        nemo_checkpoint.read_checkpoint(str(folder))


@pytest.mark.parametrize("weights", [b"", b"\x80\x02.", b"\x80\x02]q\x00h\x05.", b"\x80\x02X\x01", b"\x80\x02J\x01."])
def test_weights_that_are_no_pickle(tmp_path: Path, weights: bytes) -> None:
    folder = folder_of(tmp_path)
    (folder / "model_weights.ckpt").write_bytes(weights)
    with pytest.raises(SetupError, match="weights in"):
        nemo_checkpoint.read_checkpoint(str(folder))


def test_weights_without_names(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not a table of tensors"):
        nemo_checkpoint.read_checkpoint(str(folder_of(tmp_path, state={3: torch.zeros(1)})))


def test_a_damaged_compressed_archive(tmp_path: Path) -> None:
    path = archive_of(folder_of(tmp_path), "w:gz")
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    path.write_bytes(bytes(packed))
    with pytest.raises(SetupError, match=str(path)):
        nemo_checkpoint.read_checkpoint(str(path))
