"""An acoustic model: a list of layers from log-mel frames to token logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from asr_compress.models.layers import Conv, FrameStack, Layer, Normalize


class AcousticModel(nn.Module):
    """Layers applied in order. The first normalizes features, the last gives logits; token 0 is the CTC blank."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map frames to logits.

        Args:
            x: float32 `(batch, frames, bins)` log-mel frames.
            lengths: int64 `(batch,)`, valid frames of each utterance.

        Returns:
            Logits `(batch, frames', tokens)` and int64 lengths `(batch,)`.
        """
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return x, lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Output frames of utterances of `lengths (batch,)` frames, without running the model."""
        for layer in self.layers:
            if isinstance(layer, FrameStack | Conv):
                stride = layer.stride if isinstance(layer, FrameStack) else layer.stride[0]
                lengths = torch.div(lengths + stride - 1, stride, rounding_mode="floor")
        return lengths

    @property
    def stride(self) -> int:
        """Input frames per output frame."""
        big = 1 << 20
        return big // int(self.output_lengths(torch.tensor([big])))

    def set_normalization(self, mean: Tensor, deviation: Tensor) -> None:
        """Take the corpus's mean and standard deviation, float32 `(bins,)` each, into the first layer."""
        first = cast(Normalize, self.layers[0])
        first.mean.copy_(mean)
        first.scale.copy_(1 / deviation.clamp_min(1e-5))
