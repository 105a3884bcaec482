"""CTC-CRF's denominator against the sum over every path."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from asr_compress.training.crf import TokenBigram, log_partition
from asr_compress.training.objective import ctc
from tests.training.test_objective import batch_of

TOKENS = 4
LABELS = [[1, 2, 3], [2, 2], [3]]


def doubled(bigram: TokenBigram) -> TokenBigram:
    return TokenBigram(bigram.follow.double(), bigram.end.double())


def by_enumeration(log_probs: Tensor, bigram: TokenBigram) -> Tensor:
    """log Z of `(frames, tokens)` from all `tokens ** frames` paths."""
    total = torch.zeros((), dtype=log_probs.dtype)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        labels = [token for i, token in enumerate(path) if token and (i == 0 or path[i - 1] != token)]
        weight = torch.ones((), dtype=log_probs.dtype)
        for previous, token in zip([0, *labels], labels, strict=False):
            weight = weight * bigram.follow[previous, token]
        weight = weight * bigram.end[labels[-1] if labels else 0]
        total = total + weight * log_probs[torch.arange(len(path)), list(path)].sum().exp()
    return total.log()


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_equals_the_sum_over_all_paths_and_so_does_its_gradient(frames: int) -> None:
    torch.manual_seed(frames)
    bigram = doubled(TokenBigram.of(LABELS, TOKENS))
    log_probs = torch.randn(2, 5, TOKENS, dtype=torch.float64).log_softmax(-1).requires_grad_()
    lengths = torch.tensor([frames, 3])
    log_z = log_partition(log_probs, lengths, bigram)
    wanted = torch.stack([by_enumeration(log_probs[row, :length], bigram) for row, length in enumerate(lengths)])
    torch.testing.assert_close(log_z, wanted)
    (gradient,) = torch.autograd.grad(log_z.sum(), log_probs)
    (expected,) = torch.autograd.grad(wanted.sum(), log_probs)
    torch.testing.assert_close(gradient, expected)


def test_padding_changes_nothing() -> None:
    bigram = TokenBigram.of(LABELS, TOKENS)
    log_probs = torch.randn(1, 6, TOKENS).log_softmax(-1)
    padded = torch.cat([log_probs, torch.randn(1, 4, TOKENS)], 1)
    lengths = torch.tensor([6])
    torch.testing.assert_close(log_partition(padded, lengths, bigram), log_partition(log_probs, lengths, bigram))


def test_no_label_sequence_weighs_more_than_all() -> None:
    bigram = TokenBigram.of(LABELS, TOKENS)
    batch = batch_of([[1, 2], [3]], frames=6)
    log_probs = torch.randn(2, 6, TOKENS).log_softmax(-1)
    log_z = log_partition(log_probs, batch.feature_lengths, bigram)
    likelihood = -ctc(log_probs, batch.feature_lengths, batch)
    share = bigram.follow[0, 1] * bigram.follow[1, 2] * bigram.end[2] * bigram.follow[0, 3] * bigram.end[3]
    assert likelihood + share.log() < log_z.sum()


def test_bigram_counts_starts_and_ends() -> None:
    bigram = TokenBigram.of([[1, 2]] * 1000, TOKENS)
    assert bigram.follow[0, 1] > 0.99 and bigram.follow[1, 2] > 0.99 and bigram.end[2] > 0.99
    torch.testing.assert_close(bigram.follow.sum(1) + bigram.end, torch.ones(TOKENS))
    assert (bigram.follow[:, 1:] > 0).all() and (bigram.follow[:, 0] == 0).all()
