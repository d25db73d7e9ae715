"""The loss of a token-and-duration transducer (TDT; Xu et al. 2023, arXiv:2304.06795, section 3).

One recursion over time, vectorized over utterances and labels. Logits have shape [B, T, U + 1, V] with blank as the
last token. Sums are in float64, because the cumulative sum along the label axis subtracts numbers that grow with U.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch program uses)
from torch import Tensor

_NEVER = -1e4


def tdt_loss(
    logits: Tensor, durations: Sequence[int], labels: Tensor, frames: Tensor, lengths: Tensor, sigma: float = 0.0
) -> Tensor:
    """Mean loss over a batch. The last `len(durations)` logits are those of the durations, the others of the tokens.

    `labels` has shape [B, U]; `frames` and `lengths` [B] are the valid lengths of T and U. `sigma` is subtracted from
    every token's log probability (logit under-normalization), so that paths with few long durations are preferred.
    """
    scores = F.log_softmax(logits[..., : -len(durations)].double(), -1) - sigma
    jumps = F.log_softmax(logits[..., -len(durations) :].double(), -1)
    stay = scores[..., -1:] + jumps
    move = _labels(scores, labels).unsqueeze(-1) + jumps[:, :, :-1]
    return _loss(stay, move, durations, frames, lengths)


def _labels(scores: Tensor, labels: Tensor) -> Tensor:
    """The score [B, T, U] of the next label at each position."""
    index = labels[:, None, :, None].expand(-1, scores.shape[1], -1, 1)
    return scores[:, :, :-1].gather(-1, index).squeeze(-1)


def _loss(stay: Tensor, move: Tensor, durations: Sequence[int], frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean negative log probability, summed over all paths.

    `stay` [B, T, U + 1, J] are the scores of blank with each duration, `move` [B, T, U, J] those of the next label.
    """
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
                # Only blank can end an utterance: no label has a path to the first frame after it.
                after = before[:, :-1] + move[:, t - duration, :, jump]
                ways.append(torch.cat([never, torch.where((frames > t)[:, None], after, _NEVER)], 1))
        row = torch.logsumexp(torch.stack(ways), 0)
        ends.append(row)
        if t < time:
            rows.append(_within(row, move[:, t, :, durations.index(0)]))
    last = torch.stack(ends, 1)[torch.arange(batch), frames, lengths]
    return -last.mean()


def _within(row: Tensor, move: Tensor) -> Tensor:
    """Scores [B, U + 1] after any number of labels of duration zero, with scores `move` [B, U], in one frame."""
    gone = F.pad(move.cumsum(1), (1, 0))
    return torch.logcumsumexp(row - gone, 1) + gone
