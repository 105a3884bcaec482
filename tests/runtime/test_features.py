"""Features equal Kaldi's, and a stream's frames equal the whole waveform's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig, StreamingLogMel, log_mel

CONFIGS = [
    FeatureConfig(),
    FeatureConfig(bins=40),
    FeatureConfig(sample_rate_hz=8000, bins=23, low_hz=100, high_hz=-200),
    FeatureConfig(frame_length_ms=20, frame_shift_ms=12.5),
]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    tone = 0.3 * np.sin(2 * np.pi * 440 / 16000 * np.arange(samples))
    return (tone + 0.05 * random.standard_normal(samples) + 0.02).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_torchaudio(config: FeatureConfig) -> None:
    torch = pytest.importorskip("torch")
    from asr_compress.corpora.torchaudio_cpu import torchaudio

    wave = noise(20000)
    expected = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(wave)[None] * 32768,
        sample_frequency=config.sample_rate_hz,
        num_mel_bins=config.bins,
        frame_length=config.frame_length_ms,
        frame_shift=config.frame_shift_ms,
        low_freq=config.low_hz,
        high_freq=config.high_hz,
        dither=0.0,
    ).numpy()
    frames = log_mel(wave, config)
    assert frames.dtype == np.float32 and frames.shape == expected.shape
    np.testing.assert_allclose(frames, expected, atol=1e-3)


def test_equals_kaldi_native_fbank() -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    config, wave = FeatureConfig(), noise(48000, seed=1)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = config.bins
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(config.sample_rate_hz, (wave * 32768).tolist())
    fbank.input_finished()
    expected = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    np.testing.assert_allclose(log_mel(wave, config), expected, atol=1e-3)


def test_silence_is_the_floor() -> None:
    frames = log_mel(np.zeros(16000, np.float32), FeatureConfig())
    assert np.all(frames == np.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 559, 560])
def test_frame_count(samples: int) -> None:
    config = FeatureConfig()
    expected = 0 if samples < 400 else 1 + (samples - 400) // 160
    assert log_mel(noise(samples), config).shape == (expected, 80) and config.frames(samples) == expected


@settings(max_examples=30, deadline=None)
@given(chunks=st.lists(st.integers(0, 2000), min_size=1, max_size=12))
def test_streamed_equals_whole(chunks: list[int]) -> None:
    config = FeatureConfig(bins=40)
    wave = noise(sum(chunks), seed=2)
    stream, parts, start = StreamingLogMel(config), [], 0
    for size in chunks:
        parts.append(stream.push(wave[start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(parts), log_mel(wave, config), atol=2e-5)


def test_a_copied_stream_goes_its_own_way() -> None:
    stream = StreamingLogMel(FeatureConfig())
    stream.push(noise(1000))
    twin = stream.copy()
    twin.push(noise(5000, seed=3))
    assert len(stream.push(noise(400))) == FeatureConfig().frames(1400) - FeatureConfig().frames(1000)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="mix channels down"):
        log_mel(np.zeros((2, 800), np.float32), FeatureConfig())
    with pytest.raises(InputError, match="unknown key 'mels'"):
        FeatureConfig.from_json({"mels": 80})
    with pytest.raises(InputError, match="low_hz"):
        FeatureConfig(low_hz=9000)
