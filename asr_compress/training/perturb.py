"""Other voices, paces and microphones for the same words: random changes of log-mel frames.

Done on the frames and not on the wave, so that every epoch hears something new at no cost of decoding audio again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr_compress.models.layers import mask_padding
from asr_compress.runtime.features import FeatureConfig
from asr_compress.training.config import AugmentConfig

RIPPLES = 4  # cosines over the bins that a microphone's frequency response is drawn from


class Perturb:
    """Warp frequency and time and tilt the spectrum, differently for each utterance of a batch.

    Sources: vocal tract length perturbation (Jaitly & Hinton 2013), tempo (Ko et al. 2015).
    """

    def __init__(self, config: AugmentConfig, features: FeatureConfig) -> None:
        self.config = config
        low, high = _mel(torch.tensor([features.low_hz, features.top_hz]))
        self.low, self.step = low, (high - low) / (features.bins + 1)
        self.centers_hz = _hertz(self.low + self.step * torch.arange(1, features.bins + 1))
        self.top_hz = features.top_hz

    @property
    def active(self) -> bool:
        return any((self.config.vocal_tract, self.config.tempo, self.config.channel))

    def __call__(self, x: Tensor, lengths: Tensor, at_least: Tensor) -> tuple[Tensor, Tensor]:
        """Change `x (batch, frames, bins)`; lengths int64 `(batch,)`.

        Args:
            at_least: int64 `(batch,)`; frames that an utterance needs. One that would get fewer keeps its tempo.
        """
        if self.config.vocal_tract:
            x = self._warp_frequency(x, 1 + self.config.vocal_tract * _uniform(len(x)))
        if self.config.channel:
            x = mask_padding(x + self._response(len(x), x.shape[2])[:, None], lengths)
        if self.config.tempo:
            x, lengths = _warp_time(x, lengths, 1 + self.config.tempo * _uniform(len(x)), at_least)
        return x, lengths

    def _warp_frequency(self, x: Tensor, factors: Tensor) -> Tensor:
        """Stretch the spectrum by `factors (batch,)`; above 7/8 of the band linearly to its end, as HTK does."""
        knee = 0.875 * self.top_hz / factors.clamp_min(1.0)[:, None]
        hertz = self.centers_hz[None]
        slope = (self.top_hz - factors[:, None] * knee) / (self.top_hz - knee)
        warped = torch.where(hertz <= knee, factors[:, None] * hertz, self.top_hz - slope * (self.top_hz - hertz))
        place = ((_mel(warped) - self.low) / self.step - 1).clamp(0, x.shape[2] - 1)
        lower = place.floor().long().clamp_max(x.shape[2] - 2)
        share = (place - lower)[:, None]
        index = lower[:, None].expand(-1, x.shape[1], -1)
        return x.gather(2, index) * (1 - share) + x.gather(2, index + 1) * share

    def _response(self, batch: int, bins: int) -> Tensor:
        """A smooth random frequency response in nepers of energy, `(batch, bins)`, loudness included."""
        place = torch.linspace(0, math.pi, bins)
        ripples = torch.cos(torch.arange(RIPPLES)[:, None] * place)
        return self.config.channel * torch.randn(batch, RIPPLES) @ ripples


def _warp_time(x: Tensor, lengths: Tensor, factors: Tensor, at_least: Tensor) -> tuple[Tensor, Tensor]:
    """Play `x` faster by `factors (batch,)`, frames between frames interpolated."""
    new = (lengths / factors).round().long()
    new = torch.where(new < at_least, lengths, new).clamp_min(1)
    pace = (lengths - 1).clamp_min(0) / (new - 1).clamp_min(1)
    time = torch.arange(int(new.max()))[None]
    place = torch.minimum(time * pace[:, None], (lengths - 1)[:, None].to(torch.float32))
    lower = place.floor().long()
    upper = torch.minimum(lower + 1, (lengths - 1)[:, None])
    share = (place - lower)[:, :, None]
    rows = torch.arange(len(x))[:, None]
    warped = x[rows, lower] * (1 - share) + x[rows, upper] * share
    return warped * (time < new[:, None])[:, :, None], new


def _uniform(count: int) -> Tensor:
    return 2 * torch.rand(count) - 1


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


def _hertz(mel: Tensor) -> Tensor:
    return 700.0 * torch.expm1(mel / 1127.0)
