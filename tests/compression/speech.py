"""Stand-ins for speech and for a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_compress.compression.base import Pass
from asr_compress.corpora.batches import Batch
from asr_compress.training.objective import ctc
from tests.models.small import BINS, TOKENS


@dataclass(frozen=True)
class Outputs:
    logits: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Measured:
    error: float
    loss: float = 1.0
    blank_rate: float = 0.5


def batches(count: int = 2, frames: int = 40) -> Iterator[Batch]:
    """Noise with labels, the same at each call."""
    generator = torch.Generator().manual_seed(11)
    for index in range(count):
        yield Batch(
            features=torch.randn(3, frames, BINS, generator=generator),
            feature_lengths=torch.tensor([frames, frames - 8, frames // 2]),
            targets=torch.randint(1, TOKENS, (3, 3), generator=generator),
            target_lengths=torch.tensor([3, 2, 1]),
            ids=tuple(f"{index}-{row}" for row in range(3)),
            texts=("", "", ""),
        )


def measure_by(error: Callable[[nn.Module], float]) -> Callable[[nn.Module], Measured]:
    return lambda model: Measured(error(model))


def train_steps(model: nn.Module, passes: Sequence[Pass], steps: int, lr: float = 0.05) -> Iterator[int]:
    """Train as the loop does; yields the number of each step once it is done."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for step in range(steps):
        for active in passes:
            active.on_step(step, steps)
        batch = list(batches())[step % 2]
        logits, lengths = model(batch.features, batch.feature_lengths)
        weight = 1.0
        for active in passes:
            weight *= active.ctc_weight
        loss = weight * ctc(logits, lengths, batch) / batch.target_lengths.sum()
        for active in passes:
            loss = loss + sum(active.losses(batch, Outputs(logits, lengths)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step
    model.eval()
