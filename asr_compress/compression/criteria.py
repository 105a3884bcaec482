"""How much a weight matters: the change of the loss that dropping it is expected to bring."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from asr_compress.compression.base import Context
from asr_compress.models.maps import Map
from asr_compress.models.parametrizations import as_matrix
from asr_compress.runtime.errors import InputError

Criterion = Literal["magnitude", "taylor", "fisher"]


def gains(model: nn.Module, maps: list[Map], criterion: Criterion, context: Context, reader: str) -> list[np.ndarray]:
    """What each squared weight is multiplied by to give its score: float32 (rows, cols) a map.

    | criterion | score of a weight w with gradient g      | source                                    |
    |-----------|------------------------------------------|-------------------------------------------|
    | magnitude | w**2                                     | Han et al. 2015                           |
    | taylor    | (mean of abs(g) over batches)**2 * w**2  | Molchanov et al. 2017, equation 6         |
    | fisher    | mean of g**2 over batches * w**2         | LeCun et al. 1990; Theis et al. 2018      |

    Raises:
        InputError: gradients are asked for and the recipe names no data, or none with transcripts.
    """
    if criterion == "magnitude":
        return [np.ones(item.matrix.shape, np.float32) for item in maps]
    from asr_compress.training.objective import ctc  # with the corpora it takes a second and a half to import

    batches = context.speech(reader)
    sums = [torch.zeros_like(item.trained) for item in maps]
    was_training = model.training
    model.eval()
    count = 0
    for batch in batches:
        if not bool(batch.target_lengths.any()):
            continue
        moved = batch.to(sums[0].device)
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN has no backward in evaluation mode
            logits, lengths = model(moved.features, moved.feature_lengths)
        loss = ctc(logits, lengths, moved) / moved.target_lengths.sum()
        found = torch.autograd.grad(loss, [item.trained for item in maps])
        for total, gradient in zip(sums, found, strict=True):
            total += gradient.abs() if criterion == "taylor" else gradient.square()
        count += 1
    model.train(was_training)
    if count == 0:
        raise InputError(f"{reader}: {criterion} needs transcripts, and the training speech has none; use magnitude")
    means = [as_matrix(total / count).float().cpu().numpy() for total in sums]
    return [mean**2 if criterion == "taylor" else mean for mean in means]
