"""The RNN-T (Graves 2012, arXiv:1211.3711) in plain torch: the reference for a card's results.

Modules have the names of the checkpoints' tensors. The encoder has `pre` LSTM layers, a concatenation of every two
frames, and `post` LSTM layers. The prediction network is an embedding and LSTM layers over the tokens so far; it starts
from a vector of zeros. The joint network adds a linear layer of each. A recording in chunks, with the state carried
from chunk to chunk, gives the same values as the whole recording.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asr_workers.cards.carm import CarmConfig
from asr_workers.engines.rnnt import features
from asr_workers.engines.rnnt.features import Floats

SYMBOLS_PER_STEP_MAX = 30

LstmState = tuple[Tensor, Tensor]
"""Hidden and cell values, each [layers, batch, hidden]."""


@dataclass(frozen=True, slots=True)
class RnntEmission:
    """One emitted token."""

    token: int
    log_prob: float
    """Natural logarithm of its probability."""
    step: int
    """The encoder step of 60 ms, counted from the start of the stream."""


class _Lstm(nn.Module):
    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        outputs, state = self.lstm(inputs, state)
        return self.dropout(outputs), state


class _Encoder(nn.Module):
    def __init__(self, sizes: CarmConfig, dropout: float) -> None:
        super().__init__()
        stacked = sizes.enc_stack_time_factor * sizes.enc_n_hid
        self.pre_rnn = _Lstm(sizes.in_feats, sizes.enc_n_hid, sizes.enc_pre_rnn_layers, dropout)
        self.post_rnn = _Lstm(stacked, sizes.enc_n_hid, sizes.enc_post_rnn_layers, dropout)


class _Prediction(nn.Module):
    def __init__(self, sizes: CarmConfig, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.n_classes - 1, sizes.pred_n_hid)
        self.dec_rnn = _Lstm(sizes.pred_n_hid, sizes.pred_n_hid, sizes.pred_rnn_layers, dropout)


@dataclass(frozen=True, slots=True)
class EncoderState:
    """The LSTM states of the encoder between two chunks."""

    pre: LstmState
    post: LstmState


class Rnnt(nn.Module):
    """The network. `dropout` (of encoder, prediction and joint network) acts in training only."""

    def __init__(self, sizes: CarmConfig, dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = _Encoder(sizes, dropout[0])
        self.prediction = _Prediction(sizes, dropout[1])
        self.joint_pred = nn.Linear(sizes.pred_n_hid, sizes.joint_n_hid)
        self.joint_enc = nn.Linear(sizes.enc_n_hid, sizes.joint_n_hid)
        self.joint_net = nn.Sequential(nn.ReLU(), nn.Dropout(dropout[2]), nn.Linear(sizes.joint_n_hid, sizes.n_classes))

    @property
    def blank(self) -> int:
        """The class without a token: it ends an encoder step."""
        return self.sizes.n_classes - 1

    def encode(self, frames: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """Stacked frames [batch, t, 240] to encoder outputs [batch, ceil(t / 2), enc_n_hid].

        A stream gives multiples of two frames. An odd last frame is stacked with zeros.
        """
        hidden, pre = self.encoder.pre_rnn(frames, state and state.pre)
        factor = self.sizes.enc_stack_time_factor
        hidden = nn.functional.pad(hidden, (0, 0, 0, -hidden.shape[1] % factor))
        batch, count, width = hidden.shape
        hidden, post = self.encoder.post_rnn(
            hidden.reshape(batch, count // factor, factor * width), state and state.post
        )
        return hidden, EncoderState(pre, post)

    def predict(self, tokens: Tensor | None, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Tokens int64 [batch, u] to prediction outputs [batch, u, pred_n_hid] and the LSTM state after them.

        None is the start of a stream: one step with an input of zeros.
        """
        if tokens is None:
            embedded = self.prediction.embed.weight.new_zeros(1, 1, self.sizes.pred_n_hid)
        else:
            embedded = self.prediction.embed(tokens)
        outputs: tuple[Tensor, LstmState] = self.prediction.dec_rnn(embedded, state)
        return outputs

    def teach(self, tokens: Tensor) -> Tensor:
        """For training: prediction outputs [batch, u + 1, pred_n_hid] before and after the tokens [batch, u]."""
        embedded = nn.functional.pad(self.prediction.embed(tokens), (0, 0, 1, 0))
        outputs: Tensor = self.prediction.dec_rnn(embedded, None)[0]
        return outputs

    def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits [..., n_classes] of encoder and prediction outputs, whose leading dimensions are broadcast."""
        logits: Tensor = self.joint_net(self.joint_enc(encoded) + self.joint_pred(predicted))
        return logits


@dataclass(slots=True)
class RnntStream:
    """Greedy recognition of one stream of samples, as on a card: emitted tokens never change."""

    model: Rnnt
    means: Floats
    """float32 [80]"""
    variances: Floats
    """float32 [80]"""
    steps: int = 0
    """Encoder steps so far."""
    _carry: features.Carry = field(init=False)
    _encoder: EncoderState | None = None
    _predictor: LstmState = field(init=False)
    _predicted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._carry = features.silence(self.model.sizes.window_samples)
        with torch.inference_mode():
            self._predicted, self._predictor = self.model.predict(None)

    @torch.inference_mode()
    def feed(self, pcm: Floats) -> list[RnntEmission]:
        """The tokens of the next samples: float32 [n] in -1..1, where n is a multiple of 960."""
        mels, self._carry = features.log_mel(pcm, self._carry)
        frames = features.stack(features.normalize(mels, self.means, self.variances))
        encoded, self._encoder = self.model.encode(torch.from_numpy(frames).float()[None], self._encoder)
        found = [emission for step in encoded[0] for emission in self._decode(step)]
        return found

    def _decode(self, encoded: Tensor) -> list[RnntEmission]:
        """Greedy search (Graves 2012, section 2.5) in one encoder step [enc_n_hid]: the best class until the blank."""
        found: list[RnntEmission] = []
        for _ in range(SYMBOLS_PER_STEP_MAX):
            log_probs = self.model.join(encoded, self._predicted[0, 0]).log_softmax(-1)
            token = int(log_probs.argmax())
            if token == self.model.blank:
                break
            found.append(RnntEmission(token, float(log_probs[token]), self.steps))
            self._predicted, self._predictor = self.model.predict(torch.tensor([[token]]), self._predictor)
        self.steps += 1
        return found
