"""Perturbations of frames: what they leave alone, and what they do to a spectrum and to time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_compress.runtime.features import FeatureConfig, log_mel
from asr_compress.training.config import AugmentConfig
from asr_compress.training.perturb import Perturb, _warp_time

FEATURES = FeatureConfig()


def perturb(**changes: float) -> Perturb:
    return Perturb(AugmentConfig(**changes), FEATURES)


def test_off_by_default() -> None:
    assert not perturb().active


@pytest.mark.parametrize("changes", [{"vocal_tract": 0.2}, {"tempo": 0.2}, {"channel": 0.3}])
def test_changes_each_utterance_differently_and_keeps_padding_zero(changes: dict[str, float]) -> None:
    x = torch.randn(1, 50, 80).repeat(3, 1, 1)
    x[2, 30:] = 0
    lengths = torch.tensor([50, 50, 30])
    changed, new = perturb(**changes)(x, lengths, torch.tensor([5, 5, 5]))
    shared = min(50, int(new[:2].min()))
    assert not torch.allclose(changed[0, :shared], changed[1, :shared])
    assert not torch.allclose(changed[0, :shared], x[0, :shared])
    assert (changed[2, int(new[2]) :] == 0).all()
    assert changed.shape[2] == 80 and changed.shape[1] >= int(new.max())


def test_stretching_the_spectrum_moves_a_tone_as_resampling_does() -> None:
    time = np.arange(16000) / 16000
    tone = log_mel(np.sin(2 * np.pi * 1000 * time).astype(np.float32), FEATURES)
    higher = log_mel(np.sin(2 * np.pi * 1250 * time).astype(np.float32), FEATURES)
    warped = perturb(vocal_tract=0.2)._warp_frequency(torch.from_numpy(tone)[None], torch.tensor([0.8]))[0]
    assert warped.mean(0).argmax() == higher.mean(0).argmax() != tone.mean(0).argmax()


def test_no_stretch_is_the_identity() -> None:
    x = torch.randn(2, 7, 80)
    torch.testing.assert_close(perturb(vocal_tract=0.2)._warp_frequency(x, torch.ones(2)), x, atol=1e-3, rtol=0)


def test_tempo_keeps_ends_and_stops_where_labels_would_not_fit() -> None:
    x = torch.arange(20.0)[None, :, None].repeat(2, 1, 1)
    warped, lengths = _warp_time(x, torch.tensor([20, 20]), torch.tensor([2.0, 2.0]), torch.tensor([5, 15]))
    assert lengths.tolist() == [10, 20]
    assert warped[0, 0] == 0 and warped[0, 9] == 19
    torch.testing.assert_close(warped[1], x[1])
