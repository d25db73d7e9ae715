"""The loss of a token-and-duration transducer: one recursion over time, all utterances and labels at once.

Scores are logits [B, T, U + 1, V] of which the last token is blank. Sums run in float64: the trick that makes the label
axis one cumulative sum subtracts numbers that grow with U.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch program uses)
from torch import Tensor

_NEVER = -1e4


def tdt_loss(
    logits: Tensor, durations: Sequence[int], labels: Tensor, frames: Tensor, lengths: Tensor, sigma: float = 0.0
) -> Tensor:
    """Mean loss of a token-and-duration transducer: the last `len(durations)` logits choose how far a token jumps.

    `sigma` lowers every token's score, so that few long jumps beat many short ones.
    """
    scores = F.log_softmax(logits[..., : -len(durations)].double(), -1) - sigma
    jumps = F.log_softmax(logits[..., -len(durations) :].double(), -1)
    stay = scores[..., -1:] + jumps
    move = _labels(scores, labels).unsqueeze(-1) + jumps[:, :, :-1]
    return _loss(stay, move, durations, frames, lengths)


def _labels(scores: Tensor, labels: Tensor) -> Tensor:
    """The score [B, T, U] of the label that is next at each position."""
    index = labels[:, None, :, None].expand(-1, scores.shape[1], -1, 1)
    return scores[:, :, :-1].gather(-1, index).squeeze(-1)


def _loss(stay: Tensor, move: Tensor, durations: Sequence[int], frames: Tensor, lengths: Tensor) -> Tensor:
    """Sum over all paths. `stay` [B, T, U + 1, J] is blank with each duration, `move` [B, T, U, J] the next label."""
    batch, time, width, _ = stay.shape
    rows: list[Tensor] = []
    ends: list[Tensor] = []
    never = stay.new_full((batch, 1), _NEVER)
    for t in range(time + 1):
        ways = [stay.new_full((batch, width), _NEVER)]
        if t == 0:
            ways[0] = torch.cat([stay.new_zeros(batch, 1), ways[0][:, 1:]], 1)
        for jump, duration in enumerate(durations):
            if 0 < duration <= t:
                before = rows[t - duration]
                ways.append(before + stay[:, t - duration, :, jump])
                # Only blank may end an utterance: at the first frame after it no label has a path.
                after = before[:, :-1] + move[:, t - duration, :, jump]
                ways.append(torch.cat([never, torch.where((frames > t)[:, None], after, _NEVER)], 1))
        row = torch.logsumexp(torch.stack(ways), 0)
        ends.append(row)
        if t < time:
            rows.append(_within(row, move[:, t, :, durations.index(0)]))
    last = torch.stack(ends, 1)[torch.arange(batch), frames, lengths]
    return -last.mean()


def _within(row: Tensor, move: Tensor) -> Tensor:
    """Paths [B, U + 1] that take any number of zero-length labels `move` [B, U] inside one frame."""
    gone = F.pad(move.cumsum(1), (1, 0))
    return torch.logcumsumexp(row - gone, 1) + gone
