"""The denominator of CTC-CRF: all label sequences at once, weighed by a bigram of tokens.

CTC trains every frame to be right on average and leaves it to the language model to choose among sequences. A
conditional random field with CTC's topology instead lowers what competes with the reference: its loss is
`log Z - log p(labels)`, with Z the sum over all label sequences of their CTC probability times their probability
under a bigram of the training labels. What it gains is measured in recipes/speechocean762/RESULTS.md.

Source: Xiang & Ou 2019, "CRF-based single-stage acoustic modeling with CTC topology"; Povey et al. 2016 (LF-MMI).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

SMOOTHING = 0.5  # added to every count: a pair that was not seen stays possible


@dataclass(frozen=True)
class TokenBigram:
    """Which token follows which.

    Attributes:
        follow: float32 `(tokens, tokens)`; row q holds p(next | q), row 0 the starts; column 0, the blank, is zero.
        end: float32 `(tokens,)`; p(end | q).
    """

    follow: Tensor
    end: Tensor

    @classmethod
    def of(cls, labels: Iterable[Sequence[int]], tokens: int) -> TokenBigram:
        """Counted on label sequences without blanks."""
        counts = torch.full((tokens, tokens + 1), SMOOTHING)  # the last column counts ends
        counts[:, 0] = 0
        for sequence in labels:
            pairs = torch.tensor([0, *sequence, tokens])
            counts.index_put_((pairs[:-1], pairs[1:]), torch.ones(len(pairs) - 1), accumulate=True)
        shares = counts / counts.sum(1, keepdim=True)
        return cls(shares[:, :-1].contiguous(), shares[:, -1].contiguous())


def log_partition(log_probs: Tensor, lengths: Tensor, bigram: TokenBigram) -> Tensor:
    """log Z of each utterance: `log sum over labels of p_bigram(labels) p_ctc(labels | frames)`.

    Args:
        log_probs: float32 `(batch, frames, tokens)`, token 0 the blank.
        lengths: int64 `(batch,)`, at least 1 each.

    Returns:
        float32 `(batch,)`. The gradient is the share of all paths, by weight, that pass through a token at a frame.
    """
    return cast(Tensor, _LogPartition.apply(log_probs, lengths, bigram))


class _LogPartition(torch.autograd.Function):
    """Forward-backward over states (token, in it or in the blank after it), probabilities rescaled at each frame."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, bigram: TokenBigram) -> Tensor:
        batch, frames, tokens = log_probs.shape
        follow, end = bigram.follow.to(log_probs.device), bigram.end.to(log_probs.device)
        # A token may stay, and a different one may follow it at once; from its blank any may, itself too.
        leave = torch.cat([follow - torch.diag(follow.diagonal()) + torch.eye(tokens, device=follow.device), follow])
        probs = log_probs.exp().transpose(0, 1).contiguous()
        live = torch.arange(frames, device=lengths.device)[:, None] < lengths
        alpha = log_probs.new_zeros(frames + 1, batch, 2 * tokens)
        alpha[0, :, tokens] = 1.0  # before the first token: in the blank of the start
        log_z = log_probs.new_zeros(batch)
        for t in range(frames):
            state = alpha[t]
            token = (state @ leave) * probs[t]
            token[:, 0] = 0
            blank = (state[:, :tokens] + state[:, tokens:]) * probs[t, :, :1]
            new = torch.cat([token, blank], 1)
            total = new.sum(1)
            alpha[t + 1] = torch.where(live[t, :, None], new / total[:, None], state)
            log_z += torch.where(live[t], total.log(), 0.0)
        finish = end.repeat(2)
        log_z += (alpha[-1] @ finish).log()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_occupancy(alpha, probs, live, leave, finish))
        return log_z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (occupancy,) = ctx.saved_tensors
        return occupancy * gradients[0][:, None, None], None, None


def _occupancy(alpha: Tensor, probs: Tensor, live: Tensor, leave: Tensor, finish: Tensor) -> Tensor:
    """Posterior share of each token at each frame, `(batch, frames, tokens)`; zero past an utterance's end."""
    frames, batch, tokens = probs.shape
    beta = finish.expand(batch, -1)
    shares = torch.empty_like(probs)
    back = leave.T.contiguous()
    for t in range(frames - 1, -1, -1):
        through = alpha[t + 1] * beta
        through = through / through.sum(1, keepdim=True)
        shares[t] = through[:, :tokens]
        shares[t, :, 0] = through[:, tokens:].sum(1)
        token = beta[:, :tokens] * probs[t]
        token[:, 0] = 0
        blank = beta[:, tokens:] * probs[t, :, :1]
        before = token @ back + blank.repeat(1, 2)
        beta = torch.where(live[t, :, None], before / before.sum(1, keepdim=True), beta)
    return (shares * live[:, :, None]).transpose(0, 1)
