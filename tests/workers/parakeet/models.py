"""A small Parakeet-TDT with random weights, saved as NeMo saves them: it says much, and none of it makes sense."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

import sentencepiece  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from tests.workers.fastconformer.random_models import nemo_asr, speech_like  # noqa: E402

DURATIONS = (0, 1, 2, 3, 4)
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box near my jolly quiet fjord"


def tokenizer(folder: Path, size: int = 60) -> Path:
    """A folder with a SentencePiece model and its vocabulary, trained on a line of text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split()]),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(id) for id in range(processor.vocab_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    return folder


def config(folder: Path) -> dict[str, Any]:
    """Two layers of 64, 8 times subsampled, full attention, features normalised per recording."""
    return {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "model_defaults": {
            "enc_hidden": 64,
            "pred_hidden": 48,
            "joint_hidden": 48,
            "tdt_durations": list(DURATIONS),
            "num_tdt_durations": len(DURATIONS),
        },
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 2,
            "d_model": 64,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 32,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 48, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "num_extra_outputs": len(DURATIONS),
            "jointnet": {"joint_hidden": 48, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": list(DURATIONS),
            "greedy": {"max_symbols": 3},
        },
        "loss": {
            "loss_name": "tdt_pytorch",
            "tdt_pytorch_kwargs": {"durations": list(DURATIONS), "sigma": 0.02},
        },
    }


def random_tdt(folder: Path, seed: int = 0) -> Any:
    """The NeMo model, in evaluation mode."""
    asr = nemo_asr()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = OmegaConf.create(config(tokenizer(folder / "tokenizer")))
        model = asr.models.EncDecRNNTBPEModel(cfg=cfg, trainer=None).eval()
        calibrate(model)
    return model


@torch.inference_mode()
def calibrate(model: Any) -> None:
    """What it says depends on the audio and on the token before alike; every third frame says something."""
    encoded = encode_offline(model, speech_like(8.0, 99))
    joint, final = model.joint, model.joint.joint_net[-1]
    centre = encoded.mean(0)
    joint.enc.weight.mul_(2 / (encoded @ joint.enc.weight.T).std(0).mean())
    joint.enc.bias.copy_(-(centre @ joint.enc.weight.T))
    model.decoder.prediction.embed.weight[:-1].normal_(0, 3)
    final.weight.normal_(0, 2 / final.weight.shape[1] ** 0.5)
    low, high = -30.0, 30.0
    for _ in range(12):
        final.bias[-len(DURATIONS) - 1] = (low + high) / 2
        frequent = len(decode_offline(model, encoded)[0]) > len(encoded) / 3
        low, high = ((low + high) / 2, high) if frequent else (low, (low + high) / 2)


@torch.inference_mode()
def encode_offline(model: Any, pcm: NDArray[np.int16]) -> torch.Tensor:
    """NeMo's encoder frames [frames, width] of a whole recording."""
    signal = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
    encoded, lengths = model(input_signal=signal, input_signal_length=torch.tensor([len(pcm)]))
    return encoded[0, :, : int(lengths[0])].T.contiguous()


@torch.inference_mode()
def decode_offline(model: Any, encoded: torch.Tensor, state: Any = None) -> tuple[list[int], list[int], Any]:
    """NeMo's greedy tokens of frames [frames, width], where they are, and the state behind."""
    length = torch.tensor([len(encoded)])
    found, state = model.decoding.decoding.decoding_computer(encoded[None], length, state)
    count = int(found.current_lengths[0])
    return found.transcript[0, :count].tolist(), found.timestamps[0, :count].tolist(), state


def save(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_to(str(path))
    return path
