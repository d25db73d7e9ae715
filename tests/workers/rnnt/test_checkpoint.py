"""Hardware checkpoints: valid ones are read, and each invalid one gives one sentence (CAI-38)."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sentencepiece = pytest.importorskip("sentencepiece")

from asr_proto.errors import SetupError  # noqa: E402 (torch may be missing)
from asr_workers.cards import carm  # noqa: E402
from asr_workers.cards.carm import CarmConfig  # noqa: E402
from asr_workers.engines.rnnt import checkpoint  # noqa: E402
from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint  # noqa: E402
from asr_workers.engines.rnnt.model import Rnnt  # noqa: E402

SIZES = CarmConfig(240, 8, 2, 1, 2, 4, 1, 6, 4, 400)
DIGITS = Path(__file__).parents[3] / "ops" / "models" / "digits-rnnt.pt"


def pieces(*words: str) -> bytes:
    """A sentencepiece model of these words and <unk>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        model_type="word",
        vocab_size=len(words) + 1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(name="small")
def _small() -> RnntCheckpoint:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    means, variances = rng.normal(-10, 2, 80).astype(np.float32), rng.uniform(1, 9, 80).astype(np.float32)
    return RnntCheckpoint(SIZES, dict(Rnnt(SIZES).state_dict()), means, variances, pieces("yes", "no"))


@pytest.fixture(name="path")
def _path(tmp_path: Path, small: RnntCheckpoint) -> Path:
    checkpoint.save(tmp_path / "small.pt", small, step=7, best_wer=0.5)
    return tmp_path / "small.pt"


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_what_was_saved_is_read_back(small: RnntCheckpoint, path: Path) -> None:
    """CAI-38: keys, shapes and configuration are checked when it is read."""
    found = checkpoint.load(path)
    assert found.sizes == SIZES
    assert found.version == checkpoint.VERSION
    assert found.sentencepiece == small.sentencepiece
    assert len(found.checksum) == 64
    np.testing.assert_array_equal(found.means, small.means)
    for name, tensor in found.tensors.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, small.tensors[name].half().float(), rtol=0, atol=0)


def test_the_model_has_the_weights(path: Path) -> None:
    found = checkpoint.load(path)
    state = found.model().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SIZES.shapes()
    assert all(torch.equal(state[name], tensor) for name, tensor in found.tensors.items())


def test_a_checkpoint_of_window_320_with_an_ngram_is_read(path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["rnnt_config"]["input_val"]["filterbank_features"]["window_size"] = 0.02
        content["ngram"] = {"binary": b"lm", "scale_factor": 0.05}

    _change(path, change)
    assert checkpoint.load(path).sizes.window_samples == 320


def test_a_card_model_is_made_of_it(path: Path, tmp_path: Path) -> None:
    """CAI-11"""
    found = checkpoint.load(path)
    found.compile(tmp_path / "small.carm", "fp32")
    compiled = carm.read(tmp_path / "small.carm")
    assert compiled.config == SIZES
    assert compiled.source_checksum == found.checksum
    assert compiled.sentencepiece == found.sentencepiece
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(compiled.tensors[name].dequantized(), tensor.numpy())


@pytest.mark.parametrize("key", checkpoint.KEYS)
def test_a_missing_key_is_named(path: Path, key: str) -> None:
    _change(path, lambda content: content.pop(key))
    with pytest.raises(SetupError, match=f"lacks {key}"):
        checkpoint.load(path)


def _filterbank(content: dict[str, Any]) -> dict[str, Any]:
    return content["rnnt_config"]["input_val"]["filterbank_features"]


def _weights(content: dict[str, Any], tensor: torch.Tensor) -> None:
    content["state_dict"]["joint_enc.bias"] = tensor


def _fill(tensor: torch.Tensor, value: float) -> None:
    tensor[0] = value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.update(version="2.0.0"), "version 2.0.0"),
        (lambda c: c.update(version=1), "version 1,"),
        (lambda c: c.update(melalpha=0.001), "moving average"),
        (lambda c: c.update(logmel_norm_weight=0.4), "logmel_norm_weight of 0.4"),
        (lambda c: c.update(melalpha=torch.zeros(2)), "melalpha that is not a number"),
        (lambda c: c.update(logmel_norm_weight="1.0"), "logmel_norm_weight that is not a number"),
        (lambda c: c.update(ema_state_dict={}), "training checkpoint"),
        (lambda c: c.update(melmeans=torch.zeros(40)), "no 80 values in melmeans"),
        (lambda c: c.update(melmeans=torch.zeros(80).to_sparse()), "no 80 values in melmeans"),
        (lambda c: c.update(melvars=torch.ones(80, device="meta")), "no 80 values in melvars"),
        (lambda c: _fill(c["melmeans"], float("nan")), "melmeans that are not finite"),
        (lambda c: _fill(c["melvars"], 0.0), "not positive"),
        (lambda c: c.update(rnnt_config={}), "lacks input_val.filterbank_features"),
        (lambda c: c.update(rnnt_config={"input_val": {"filterbank_features": 1}}), "no section input_val"),
        (lambda c: c["rnnt_config"].pop("rnnt"), "lacks rnnt in its configuration"),
        (lambda c: _filterbank(c).update(n_fft=1024), "n_fft is 1024 instead of 512"),
        (lambda c: _filterbank(c).update(n_filt=torch.zeros(2)), "n_filt is tensor"),
        (lambda c: _filterbank(c).update(sample_rate=8000), "sample_rate is 8000"),
        (lambda c: _filterbank(c).update(window_size=0.03), "window_size of 0.03"),
        (lambda c: c["rnnt_config"]["rnnt"].update(in_feats=80), "in_feats 80"),
        (lambda c: c["rnnt_config"]["rnnt"].update(enc_n_hid="8"), "enc_n_hid 8"),
        (lambda c: c["rnnt_config"]["rnnt"].update(enc_stack_time_factor=1), "one encoder step per 60 ms"),
        (lambda c: c["rnnt_config"]["rnnt"].update(pred_rnn_layers=1 << 20), "sizes are out of range"),
        (lambda c: c["rnnt_config"]["rnnt"].update(enc_post_rnn_layers=2), "lacks encoder.post_rnn.lstm.weight_ih_l1"),
        (lambda c: c["rnnt_config"]["rnnt"].update(pred_n_hid=5), "prediction.dec_rnn.lstm.weight_ih_l0 of shape"),
        (lambda c: c["state_dict"].update(extra=torch.zeros(1)), "not known: extra"),
        (lambda c: c["state_dict"].pop("joint_net.2.bias"), "lacks the tensor joint_net.2.bias"),
        (lambda c: c["state_dict"].update(extra=1), "state_dict that is not a table of tensors"),
        (lambda c: _weights(c, torch.zeros(6, dtype=torch.int64)), "joint_enc.bias .* not a plain tensor"),
        (lambda c: _weights(c, torch.zeros(6).to_sparse()), "joint_enc.bias .* not a plain tensor"),
        (lambda c: _weights(c, torch.zeros(6, device="meta")), "joint_enc.bias .* not a plain tensor"),
        (lambda c: _weights(c, torch.zeros(1).expand(6)), "joint_enc.bias .* not a plain tensor"),
        (lambda c: _weights(c, torch.full((6,), 1e300, dtype=torch.float64)), "joint_enc.bias that are not finite"),
        (lambda c: _fill(c["state_dict"]["joint_enc.bias"], float("inf")), "joint_enc.bias that are not finite"),
        (lambda c: c.update(sentpiece_model=pieces("a", "b", "c", "d")), "5 sentencepieces for 4 classes"),
        (lambda c: c.update(sentpiece_model=b"none"), "sentpiece_model that is not a sentencepiece model"),
        (lambda c: c.update(sentpiece_model="none"), "sentpiece_model that is not bytes"),
    ],
)
def test_what_does_not_fit_is_said(path: Path, change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    _change(path, change)
    with pytest.raises(SetupError, match=sentence) as raised:
        checkpoint.load(path)
    assert str(raised.value).startswith(str(path))


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["HARM"],)


