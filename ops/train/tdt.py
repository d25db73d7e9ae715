"""Train a small token-and-duration transducer (TDT, an offline FastConformer) on spoken digits, and save it as a .nemo.

python ops/train/tdt.py --digits DIR --out ops/models/digits-tdt.nemo
"""

from pathlib import Path
from typing import Any

import click
from nemo_fit import Batch, Data, Plan, logits, options, train
from nemo_small import common, encoder, joint, preprocessor, spec_augment
from omegaconf import OmegaConf
from torch import Tensor
from transducer import tdt_loss

DURATIONS = [0, 1, 2, 3, 4]
_SIGMA = 0.02


def config(folder: Path) -> dict[str, Any]:
    """NeMo's configuration: the published offline recipe, with full attention and normalization per feature."""
    shared = common(folder)
    shared["model_defaults"] |= {"tdt_durations": DURATIONS, "num_tdt_durations": len(DURATIONS)}
    return shared | {
        "preprocessor": preprocessor("per_feature"),
        "spec_augment": spec_augment(mask_value=0.0),
        "encoder": encoder()
        | {
            "causal_downsampling": False,
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
        },
        "joint": joint(len(DURATIONS)),
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": DURATIONS,
            "greedy": {"max_symbols": 10},
        },
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": DURATIONS, "sigma": _SIGMA, "omega": 0.0}},
    }


def loss_of(model: Any, batch: Batch) -> Tensor:
    """The TDT loss of one batch."""
    encoded, frames = model(input_signal=batch.audio, input_signal_length=batch.samples)
    return tdt_loss(logits(model, encoded, batch), DURATIONS, batch.tokens, frames.long(), batch.counts, _SIGMA)


def build(folder: Path) -> Any:
    """The untrained model."""
    from nemo.collections.asr.models import EncDecRNNTBPEModel  # noqa: PLC0415 (seconds: not for --help)

    return EncDecRNNTBPEModel(cfg=OmegaConf.create(config(folder)))


@click.command()
@options
def main(data: Data, plan: Plan, out: Path) -> None:
    """Train, save OUT every 500 steps and at the end, and print the word error on unseen recordings."""
    train(build, loss_of, data, plan, out)


if __name__ == "__main__":
    main()
