"""A small Parakeet-TDT with random weights, saved by NeMo. It emits many tokens, whose text has no meaning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from omegaconf import OmegaConf  # noqa: E402

from tests.workers.nemo.nemo_models import Dimensions, nemo_asr, speech_like, transducer, write_tokenizer  # noqa: E402
from tests.workers.nemo.nemo_parts import vocabulary  # noqa: E402

DURATIONS = (0, 1, 2, 3, 4)
DIMENSIONS = Dimensions(
    layers=2, width=64, heads=4, channels=32, hidden=48, joint=48, vocabulary=60, prediction_layers=2
)


def configuration(tokenizer: Path) -> Any:
    """Two layers of 64, full attention, features normalized per recording."""
    encoder = {
        "causal_downsampling": False,
        "att_context_size": [-1, -1],
        "xscaling": False,
        "conv_norm_type": "batch_norm",
    }
    found = transducer(tokenizer, DIMENSIONS, "per_feature", encoder) | {
        "compute_eval_loss": False,
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": list(DURATIONS),
            "greedy": {"max_symbols": 3},
        },
        "loss": {"loss_name": "tdt_pytorch", "tdt_pytorch_kwargs": {"durations": list(DURATIONS), "sigma": 0.02}},
    }
    found["model_defaults"] |= {"tdt_durations": list(DURATIONS), "num_tdt_durations": len(DURATIONS)}
    found["joint"]["num_extra_outputs"] = len(DURATIONS)
    return OmegaConf.create(found)


def random_tdt(folder: Path, seed: int = 0) -> Any:
    """The NeMo model, in evaluation mode."""
    asr = nemo_asr()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_tokenizer(folder, vocabulary(DIMENSIONS.vocabulary, "bpe"))
        model = asr.models.EncDecRNNTBPEModel(cfg=configuration(folder), trainer=None).eval()
        calibrate(model)
    return model


@torch.inference_mode()
def calibrate(model: Any) -> None:
    """Tokens depend on the audio and on the token before, about equally. Every third frame emits a token."""
    encoded = encode_offline(model, speech_like(8.0, 99))
    joint, final = model.joint, model.joint.joint_net[-1]
    center = encoded.mean(0)
    joint.enc.weight.mul_(2 / (encoded @ joint.enc.weight.T).std(0).mean())
    joint.enc.bias.copy_(-(center @ joint.enc.weight.T))
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
