"""Log-mel features on a device, through torchaudio: for GPUs, whose models outrun one CPU core's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr_compress.corpora.torchaudio_cpu import torchaudio
from asr_compress.runtime.features import INT16_SCALE, FeatureConfig


class TorchFeatures:
    """The features of `runtime.features.log_mel` within 1e-3, computed by torch on `device`."""

    def __init__(self, config: FeatureConfig, device: str) -> None:
        self.config, self.device = config, device

    def __call__(self, batch: Sequence[np.ndarray]) -> list[Tensor]:
        """Waveforms float32 (samples,) -> float32 (frames, bins) each, on the device."""
        return [self._one(samples) for samples in batch]

    def _one(self, samples: np.ndarray) -> Tensor:
        config = self.config
        if config.frames(len(samples)) == 0:
            return torch.empty(0, config.bins, device=self.device)
        with torch.inference_mode():
            wave = torch.from_numpy(samples * INT16_SCALE).to(self.device)
            frames: Tensor = torchaudio.compliance.kaldi.fbank(
                wave[None],
                sample_frequency=config.sample_rate_hz,
                num_mel_bins=config.bins,
                frame_length=config.frame_length_ms,
                frame_shift=config.frame_shift_ms,
                low_freq=config.low_hz,
                high_freq=config.high_hz,
                preemphasis_coefficient=config.preemphasis,
                dither=0.0,
            )
            return frames
