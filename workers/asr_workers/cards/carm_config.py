"""The sizes of a card's network: the shapes of its tensors, and the check that one chunk is one encoder step."""

from __future__ import annotations

from dataclasses import dataclass

from asr_workers.cards.errors import CardError, CardStatus

N_FFT = 512
N_MELS = 80
STRIDE_SAMPLES = 160
LAYERS_MAX = 64
"""Most layers of one LSTM: ten times those of the largest model, so that a damaged file cannot cause a huge table."""
FRAMES_PER_CHUNK = 6
"""Mel frames of a 60 ms chunk: the input of one encoder step."""


def bad_model(sentence: str) -> CardError:
    """The error of a model that cannot be used."""
    return CardError(CardStatus.MODEL, sentence)


@dataclass(frozen=True, slots=True)
class CarmConfig:
    """The sizes of an RNN-T. The encoder takes one step per 60 ms: in_feats / 80 * enc_stack_time_factor is 6."""

    in_feats: int
    """Inputs of the first LSTM: the features of several stacked mel frames, 240."""
    enc_n_hid: int
    enc_pre_rnn_layers: int
    enc_post_rnn_layers: int
    enc_stack_time_factor: int
    pred_n_hid: int
    pred_rnn_layers: int
    joint_n_hid: int
    n_classes: int
    """Number of classes, including blank, which is the last."""
    window_samples: int
    """Length of the spectrum's window, in samples at 16 kHz: 320 (testing) or 400."""
    name: str = "other"
    """Name of the model's size: testing, base, large or other."""

    @property
    def frame_stacking(self) -> int:
        """Mel frames in one frame of the first LSTM."""
        return self.in_feats // N_MELS

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the network, by its name in the hardware checkpoint's state_dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        pre = (self.in_feats, self.enc_n_hid, self.enc_pre_rnn_layers)
        post = (self.enc_n_hid * self.enc_stack_time_factor, self.enc_n_hid, self.enc_post_rnn_layers)
        pred = (self.pred_n_hid, self.pred_n_hid, self.pred_rnn_layers)
        lstms = {"encoder.pre_rnn": pre, "encoder.post_rnn": post, "prediction.dec_rnn": pred}
        for prefix, (inputs, hidden, layers) in lstms.items():
            for layer in range(layers):
                shapes[f"{prefix}.lstm.weight_ih_l{layer}"] = (4 * hidden, hidden if layer else inputs)
                shapes[f"{prefix}.lstm.weight_hh_l{layer}"] = (4 * hidden, hidden)
                shapes[f"{prefix}.lstm.bias_ih_l{layer}"] = (4 * hidden,)
                shapes[f"{prefix}.lstm.bias_hh_l{layer}"] = (4 * hidden,)
        shapes["prediction.embed.weight"] = (self.n_classes - 1, self.pred_n_hid)
        for name, outputs, inputs in (
            ("joint_pred", self.joint_n_hid, self.pred_n_hid),
            ("joint_enc", self.joint_n_hid, self.enc_n_hid),
            ("joint_net.2", self.n_classes, self.joint_n_hid),
        ):
            shapes[f"{name}.weight"] = (outputs, inputs)
            shapes[f"{name}.bias"] = (outputs,)
        return shapes

    def check(self) -> None:
        """Raise CardError unless the sizes are those of an RNN-T with one encoder step per chunk."""
        sizes = self.numbers()
        layers = (self.enc_pre_rnn_layers, self.enc_post_rnn_layers, self.pred_rnn_layers)
        if min(sizes) < 1 or max(sizes) > 1 << 20 or self.n_classes < 2 or max(layers) > LAYERS_MAX:
            raise bad_model("the model's sizes are out of range")
        if self.in_feats % N_MELS or self.frame_stacking * self.enc_stack_time_factor != FRAMES_PER_CHUNK:
            raise bad_model(
                f"the model does not take one encoder step per 60 ms: {self.in_feats} features a frame, "
                f"{self.enc_stack_time_factor} frames a step"
            )
        if not STRIDE_SAMPLES <= self.window_samples <= N_FFT:
            raise bad_model(f"the model's window of {self.window_samples} samples is not in {STRIDE_SAMPLES}..{N_FFT}")
        if len(self.name.encode()) > 15:
            raise bad_model(f"the model's name {self.name!r} is longer than 15 bytes")

    def numbers(self) -> tuple[int, ...]:
        """The sizes in the file's order."""
        return (
            self.in_feats,
            self.enc_n_hid,
            self.enc_pre_rnn_layers,
            self.enc_stack_time_factor,
            self.enc_post_rnn_layers,
            self.pred_n_hid,
            self.pred_rnn_layers,
            self.joint_n_hid,
            self.n_classes,
            self.window_samples,
        )
