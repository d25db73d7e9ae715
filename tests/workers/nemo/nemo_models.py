"""NeMo, and the parts of its configurations that small FastConformers of random weights share."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nemo", reason="needs the extra nemo")
sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra nemo")


@dataclass(frozen=True, slots=True)
class Dimensions:
    layers: int
    width: int
    heads: int
    channels: int
    """Of the sub-sampling."""
    hidden: int
    """Of the prediction network."""
    joint: int
    vocabulary: int
    prediction_layers: int = 1


@cache
def nemo_asr() -> Any:
    """NeMo, imported without the warnings and log lines of its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.collections import asr
        from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    return asr


def speech_like(seconds: float, seed: int) -> NDArray[np.int16]:
    """Noise in changing bands and loudness: enough for features that vary."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16000)
    noise = rng.normal(0, 1, samples + 64).astype(np.float32)
    edges = np.cumsum(rng.integers(800, 4000, 1 + samples // 800))
    out = np.empty(samples, np.float32)
    begin = 0
    for end in edges:
        width = int(rng.integers(1, 40))
        kernel = np.ones(width, np.float32) / width
        out[begin:end] = np.convolve(noise, kernel, "same")[begin : min(end, samples)] * rng.uniform(0.001, 0.5)
        begin = end
        if begin >= samples:
            break
    return np.asarray(np.clip(out, -1, 1) * 32767, np.int16)


def write_tokenizer(folder: Path, model: bytes) -> None:
    """A serialized SentencePiece model as NeMo's tokenizers lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(id) for id in range(processor.vocab_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")


def transducer(tokenizer: Path, dimensions: Dimensions, normalize: str, encoder: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a FastConformer transducer without decoding and loss; `encoder` are its own settings."""
    modules = "nemo.collections.asr.modules"
    return {
        "sample_rate": 16000,
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "model_defaults": {
            "enc_hidden": dimensions.width,
            "pred_hidden": dimensions.hidden,
            "joint_hidden": dimensions.joint,
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": normalize,
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": dimensions.layers,
            "d_model": dimensions.width,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": dimensions.channels,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": dimensions.heads,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        }
        | encoder,
        "decoder": {
            "_target_": f"{modules}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": dimensions.hidden,
                "pred_rnn_layers": dimensions.prediction_layers,
                "t_max": None,
                "dropout": 0.2,
            },
        },
        "joint": {
            "_target_": f"{modules}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": dimensions.joint, "activation": "relu", "dropout": 0.2},
        },
    }
