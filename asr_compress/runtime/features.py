"""Waveform -> log-mel frames: Kaldi's filter bank, in vectorized numpy and in the extension.

The one definition of features in the project: training, evaluation and the device all call `log_mel`. It equals
`torchaudio.compliance.kaldi.fbank` and `kaldi-native-fbank` within 1e-3 (tests/runtime/test_features.py).

Source: Kaldi, `feat/feature-window.cc`, `feat/mel-computations.cc`, `feat/feature-fbank.cc`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import extension, instruction_set

# Kaldi floors the mel energies at the float32 epsilon before the logarithm.
ENERGY_FLOOR = np.float32(np.finfo(np.float32).eps)
# Kaldi's waveforms are 16-bit integers; ours are in [-1, 1).
INT16_SCALE = np.float32(32768.0)
# Frames worked on at once: the windowed block and its spectrum stay in the L2 cache.
BLOCK_FRAMES = 128


@dataclass(frozen=True)
class FeatureConfig:
    """What defines a frame. Stored in every bundle.

    Attributes:
        sample_rate_hz: rate of the waveform that `log_mel` takes.
        bins: mel filters, the length of a frame.
        frame_length_ms: length of the window.
        frame_shift_ms: distance between the starts of two windows.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last filter; 0 or less counts down from half the sample rate.
        preemphasis: coefficient of the first-order high-pass filter.
    """

    sample_rate_hz: int = 16000
    bins: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 0.0
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        if self.sample_rate_hz <= 0 or self.bins <= 0:
            raise InputError(
                f"features: sample_rate_hz and bins must be positive, got {self.sample_rate_hz} and {self.bins}"
            )
        if self.shift < 1 or self.length < 2:
            raise InputError("features: frame_shift_ms and frame_length_ms must cover at least 1 and 2 samples")
        if not 0 <= self.low_hz < self.top_hz <= self.sample_rate_hz / 2:
            raise InputError(
                f"features: low_hz {self.low_hz} and high_hz {self.high_hz} must satisfy "
                f"0 <= low < high <= {self.sample_rate_hz / 2}"
            )

    @property
    def length(self) -> int:
        """Samples in a window."""
        return int(self.sample_rate_hz * self.frame_length_ms * 0.001)

    @property
    def shift(self) -> int:
        """Samples from one window to the next."""
        return int(self.sample_rate_hz * self.frame_shift_ms * 0.001)

    @property
    def top_hz(self) -> float:
        """Upper edge of the last filter in Hz, resolved."""
        return self.high_hz if self.high_hz > 0 else self.sample_rate_hz / 2 + self.high_hz

    def frames(self, samples: int) -> int:
        """Number of whole windows in `samples` samples (Kaldi's `snip_edges`)."""
        return max(0, 1 + (samples - self.length) // self.shift)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> FeatureConfig:
        """Inverse of `to_json`. Raises InputError for an unknown key."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise InputError(f"features: unknown key {unknown[0]!r}; allowed: {', '.join(cls.__dataclass_fields__)}")
        return cls(**values)


def log_mel(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Log-mel energies of a waveform, by the extension where it was built, else by numpy.

    Args:
        samples: float32 `(samples,)` in [-1, 1), at `config.sample_rate_hz`.

    Returns:
        float32 `(frames, bins)`; no frames for a waveform shorter than one window.

    Raises:
        InputError: `samples` is not one-dimensional.
    """
    instructions = instruction_set()
    if instructions is None:
        return log_mel_numpy(samples, config)
    frames = _empty_frames(samples, config)
    if len(frames):
        tables = _tables(config)
        wave = np.ascontiguousarray(samples, np.float32)
        # window, circle, and the triangles: checked in the extension against each other and both buffers.
        extension().log_mel(
            instructions, wave, config.shift, config.preemphasis, ENERGY_FLOOR,
            tables.window, tables.circle, *tables.triangles, frames,
        )  # fmt: skip
    return frames


def log_mel_numpy(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """What defines `log_mel`. Arguments, result and errors are the same.

    The extension's equals it within 1e-4, but for energies less than a millionth of the frame's largest: there, each
    shows the rounding of its own order of float32 operations.
    """
    frames = _empty_frames(samples, config)
    count = len(frames)
    if count == 0:
        return frames
    tables = _tables(config)
    wave = samples.astype(np.float32, copy=False) * INT16_SCALE
    emphasized = wave.copy()
    emphasized[1:] -= np.float32(config.preemphasis) * wave[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(emphasized, config.length)[:: config.shift]
    # Removing a window's mean before pre-emphasis equals removing (1 - preemphasis) of it afterwards. The window's
    # first sample, which Kaldi emphasizes against itself, is an exception that does not matter: its weight is 0.
    offset = _window_means(wave, count, config) * np.float32(1 - config.preemphasis)
    block = np.zeros((min(count, BLOCK_FRAMES), len(tables.circle)), np.float32)
    for start in range(0, count, BLOCK_FRAMES):
        end = min(start + BLOCK_FRAMES, count)
        part = block[: end - start]
        np.subtract(windows[start:end], offset[start:end, None], out=part[:, : config.length])
        part[:, : config.length] *= tables.window
        spectrum = np.fft.rfft(part, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        np.matmul(power[:, : len(tables.mel)], tables.mel, out=frames[start:end])
    np.maximum(frames, ENERGY_FLOOR, out=frames)
    return np.log(frames, out=frames)


def _empty_frames(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    if samples.ndim != 1:
        raise InputError(f"log_mel takes samples of shape (samples,), got {samples.shape}; mix channels down first")
    return np.empty((config.frames(len(samples)), config.bins), np.float32)


class StreamingLogMel:
    """`log_mel` for a waveform that arrives in chunks: the same frames, up to the rounding of one float32 product.

    Holds the samples that later windows still need; `copy()` gives an independent stream at the same point.
    """

    def __init__(self, config: FeatureConfig, pending: np.ndarray | None = None) -> None:
        self.config = config
        # Samples from the start of the next window on. The sample before it, which pre-emphasis of the window's first
        # sample would want, does not matter: the first weight of the window is 0.
        self.pending = np.empty(0, np.float32) if pending is None else pending

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 `(samples,)`; return the frames that are now complete, float32 `(frames, bins)`."""
        self.pending = np.concatenate([self.pending, samples.astype(np.float32, copy=False)])
        frames = log_mel(self.pending, self.config)
        self.pending = self.pending[len(frames) * self.config.shift :].copy()
        return frames

    def copy(self) -> StreamingLogMel:
        return StreamingLogMel(self.config, self.pending.copy())


def _window_means(wave: np.ndarray, count: int, config: FeatureConfig) -> np.ndarray:
    """Mean of each window, float32 `(count,)`; each from its own samples alone, so that chunks change nothing."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, config.length)[:: config.shift][:count]
    return np.einsum("ij->i", windows) / np.float32(config.length)


@dataclass(frozen=True, eq=False)
class _Tables:
    """What a configuration computes once, float32 but for the indices.

    Attributes:
        window: Povey's, `(length,)`.
        circle: exp(-2 pi i k / fft length), `(fft length, 2)`.
        mel: weights of the spectrum bins, `(fft length / 2, bins)`; the Nyquist bin carries none.
        triangles: the same without the zeros: first spectrum bin and number of them `(bins,)` uint32, and weights.
    """

    window: np.ndarray
    circle: np.ndarray
    mel: np.ndarray
    triangles: tuple[np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=8)
def _tables(config: FeatureConfig) -> _Tables:
    phase = 2 * np.pi * np.arange(config.length) / (config.length - 1)
    window = (0.5 - 0.5 * np.cos(phase)) ** 0.85
    fft_length = 1 << (config.length - 1).bit_length()
    angles = 2 * np.pi * np.arange(fft_length) / fft_length
    circle = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    # Triangles of equal width on the mel scale.
    hz = np.arange(fft_length // 2) * config.sample_rate_hz / fft_length
    edges = np.linspace(_mel(config.low_hz), _mel(config.top_hz), config.bins + 2)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(hz)[:, None]
    weights = np.minimum((mel - left) / (center - left), (right - mel) / (right - center))
    weights = np.maximum(weights, 0).astype(np.float32)
    return _Tables(window.astype(np.float32), circle.astype(np.float32), weights, _triangles(weights))


def _triangles(mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The spectrum bins under each triangle, which lie together, and their weights."""
    under = mel > 0
    count = under.sum(axis=0, dtype=np.uint32)
    first = under.argmax(axis=0).astype(np.uint32)
    return first, count, np.ascontiguousarray(mel.T[under.T])


def _mel(hz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)
