"""What training minimizes: CTC, and consistency between two maskings of the same speech."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from asr_compress.corpora.batches import Batch


def ctc(logits: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Negative log likelihood of the labels, summed over the batch (Graves et al. 2006).

    An utterance without labels has no transcript and counts nothing: CTC would teach it silence.

    Args:
        logits: `(batch, frames, tokens)`, token 0 the blank.
        lengths: int64 `(batch,)`.
    """
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)
    each = functional.ctc_loss(log_probs, batch.targets, lengths, batch.target_lengths, blank=0, reduction="none")
    return (each * (batch.target_lengths > 0).to(each.device)).sum()


def consistency(logits: Tensor, twin: Tensor, lengths: Tensor) -> Tensor:
    """CR-CTC's term: frame KL of each view to the other, gradients stopped in the target, summed over frames.

    Source: Yao et al. 2024, "CR-CTC: consistency regularization on CTC", equation 6.
    """
    first, second = logits.float().log_softmax(-1), twin.float().log_softmax(-1)
    valid = torch.arange(first.shape[1], device=first.device)[None] < lengths.to(first.device)[:, None]
    divergence = functional.kl_div(first, second.detach(), reduction="none", log_target=True)
    divergence = divergence + functional.kl_div(second, first.detach(), reduction="none", log_target=True)
    return 0.5 * (divergence.sum(-1) * valid).sum()


def frames_needed(labels: list[int]) -> int:
    """Output frames that CTC needs for `labels`: one each, and a blank between equal neighbors."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))
