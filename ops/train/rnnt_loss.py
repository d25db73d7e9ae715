"""The transducer loss (Graves 2012, arXiv:1211.3711, section 2.4) in torch.

The paper's recursion for alpha is vectorized over time: one pass for each token of the longest text.
"""

import torch
from torch import Tensor


def transducer_loss(logits: Tensor, tokens: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Mean negative log probability of `tokens` over a batch.

    `logits` has shape [batch, t, u + 1, classes] with the blank last. `tokens` has shape [batch, u], with any values
    after the end. `steps` and `lengths` [batch] are the valid lengths of t and u in each row.

    alpha[t, u] is the log probability of having emitted u tokens by time t. For a fixed u, it is a cumulative sum over
    time of the paths from u - 1, each times the probability of the blanks since then. Sums are in double precision,
    because cumulative sums of many blanks lose precision.
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
