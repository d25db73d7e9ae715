"""The transducer loss in plain torch, vectorised over time: one pass for each token of the longest text."""

import torch
from torch import Tensor


def transducer_loss(logits: Tensor, tokens: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Mean negative log probability of `tokens` for a batch.

    `logits` [batch, t, u + 1, classes] (blank last), `tokens` [batch, u] (any value behind the end), `steps` and
    `lengths` [batch]: how much of t and u belongs to each row. alpha[t, u] is the log probability of having emitted u
    tokens by time t. For a fixed u it is a running sum over time of what came from u - 1, discounted by the blanks
    since; in double precision, because those sums of blanks grow long.
    """
    log_probs = logits.log_softmax(-1).double()
    blanks = log_probs[..., -1]
    labels = log_probs[:, :, :-1].gather(3, tokens[:, None, :, None].expand(-1, log_probs.shape[1], -1, 1))[..., 0]
    waited = blanks.cumsum(1) - blanks
    alpha = waited[:, :, 0]
    ends = [alpha]
    for count in range(tokens.shape[1]):
        since = waited[:, :, count + 1]
        alpha = since + (alpha + labels[:, :, count] - since).logcumsumexp(1)
        ends.append(alpha)
    rows = torch.arange(len(tokens))
    return -(torch.stack(ends, 2) + blanks)[rows, steps - 1, lengths].mean()
