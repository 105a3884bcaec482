"""Audio files -> one channel of float32 samples at the rate that the features want."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.errors import InputError

Samples = NDArray[np.float32]

# Containers that libsndfile does not know. Trying them through librosa costs seconds; any other file that
# libsndfile refuses is broken or no audio at all.
_LIBROSA_SUFFIXES = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mov", ".amr", ".3gp"}
_UNKNOWN_SIZE_BYTES = 2**31 - 2**16  # programs that write WAV to a pipe claim about as much or more
_BLOCK_FRAMES = 2**20
# The resampling filter: 48 zero crossings on each side and a Kaiser window of 90 dB reach from 0.94 of the lower
# Nyquist frequency down to the stop band just above it (Kaiser's formula, Oppenheim and Schafer, 7.5.3).
_ZERO_CROSSINGS = 48
_ROLL_OFF = 0.94
_KAISER_BETA = 9.0
_LEAST_COLUMNS, _MOST_COLUMNS = 32, 64  # outputs computed from one window of inputs
_BLOCK_ROWS = 1024  # windows copied and multiplied at once: about 2 MB


def load_audio(path: str | Path, sample_rate_hz: int = 16000) -> Samples:
    """Read a file of any rate and number of channels, as far as libsndfile knows it (WAV, FLAC, Ogg Opus, MP3, ...).

    Args:
        sample_rate_hz: rate to resample to.

    Returns:
        (samples,) float32, the mean of the channels; full scale is [-1, 1). Silence is a fine result.

    Raises:
        InputError: naming the file: missing, a directory, empty, no audio, cut short, no samples, or samples that
            are not finite numbers.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give an audio file")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy or record it again")
    samples, rate_hz = _decode(path)
    if not len(samples):
        raise InputError(f"{path}: holds no samples; record it again")
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: has samples that are NaN or infinite; write it again from its source")
    return resample(samples, rate_hz, sample_rate_hz)


def checked_samples(samples: np.ndarray) -> Samples:
    """Samples as (n,) float32 in [-1, 1).

    Raises:
        InputError: another shape, neither floats nor int16, or a value that is not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise InputError(f"samples have shape {samples.shape}; wanted (n,): take the mean of the channels first")
    if samples.dtype == np.int16:
        return np.asarray(samples, np.float32) / np.float32(32768)
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples are {samples.dtype}; wanted floats in [-1, 1) or int16")
    if not np.isfinite(samples).all():
        raise InputError("samples contain NaN or infinity; check where they come from")
    return np.ascontiguousarray(samples, np.float32)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the sample rate with a zero-phase polyphase filter (a sinc under a Kaiser window).

    Args:
        samples: (n,) float32.

    Returns:
        (ceil(n * to_hz / from_hz),) float32; sample i is the signal at time i / to_hz.

    Raises:
        InputError: a rate that is not positive.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise InputError(f"sample rates must be positive, got {from_hz} and {to_hz} Hz")
    samples = np.ascontiguousarray(samples, np.float32)
    if from_hz == to_hz or not len(samples):
        return samples
    divisor = math.gcd(from_hz, to_hz)
    up, down = to_hz // divisor, from_hz // divisor
    # Every `up` outputs, `down` inputs later, the same filters come again: these are the rows of a matrix product.
    repeats = -(-_LEAST_COLUMNS // up)
    up, down = up * repeats, down * repeats
    length = -(-len(samples) * to_hz // from_hz)
    rows = -(-length // up)
    half = _half_length(down / up)
    padded = np.pad(samples, (half, half + rows * down))
    output = np.empty((rows, up), np.float32)
    for column in range(0, up, _MOST_COLUMNS):
        columns = slice(column, min(column + _MOST_COLUMNS, up))
        filters = _filters(up, down, columns.start, columns.stop)
        first = columns.start * down // up
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(filters))[first::down]
        for row in range(0, rows, _BLOCK_ROWS):
            block = slice(row, min(row + _BLOCK_ROWS, rows))
            output[block, columns] = windows[block] @ filters
    return output.reshape(-1)[:length]


def _half_length(ratio: float) -> int:
    """Inputs on each side of an output that its filter covers; `ratio` is the input rate over the output rate."""
    return math.ceil(_ZERO_CROSSINGS * max(1.0, ratio)) + 1


@lru_cache(maxsize=8)
def _filters(up: int, down: int, start: int, stop: int) -> NDArray[np.float32]:
    """The filters of outputs `start` to `stop` as columns, each shifted to where its output lies among the inputs.

    Row 0 is the input that lies `_half_length` before the last input at or before output `start`.
    """
    ratio = down / up
    half = _half_length(ratio)
    outputs = np.arange(start, stop)
    first = start * down // up
    inputs = np.arange(-half, (stop - 1) * down // up - first + half + 1)
    # In zero crossings. Whole and fractional parts are taken apart, so that large positions lose no digits.
    distance = (inputs[:, None] - (outputs * down // up - first) - (outputs * down % up) / up) / max(1.0, ratio)
    nodes, window = _kaiser_table()
    filters = np.sinc(_ROLL_OFF * distance) * np.interp(np.abs(distance), nodes, window, right=0)
    return (filters / filters.sum(axis=0)).astype(np.float32)


@lru_cache(maxsize=1)
def _kaiser_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half of the Kaiser window; linear interpolation in it is exact to 1e-7."""
    nodes = np.linspace(0, 1, 4097)
    return nodes * _ZERO_CROSSINGS, np.i0(_KAISER_BETA * np.sqrt(1 - nodes**2)) / np.i0(_KAISER_BETA)


def _decode(path: Path) -> tuple[Samples, int]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            blocks = file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True)
            samples = np.concatenate([np.empty(0, np.float32), *map(_one_channel, blocks)])
            if len(samples) < file.frames or _says_cut_short(file.extra_info):
                raise InputError(f"{path}: cut short after {len(samples)} samples; copy or download it again")
            return samples, int(file.samplerate)
    except soundfile.LibsndfileError as error:
        if path.suffix.lower() in _LIBROSA_SUFFIXES:
            return _decode_with_librosa(path)
        reason = error.error_string.removeprefix("Error : ").strip(". ")
        raise InputError(
            f"{path}: not audio that can be read, or damaged ({reason}); give WAV, FLAC, Ogg or MP3"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _says_cut_short(log: str) -> bool:
    """What libsndfile found while it opened the file: it reads a WAV or Ogg file that ends early without complaint."""
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", log)
    if sizes:
        claimed, present = map(int, sizes.groups())
        return present < claimed < _UNKNOWN_SIZE_BYTES
    return "lacks an end-of-stream bit" in log and "Junk after the last page" in log


def _one_channel(block: NDArray[np.float32]) -> Samples:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _decode_with_librosa(path: Path) -> tuple[Samples, int]:
    advice = "convert it to WAV or FLAC, or install librosa and ffmpeg"
    try:
        import librosa
    except ImportError:
        raise InputError(f"{path}: {path.suffix} needs more than libsndfile; {advice}") from None
    try:
        samples, rate_hz = librosa.load(path, sr=None, mono=True)
    except Exception as error:  # audioread's backends raise what they like
        raise InputError(f"{path}: librosa cannot read it ({type(error).__name__}: {error}); {advice}") from None
    return np.asarray(samples, np.float32), int(rate_hz)
