"""Writes models of a shape with random weights, for measuring speed, where the text does not matter.

    python shapes.py large large.nemo

The blank's bias is set so that noise gives as many tokens as speech: about one token in three encoder frames.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

TOKENS_PER_FRAME = 0.33
CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a cache-aware streaming FastConformer hybrid (RNN-T and CTC)."""

    layers: int
    width: int
    heads: int
    predictor: int
    joint: int
    vocabulary: int


SHAPES = {
    "small": Shape(4, 144, 4, 320, 320, 1024),
    "large": Shape(17, 512, 8, 640, 640, 1024),
    "nemotron": Shape(24, 1024, 8, 640, 640, 1024),
}


def write(shape: Shape, out: Path, seed: int = 1) -> None:
    """Save an untrained model as a .nemo file."""
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel  # noqa: PLC0415 - after the command line is read
    from omegaconf import OmegaConf  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        _tokenizer(Path(folder), shape.vocabulary)
        model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(_config(shape, folder)), trainer=None)
        model.eval()
        _calibrate(model)
        model.save_to(str(out))


def _tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer with `vocabulary` arbitrary pieces."""
    import sentencepiece  # noqa: PLC0415

    words = [f"{a}{b}{c}" for a in "bcdfghklmnprstvz" for b in "aeiou" for c in "bdfgklmnprst"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(words[i : i + 8]) for i in range(0, len(words) - 8, 3)),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=vocabulary,
        user_defined_symbols=[f"<{number}>" for number in range(vocabulary - 200)],
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    (folder / "vocab.txt").write_text("".join(f"{piece.removeprefix('▁') or '▁'}\n" for piece in pieces[1:]))


def _config(shape: Shape, tokenizer: str) -> dict[str, Any]:
    """NeMo's configuration, like that of the published streaming models."""
    return {
        "sample_rate": 16000,
        "tokenizer": {"dir": tokenizer, "type": "bpe"},
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "model_defaults": {"enc_hidden": shape.width, "pred_hidden": shape.predictor, "joint_hidden": shape.joint},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": shape.layers,
            "d_model": shape.width,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "causal_downsampling": True,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": shape.heads,
            "att_context_size": CONTEXTS,
            "att_context_style": "chunked_limited",
            "xscaling": False,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
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
            "prednet": {"pred_hidden": shape.predictor, "pred_rnn_layers": 1, "dropout": 0.0},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": shape.joint, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy"},
        },
        "loss": {"loss_name": "default"},
        "optim": {"name": "adamw", "lr": 1e-3},
    }


@torch.inference_mode()
def _calibrate(model: Any, seconds: int = 8, rounds: int = 8) -> None:
    """Find, by bisection, the blank's bias at which noise gives as many tokens as speech."""
    torch.manual_seed(2)
    audio = torch.randn(1, 16000 * seconds) * 0.1
    encoded, lengths = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
    bias = model.joint.joint_net[-1].bias
    low, high = -8.0, 8.0
    for _ in range(rounds):
        bias[-1] = (low + high) / 2
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(encoded, lengths, return_hypotheses=True)
        rate = len(hypotheses[0].y_sequence) / int(lengths[0])
        low, high = (float(bias[-1]), high) if rate > TOKENS_PER_FRAME else (low, float(bias[-1]))


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("out", type=click.Path(path_type=Path))
def main(shape: str, out: Path) -> None:
    """Write an untrained model of SHAPE to OUT, a .nemo file."""
    write(SHAPES[shape], out)


if __name__ == "__main__":
    main()
