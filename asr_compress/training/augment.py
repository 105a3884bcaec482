"""SpecAugment on a batch of log-mel frames, by torchaudio's masks."""

from __future__ import annotations

import torch
from torch import Tensor

from asr_compress.corpora.torchaudio_cpu import torchaudio
from asr_compress.training.config import AugmentConfig


class SpecAugment:
    """Frequency and time masks, different for each utterance; masked frames get the corpus mean (Park et al. 2019).

    A time mask is at most `time_share` of the utterance, so short utterances keep their words.
    """

    def __init__(self, config: AugmentConfig, mean: Tensor) -> None:
        self.config, self.mean = config, mean
        self.frequency = torchaudio.transforms.FrequencyMasking(config.frequency_bins, iid_masks=True)

    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Mask `features (batch, frames, bins)`; lengths int64 `(batch,)`."""
        # torchaudio masks with one number for all bins, so the mean is taken out before and put back after.
        masked = (features - self.mean).transpose(1, 2)[:, None]
        for _ in range(self.config.frequency_masks):
            masked = self.frequency(masked)
        masked = masked[:, 0].transpose(1, 2)
        for _ in range(self.config.time_masks):
            masked = masked * ~self._time_mask(features.shape[1], lengths)[:, :, None]
        return masked + self.mean

    def _time_mask(self, frames: int, lengths: Tensor) -> Tensor:
        # torchaudio's TimeMasking bounds masks by the padded length; each utterance needs a bound of its own.
        width = torch.rand(len(lengths)) * self.config.time_share * lengths
        start = torch.rand(len(lengths)) * (lengths - width)
        time = torch.arange(frames)[None]
        return (time >= start[:, None]) & (time < (start + width)[:, None])
