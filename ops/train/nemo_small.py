"""The small NeMo models: shared configuration, the tokenizer of ten words, decoding, and saving in half precision."""

import io
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from augment import Audio
from digits import WORDS
from torch import Tensor

WIDTH = 144
WEIGHTS = "model_weights.ckpt"


def common(folder: Path) -> dict[str, Any]:
    """The part that all configurations share. `folder` holds the tokenizer."""
    return {
        "sample_rate": 16000,
        "log_prediction": False,
        "model_defaults": {"enc_hidden": WIDTH, "pred_hidden": WIDTH, "joint_hidden": WIDTH},
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "decoder": decoder(),
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def preprocessor(normalize: str) -> dict[str, Any]:
    """80 log-mel bands of 25 ms every 10 ms, without dither and padding, so that streaming gives the same features."""
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "normalize": normalize,
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": 80,
        "n_fft": 512,
        "log": True,
        "frame_splicing": 1,
        "dither": 0.0,
        "pad_to": 0,
    }


def spec_augment(mask_value: float) -> dict[str, Any]:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779) with wide masks in frequency and short masks in time.

    A time mask as long as a word would hide the word but not its label. `mask_value` must be a quiet log-mel value if
    features are not normalized, because 0 would be loud.
    """
    return {
        "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
        "freq_masks": 2,
        "freq_width": 15,
        "time_masks": 2,
        "time_width": 8,
        "mask_value": mask_value,
    }


def encoder() -> dict[str, Any]:
    """Four FastConformer layers of width 144, with eight-fold sub-sampling."""
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 80,
        "feat_out": -1,
        "n_layers": 4,
        "d_model": WIDTH,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 64,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "xscaling": False,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 9,
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    }


def decoder() -> dict[str, Any]:
    """A prediction network of one LSTM layer."""
    return {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "prednet": {"pred_hidden": WIDTH, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
    }


def joint(durations: int = 0) -> dict[str, Any]:
    """The joint network, with `durations` additional outputs for a TDT model."""
    extra = {"num_extra_outputs": durations} if durations else {}
    return {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": False,
        "jointnet": {"joint_hidden": WIDTH, "activation": "relu", "dropout": 0.1},
    } | extra


def tokenizer(folder: Path) -> None:
    """Write a sentencepiece model in which each digit word is one token, and the vocab.txt that NeMo needs."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 10),
        model_prefix=str(folder / "tokenizer"),
        model_type="word",
        vocab_size=len(WORDS) + 1,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The rows zero-padded to one tensor [B, n], and their lengths [B]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows])


def transcribe(model: Any, audios: Sequence[Audio], batch: int = 32) -> list[str]:
    """The texts of NeMo's greedy decoding, one for each audio float32 [n]."""
    texts: list[str] = []
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(audios), batch):
            audio, samples = pad([torch.from_numpy(pcm) for pcm in audios[at : at + batch]])
            encoded, frames = model(input_signal=audio, input_signal_length=samples)
            found = model.decoding.rnnt_decoder_predictions_tensor(encoded, frames, return_hypotheses=False)
            texts += [one.text for one in found]
    return texts


def save(model: Any, path: Path) -> None:
    """Write `model` as a .nemo with parameters in half precision. The file has half the size and loads as float32.

    The feature extractor's tables keep full precision, so that other feature extractors can match them. Running
    statistics keep full precision too, because they may exceed the range of half precision.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model.cfg.tokenizer.dir = ""  # a temporary folder; the .nemo contains its files
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder, "whole.nemo"), Path(folder, "small.nemo")
        model.save_to(str(whole))
        with tarfile.open(whole) as source, tarfile.open(small, "w") as target:
            for member in source.getmembers():
                data = source.extractfile(member)
                if data is None:
                    continue
                content = data.read()
                if member.name.endswith(WEIGHTS):
                    content = _halved(content)
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
        shutil.move(small, path)


def start_from(model: Any, path: Path) -> int:
    """Copy every tensor of another .nemo that has the same name and shape here. Returns their number."""
    with tarfile.open(path) as file:
        (member,) = [one for one in file.getmembers() if one.name.endswith(WEIGHTS)]
        content = file.extractfile(member)
        assert content is not None
        weights: dict[str, Tensor] = torch.load(io.BytesIO(content.read()), map_location="cpu", weights_only=True)
    own: dict[str, Tensor] = model.state_dict()
    shared = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape and not name.startswith("preprocessor.")
    }
    model.load_state_dict(shared, strict=False)
    return len(shared)


def _halved(content: bytes) -> bytes:
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    kept = {name: tensor.half() if _is_parameter(name, tensor) else tensor for name, tensor in weights.items()}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    return buffer.getvalue()


def _is_parameter(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not name.startswith("preprocessor.") and "running_" not in name
