"""The encoders of both Moonshine families for padded batches, without any influence of the padding.

The published forward passes normalize over the padding, and their masks let up to two frames of it through. The text of
an utterance then depends on the rest of the batch. Here each row has the values that it has alone. Attention masks are
bool [B, 1, 1 or queries, keys], True where a query attends to a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Encoder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Samples [B, N] and their valid lengths, int64 [B], to hidden states [B, T, width] and their valid lengths, [B]."""
SAMPLES_MIN = 895
"""Fewest samples that give a frame."""


def encoder_of(encoder: Any) -> Encoder:
    """The encoder of a transformers model of either family."""
    return _FrameEncoder(encoder) if hasattr(encoder, "embedder") else _ConvEncoder(encoder)


def valid(lengths: Tensor, size: int) -> Tensor:
    """bool [B, size]: True before each length; `lengths` is int64 [B]."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class _ConvEncoder:
    """Moonshine: three convolutions over the samples, full attention."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __call__(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self._encoder
        hidden = torch.tanh(encoder.conv1(samples[:, None]))
        frames = _outputs(lengths, encoder.conv1)
        hidden = nn.functional.gelu(encoder.conv2(_group_norm(encoder.groupnorm, hidden, frames)))
        hidden = nn.functional.gelu(encoder.conv3(hidden)).transpose(1, 2)
        frames = _outputs(_outputs(frames, encoder.conv2), encoder.conv3)
        mask = valid(frames, hidden.shape[1])[:, None, None]
        places = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotary = encoder.rotary_emb(hidden, position_ids=places)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        return encoder.layer_norm(hidden), frames


class _FrameEncoder:
    """Moonshine streaming: frames of 5 ms, causal convolutions, attention in a sliding window."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __call__(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self._encoder
        frame = encoder.embedder.frame_len
        frames = lengths // frame
        for _ in range(2):
            frames = (frames - 1) // 2 + 1
        # Everything before the attention is causal, so the padding after the end needs no mask until then.
        hidden, _ = encoder.embedder(samples[:, : samples.shape[1] // frame * frame])
        inside = valid(frames, hidden.shape[1])
        masks = {window: _window_mask(window, inside) for window in map(tuple, encoder.config.sliding_windows)}
        for layer, window in zip(encoder.layers, encoder.config.sliding_windows, strict=True):
            hidden = layer(hidden, attention_mask=masks[tuple(window)])
        return encoder.final_norm(hidden), frames


def _outputs(lengths: Tensor, conv: nn.Conv1d) -> Tensor:
    """Number of the convolution's outputs that depend only on the first `lengths` inputs: int64 [B]."""
    return (lengths - conv.kernel_size[0]) // conv.stride[0] + 1


def _group_norm(norm: nn.GroupNorm, hidden: Tensor, frames: Tensor) -> Tensor:
    """Group norm with one group over the valid frames only: hidden [B, width, T], frames int64 [B]."""
    inside = valid(frames, hidden.shape[2])[:, None]
    count = (frames * hidden.shape[1])[:, None, None]
    values = hidden.float()
    centered = values - (values * inside).sum((1, 2), keepdim=True) / count
    variance = (centered * inside).square().sum((1, 2), keepdim=True) / count
    scaled = centered * torch.rsqrt(variance + norm.eps)
    return (scaled * norm.weight[:, None] + norm.bias[:, None]).to(hidden.dtype)


def _window_mask(window: tuple[int, int], inside: Tensor) -> Tensor:
    """bool [B, 1, T, T]: each frame attends to `window[0]` frames up to itself, and to fewer than `window[1]` after it.

    Frames outside attend to themselves, which keeps their values finite.
    """
    back, ahead = window
    places = torch.arange(inside.shape[1], device=inside.device)
    distance = places[:, None] - places[None]
    near = torch.where(distance >= 0, distance < back, -distance < ahead)
    return ((near & inside[:, None]) | (distance == 0))[:, None]
