"""Features equal Kaldi's, and a stream's frames equal the whole waveform's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import INSTRUCTION_SET_VARIABLE, extension, instruction_sets
from asr_compress.runtime.features import FeatureConfig, StreamingLogMel, log_mel, log_mel_numpy

CONFIGS = [
    FeatureConfig(),
    FeatureConfig(bins=40),
    FeatureConfig(sample_rate_hz=8000, bins=23, low_hz=100, high_hz=-200),
    FeatureConfig(frame_length_ms=20, frame_shift_ms=12.5),
    FeatureConfig(sample_rate_hz=8000, bins=40),
]
SETS = instruction_sets()
built = pytest.mark.skipif(not SETS, reason="the native engine was not built here")


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


def assert_same(frames: np.ndarray, defined: np.ndarray) -> None:
    """Within 1e-4, but for energies so far below the frame's largest that float32 holds only their rounding."""
    assert frames.dtype == np.float32 and frames.shape == defined.shape
    if len(defined):
        energies, expected = np.exp(frames.astype(np.float64)), np.exp(defined.astype(np.float64))
        rounding = 1e-10 * expected.max(axis=1, keepdims=True)
        assert np.all(np.abs(energies - expected) <= 1e-4 * expected + rounding)


@built
@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_extension_equals_numpy(config: FeatureConfig, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, isa)
    for samples in (0, 1, config.length - 1, config.length, config.length + config.shift, 7 * config.length, 20000):
        sound = noise(samples, seed=samples)
        for wave in (sound, np.zeros_like(sound), sound * np.float32(1e-6), np.clip(20 * sound, -1, 1)):
            assert_same(log_mel(wave, config), log_mel_numpy(wave, config))


@built
@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(2, 70), shift=st.integers(1, 90), bins=st.integers(1, 50), samples=st.integers(0, 2000),
    isa=st.sampled_from(SETS or [""]),
)  # fmt: skip
def test_any_shape_equals_numpy(length: int, shift: int, bins: int, samples: int, isa: str) -> None:
    config = FeatureConfig(sample_rate_hz=1000, bins=bins, frame_length_ms=length, frame_shift_ms=shift, low_hz=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INSTRUCTION_SET_VARIABLE, isa)
        wave = noise(samples)
        assert_same(log_mel(wave, config), log_mel_numpy(wave, config))


@built
def test_all_instruction_sets_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []
    for isa in SETS:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, isa)
        frames.append(log_mel(noise(10000), FeatureConfig()))
    assert all(np.array_equal(frames[0], others) for others in frames[1:])


def test_what_is_not_finite_does_not_pass_for_sound() -> None:
    wave = noise(1000)
    wave[500] = np.nan
    frames = log_mel(wave, FeatureConfig())
    assert not np.isfinite(frames[1:]).any()  # every window but the first holds it


def test_without_the_extension_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_compress.runtime.extension._native", None)
    wave = noise(3000)
    np.testing.assert_array_equal(log_mel(wave, FeatureConfig()), log_mel_numpy(wave, FeatureConfig()))


def native_arguments(**changes: object) -> list[object]:
    """Of the extension's log_mel: windows of 8 samples every 4, two filters over 4 spectrum bins; two frames."""
    arguments: dict[str, object] = {
        "isa": "portable", "samples": np.zeros(12, np.float32), "shift": 4, "preemphasis": 0.97, "floor": 1e-7,
        "window": np.zeros(8, np.float32), "circle": np.ones((8, 2), np.float32),
        "first": np.array([0, 2], np.uint32), "count": np.array([3, 2], np.uint32),
        "weights": np.ones(5, np.float32), "output": np.empty((2, 2), np.float32),
    }  # fmt: skip
    return list({**arguments, **changes}.values())


@built
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": np.zeros(11, np.float32)}, "more frames than the samples"),
        ({"samples": np.zeros(0, np.float32)}, "more frames than the samples"),
        ({"samples": np.zeros(12)}, "elements of type 'd'"),
        ({"output": np.empty(3, np.float32)}, "whole number of frames"),
        ({"shift": 0}, "shift"),
        ({"window": np.zeros(9, np.float32)}, "fit the circle"),
        ({"window": np.zeros(0, np.float32)}, "fit the circle"),
        ({"circle": np.ones((6, 2), np.float32)}, "power of two"),
        ({"count": np.array([3], np.uint32)}, "for each bin"),
        ({"count": np.array([3, 3], np.uint32)}, "beyond the spectrum"),
        ({"first": np.array([0, 2**32 - 1], np.uint32)}, "beyond the spectrum"),
        ({"weights": np.ones(4, np.float32)}, "weights must have"),
        ({"isa": "sse9"}, "no such instruction set"),
    ],
)
def test_the_extension_checks_its_buffers(changes: dict[str, object], message: str) -> None:
    extension().log_mel(*native_arguments())
    with pytest.raises(ValueError, match=message):
        extension().log_mel(*native_arguments(**changes))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="mix channels down"):
        log_mel(np.zeros((2, 800), np.float32), FeatureConfig())
    with pytest.raises(InputError, match="unknown key 'mels'"):
        FeatureConfig.from_json({"mels": 80})
    with pytest.raises(InputError, match="low_hz"):
        FeatureConfig(low_hz=9000)
