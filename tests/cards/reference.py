"""A reference of the card's network in plain numpy, float64, with activations rounded as each precision requires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards import quantize
from asr_workers.cards.carm import CarmConfig, Precision

Array = NDArray[np.float64]

SMALL = CarmConfig(
    in_feats=240,
    enc_n_hid=48,
    enc_pre_rnn_layers=2,
    enc_post_rnn_layers=2,
    enc_stack_time_factor=2,
    pred_n_hid=36,
    pred_rnn_layers=2,
    joint_n_hid=40,
    n_classes=256,
    window_samples=400,
    name="other",
)


def random_tensors(
    config: CarmConfig, seed: int, blank_bias: float, spread: float = 2.0
) -> dict[str, NDArray[np.float32]]:
    """Weights with varied logits: the larger the spread, the more a small change grows.

    LIVELY, TALKATIVE and CALM are seeds, biases and spreads with which the model SMALL outputs tokens.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        deviation = spread / np.sqrt(shape[1]) if len(shape) == 2 else 0.1
        tensors[name] = (rng.standard_normal(shape) * deviation).astype(np.float32)
    for name in ("joint_net.2", "joint_enc", "joint_pred", "prediction.embed"):
        tensors[f"{name}.weight"] *= 2.0
    tensors["joint_net.2.bias"][-1] = blank_bias
    return tensors


LIVELY = (2, 4.0)
"""Of the 40 chunks of speechlike(3, 40) with random_statistics(2), 7 have tokens, at most 10."""
TALKATIVE = (1, 6.0)
"""With the same audio, 8 chunks have tokens, some the maximum of 30 per step."""
CALM = (12, 1.5, 1.0)
"""With a spread of 1, a different rounding has a small effect: for tests of activations that the card quantizes."""


def random_statistics(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """melmeans and melvars [80] like those of quiet speech."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-12, -8, 80).astype(np.float32), rng.uniform(6, 12, 80).astype(np.float32)


def speechlike(seed: int, chunks: int) -> NDArray[np.int16]:
    """int16 [chunks, 960]: tones of varying loudness with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(chunks * 960) / 16000
    sound = rng.standard_normal(len(time)) * 0.003
    for _ in range(6):
        hz, start, length = rng.uniform(90, 3500), rng.uniform(0, time[-1]), rng.uniform(0.05, 0.6)
        on = (time >= start) & (time < start + length)
        sound[on] += rng.uniform(0.02, 0.3) * np.sin(2 * np.pi * hz * time[on])
    return np.clip(sound * 32768, -32768, 32767).astype(np.int16).reshape(chunks, 960)


def mel_filters() -> Array:
    """Mel filters [257, 80]: mel scale of Slaney 1998 (Auditory Toolbox), triangles linear in Hz, each of area 1."""

    def to_hz(mel: Array) -> Array:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    edges = to_hz(np.linspace(0, 15 + np.log(8) / (np.log(6.4) / 27), 82))
    hz = np.linspace(0, 8000, 257)[:, None]
    up = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    triangles: Array = np.clip(np.minimum(up, down), 0, None) * 2 / (edges[2:] - edges[:-2])
    return triangles


def log_mel(samples: NDArray[np.int16], window_samples: int, melmeans: Array, melvars: Array) -> Array:
    """Samples [n * 960] -> normalized log-mel frames [n * 6, 80], for the whole audio in one call."""
    sound = np.concatenate([np.zeros(window_samples - 160), samples / 32768])
    sound[1:] -= 0.97 * sound[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(sound, window_samples)[::160]
    window = 0.5 * (1 - np.cos(2 * np.pi * (np.arange(window_samples) + 0.5) / window_samples))
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    features: Array = (np.log(np.maximum(power @ mel_filters(), 1e-20)) - melmeans) / np.sqrt(melvars)
    return features


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass
class Reference:
    """The network's state for one stream; it keeps tokens, their log-probabilities and every logits vector.

    Greedy decoding as in Graves 2012, arXiv:1211.3711.
    """

    config: CarmConfig
    tensors: Mapping[str, NDArray[np.float32]]
    precision: Precision = "fp32"
    states: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    logits: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        self.predicted = self._predict(np.zeros(self.config.pred_n_hid))

    def step(self, features: Array) -> tuple[list[int], list[float]]:
        """Decode one chunk of features [6, 80]. Returns its tokens and log-probabilities."""
        frames = features.reshape(self.config.enc_stack_time_factor, self.config.in_feats)
        stacked = np.concatenate([self._lstm("encoder.pre_rnn", frame) for frame in frames])
        encoded = self._dense("joint_enc", self._lstm("encoder.post_rnn", stacked))
        tokens: list[int] = []
        log_probs: list[float] = []
        while len(tokens) < 30:
            logits = self._dense("joint_net.2", np.maximum(encoded + self.predicted, 0))
            self.logits.append(logits)
            token = int(logits.argmax())
            if token == self.config.n_classes - 1:
                break
            tokens.append(token)
            log_probs.append(float(logits[token] - np.logaddexp.reduce(logits)))
            self.predicted = self._predict(self.weights["prediction.embed.weight"][token])
        return tokens, log_probs

    def _predict(self, embedding: Array) -> Array:
        return self._dense("joint_pred", self._lstm("prediction.dec_rnn", embedding))

    def _dense(self, name: str, x: Array) -> Array:
        result: Array = self.weights[f"{name}.weight"] @ self._rounded(x) + self.weights[f"{name}.bias"]
        return result

    def _rounded(self, x: Array) -> Array:
        """Activations, rounded as for weights of this precision."""
        row = x.astype(np.float32)[None]
        if self.precision == "int8":
            values, scales = quantize.quantize_int8(row)
            return values[0].astype(np.float64) * scales[0]
        if self.precision == "bfp16":
            mantissas, exponents = quantize.quantize_bfp16(row)
            quanta = np.ldexp(1.0, exponents[0].astype(np.int64) - 127 - 6)
            return (mantissas[0] * np.repeat(quanta, quantize.BFP_BLOCK))[: len(x)]
        return x

    def _lstm(self, prefix: str, x: Array) -> Array:
        layer = 0
        while f"{prefix}.lstm.weight_ih_l{layer}" in self.weights:
            names = [f"{prefix}.lstm.{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            w_ih, w_hh, b_ih, b_hh = (self.weights[name] for name in names)
            zeros = np.zeros(w_hh.shape[1])
            h, c = self.states.get(f"{prefix}{layer}", (zeros, zeros))
            i, f, g, o = np.split(w_ih @ self._rounded(x) + b_ih + w_hh @ self._rounded(h) + b_hh, 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            x = _sigmoid(o) * np.tanh(c)
            self.states[f"{prefix}{layer}"] = (x, c)
            layer += 1
        return x
