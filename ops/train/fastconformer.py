"""Train a small cache-aware streaming FastConformer (hybrid RNN-T and CTC) on spoken digits, and save it as a .nemo.

The architecture is that of Rekesh et al. 2023 (arXiv:2305.05084) and, for streaming, Noroozi et al. 2023
(arXiv:2312.17279), with 4 layers of width 144.

python ops/train/fastconformer.py --digits DIR --out ops/models/digits-fastconformer.nemo
"""

from pathlib import Path
from typing import Any

import click
from nemo_fit import Batch, Data, Plan, logits, options, train
from nemo_small import common, encoder, joint, preprocessor, spec_augment
from omegaconf import OmegaConf
from rnnt_loss import transducer_loss
from torch import Tensor

CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]
_CTC_WEIGHT = 0.3


def config(folder: Path) -> dict[str, Any]:
    """NeMo's configuration: the published cache-aware streaming recipe with 4 layers of width 144."""
    return common(folder) | {
        "preprocessor": preprocessor("NA"),
        "spec_augment": spec_augment(mask_value=-10.0),
        "encoder": encoder()
        | {
            "causal_downsampling": True,
            "att_context_size": CONTEXTS,
            "att_context_style": "chunked_limited",
            "att_context_probs": [0.2, 0.2, 0.4, 0.2],
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
        },
        "joint": joint(),
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "aux_ctc": {
            "ctc_loss_weight": _CTC_WEIGHT,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy_batch"},
        },
        "loss": {"loss_name": "pytorch"},
    }


def build(folder: Path) -> Any:
    """The untrained model. It is evaluated at the context of 160 ms steps."""
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel  # noqa: PLC0415 (seconds: not for --help)

    model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(config(folder)))
    # This is the context for evaluation. In training, each batch draws one of all contexts.
    model.encoder.set_default_att_context_size([70, 1])
    return model


def loss_of(model: Any, batch: Batch) -> Tensor:
    """The weighted sum of the RNN-T loss and the CTC loss of one batch."""
    encoded, frames = model(input_signal=batch.audio, input_signal_length=batch.samples)
    ctc: Tensor = model.ctc_loss(
        log_probs=model.ctc_decoder(encoder_output=encoded),
        targets=batch.tokens,
        input_lengths=frames,
        target_lengths=batch.counts,
    )
    main = transducer_loss(logits(model, encoded, batch), batch.tokens, frames.long(), batch.counts)
    return (1 - _CTC_WEIGHT) * main + _CTC_WEIGHT * ctc


@click.command()
@options
def main(data: Data, plan: Plan, out: Path) -> None:
    """Train, save OUT every 500 steps and at the end, and print the word error on unseen recordings."""
    train(build, loss_of, data, plan, out)


if __name__ == "__main__":
    main()
