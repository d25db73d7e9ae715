"""FastConformers of NeMo with random weights from a fixed seed that emit tokens at a natural rate, saved as `.nemo`."""

from __future__ import annotations

import io
import random
import string
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.workers.nemo.nemo_models import (
    Dimensions,
    nemo_asr,
    sentencepiece,
    speech_like,
    transducer,
    write_tokenizer,
)

CONTEXTS = [[70, 1], [70, 13], [70, 6], [70, 0]]


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A `.nemo` file and NeMo's model of it."""

    path: Path
    nemo: Any

    @property
    def name(self) -> str:
        return str(self.path)


TINY = Dimensions(layers=3, width=64, heads=4, channels=32, hidden=48, joint=96, vocabulary=96)
LARGE = Dimensions(layers=17, width=512, heads=8, channels=256, hidden=640, joint=640, vocabulary=1024)


def make(folder: Path, dimensions: Dimensions) -> Path:
    """Builds and saves a model: the path of its `.nemo`."""
    return built(folder, dimensions).path


def built(folder: Path, dimensions: Dimensions, *, seed: int = 1, **changes: Any) -> RandomModel:
    """Builds and saves a model; `changes` go into the encoder's configuration."""
    asr = nemo_asr()
    write_tokenizer(folder, tokenizer(dimensions.vocabulary))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = asr.models.EncDecHybridRNNTCTCBPEModel(cfg=configuration(folder, dimensions, changes), trainer=None)
        model.eval()
        calibrate(model)
        path = folder / "model.nemo"
        model.save_to(str(path))
    return RandomModel(path, model)


def tokenizer(size: int) -> bytes:
    """Trained on made-up words."""
    rng = random.Random(7)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(4000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choices(words, k=8)) for _ in range(1500)]),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def configuration(folder: Path, dimensions: Dimensions, changes: dict[str, Any]) -> Any:
    from omegaconf import OmegaConf

    encoder = {
        "causal_downsampling": True,
        "att_context_size": CONTEXTS,
        "att_context_style": "chunked_limited",
        "xscaling": True,
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
    }
    hybrid = {
        "decoding": {
            "strategy": "greedy_batch",
            "greedy": {"max_symbols": 10, "loop_labels": True, "use_cuda_graph_decoder": False},
        },
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": dimensions.width,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy_batch"},
        },
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
        "optim": {"name": "adamw", "lr": 0.001},
    }
    return OmegaConf.create(transducer(folder, dimensions, "NA", encoder | changes) | hybrid)


def calibrate(model: Any) -> None:
    """Random weights under which positions and norms matter, outputs are centered, and most frames are blank."""
    with torch.inference_mode():
        for layer in model.encoder.layers:
            layer.self_attn.pos_bias_u.normal_(0, 0.2)
            layer.self_attn.pos_bias_v.normal_(0, 0.2)
            layer.self_attn.linear_q.weight.mul_(3)
            layer.self_attn.linear_k.weight.mul_(3)
            if hasattr(layer.conv.batch_norm, "running_mean"):
                layer.conv.batch_norm.running_mean.normal_(0, 0.3)
                layer.conv.batch_norm.running_var.uniform_(0.5, 2)
            for norm in (layer.norm_conv, layer.norm_self_att, layer.norm_out):
                norm.weight.normal_(1, 0.2)
                norm.bias.normal_(0, 0.2)
        encoded = encode_offline(model, [speech_like(4.0, 99)])[0]
        calibrate_transducer(model, encoded)
        head = model.ctc_decoder.decoder_layers[0]
        head.weight.normal_(0, 1)
        scores = encoded @ head.weight[:, :, 0].T
        head.bias.copy_(-scores.mean(0))
        scores = scores - scores.mean(0)
        head.bias[-1] += (scores[:, :-1].amax(-1) - scores[:, -1]).quantile(0.7)


def calibrate_transducer(model: Any, encoded: torch.Tensor) -> None:
    """Tokens depend on the frames and on the token before, about equally. About three frames in ten emit a token."""
    model.decoder.prediction.embed.weight[:-1].normal_(0, 1)
    for name, weight in model.decoder.prediction.dec_rnn.lstm.named_parameters():
        if "weight" in name:
            weight.mul_(6)
    # An utterance's first frames differ from all others. The joint network ignores those directions.
    steady = encoded[16:].mean(0)
    first = torch.linalg.qr((encoded[:6] - steady).T).Q
    model.joint.enc.weight.sub_(model.joint.enc.weight @ first @ first.T)
    f = encoded @ model.joint.enc.weight.T
    model.joint.enc.weight.mul_(2 / f[16:].std(0).mean())
    model.joint.enc.bias.copy_(-(steady @ model.joint.enc.weight.T))
    tokens = torch.arange(model.decoder.blank_idx)[None]
    g = model.decoder.predict(tokens, None, add_sos=False)[0] @ model.joint.pred.weight.T
    model.joint.pred.weight.mul_(1.5 / g.std())
    final = model.joint.joint_net[-1]
    final.weight.normal_(0, 1 / final.weight.shape[1] ** 0.5)
    low, high = -4.0, 8.0
    for _ in range(7):
        final.bias[-1] = (low + high) / 2
        emitted = len(decode_offline(model, encoded[16:], "rnnt")[0])
        low, high = ((low + high) / 2, high) if emitted > 0.3 * (len(encoded) - 16) else (low, (low + high) / 2)


@torch.inference_mode()
def features_offline(model: Any, pcm: list[NDArray[np.int16]]) -> list[torch.Tensor]:
    """The reference's log-mel [frames, mels] of each recording."""
    features = []
    for samples in pcm:
        signal = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
        x, lengths = model.preprocessor(input_signal=signal, length=torch.tensor([samples.size]))
        features.append(x[0, :, : int(lengths[0])].T.contiguous())
    return features


@torch.inference_mode()
def encode_offline(model: Any, pcm: list[NDArray[np.int16]], context: list[int] | None = None) -> list[torch.Tensor]:
    """The reference's encoder output [frames, width] of whole recordings, one by one."""
    if context is not None:
        model.encoder.set_default_att_context_size(context)
    encoded = []
    for x in features_offline(model, pcm):
        y, lengths = model.encoder(audio_signal=x.T[None], length=torch.tensor([x.shape[0]]))
        encoded.append(y[0, :, : int(lengths[0])].T.contiguous())
    return encoded


@torch.inference_mode()
def decode_offline(model: Any, encoded: torch.Tensor, decoder: str) -> tuple[list[int], list[int]]:
    """The reference's greedy tokens and their encoder frames."""
    length = torch.tensor([encoded.shape[0]])
    if decoder == "ctc":
        best = model.ctc_decoder(encoder_output=encoded.T[None])[0].argmax(-1).tolist()
        blank = model.ctc_decoder.num_classes_with_blank - 1
        kept = [t for t, token in enumerate(best) if token not in (blank, best[t - 1] if t else blank)]
        return [best[t] for t in kept], kept
    computer = model.decoding.decoding.decoding_computer
    hypotheses, _ = computer(x=encoded[None], out_len=length)[:2]
    count = int(hypotheses.current_lengths[0])
    return hypotheses.transcript[0, :count].tolist(), hypotheses.timestamps[0, :count].tolist()
