"""Objectives on small cases."""

from __future__ import annotations

import torch

from asr_compress.corpora.batches import Batch
from asr_compress.training.objective import consistency


def batch_of(labels: list[list[int]], frames: int, bins: int = 8) -> Batch:
    """A batch of equally long utterances with `labels`."""
    longest = max(map(len, labels))
    return Batch(
        features=torch.zeros(len(labels), frames, bins),
        feature_lengths=torch.full((len(labels),), frames),
        targets=torch.tensor([row + [0] * (longest - len(row)) for row in labels]),
        target_lengths=torch.tensor([len(row) for row in labels]),
        ids=tuple(map(str, range(len(labels)))),
        texts=("",) * len(labels),
    )


def test_consistency_is_zero_between_equal_views_and_counts_valid_frames_only() -> None:
    logits = torch.randn(2, 6, 4)
    twin = logits.clone()
    lengths = torch.tensor([6, 3])
    twin[1, 3:] += torch.randn(3, 4)
    assert consistency(logits, twin, lengths) == 0
    twin[1, 2, 0] += 1
    assert consistency(logits, twin, lengths) > 0