def test_nothing_in_a_file_is_executed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    content = torch.load(path, weights_only=True)
    torch.save({**content, "epoch": _Harmful()}, path)
    with pytest.raises(SetupError, match="not loaded"):
        checkpoint.load(path)
    assert not (tmp_path / "harm").exists()


def test_a_list_is_no_checkpoint(path: Path) -> None:
    torch.save([1], path)
    with pytest.raises(SetupError, match="holds no dictionary"):
        checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SetupError, match="truncated" if share else "not a hardware checkpoint"):
        checkpoint.load(path)


def test_a_changed_byte_is_noticed(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(SetupError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("pickled", [b"", b"\x80\x02.", b"\x80\x02}}s.", b"\x80\x02]\x94h\x07.", b"\x80\x7f"])
def test_what_cannot_be_unpickled_is_refused(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else part)
    with pytest.raises(SetupError, match=r"is not a file of torch\.save|is not loaded"):
        checkpoint.load(path)


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99)])
def test_an_archive_of_another_kind_is_refused(path: Path, at: int, value: int) -> None:
    """The archive is encrypted, or compressed with an unknown method."""
    image = bytearray(path.read_bytes())
    entry = image.index(b"PK\1\2")
    image[entry + at] |= value
    image[at - 2] |= value
    path.write_bytes(image)
    with pytest.raises(SetupError, match="is damaged, or an archive of another kind"):
        checkpoint.load(path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_precisions_are_read(path: Path, kind: torch.dtype) -> None:
    """And parameters, which have gradients."""

    def change(content: dict[str, Any]) -> None:
        for name, tensor in content["state_dict"].items():
            content["state_dict"][name] = tensor.to(kind).requires_grad_()
        content["melmeans"].requires_grad_()

    _change(path, change)
    found = checkpoint.load(path)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in found.tensors.values())


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    checkpoint.load(path).compile(tmp_path / "small.carm", "int8")
    with pytest.raises(SetupError, match="compiled card model"):
        checkpoint.load(tmp_path / "small.carm")
    path.write_bytes(b"RIFF....")
    with pytest.raises(SetupError, match="not a hardware checkpoint"):
        checkpoint.load(path)
    with pytest.raises(SetupError, match="cannot be read"):
        checkpoint.load(tmp_path / "none.pt")


def test_the_shipped_model_is_whole() -> None:
    found = checkpoint.load(DIGITS)
    assert found.sizes.name == "other"
    assert sum(tensor.numel() for tensor in found.tensors.values()) == 1_503_660
    assert DIGITS.stat().st_size < 4_000_000
    words = sentencepiece.SentencePieceProcessor(model_proto=found.sentencepiece)
    assert words.decode(words.encode("seven zero nine")) == "seven zero nine"
