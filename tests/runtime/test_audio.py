from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime.audio import load_audio, resample
from asr_compress.runtime.errors import InputError


def chord(rate_hz: int, top_hz: float, seconds: float = 1.0) -> np.ndarray:
    """Thirty cosines below `top_hz`, the same continuous signal at every rate, float64."""
    random = np.random.default_rng(0)
    times = np.arange(round(rate_hz * seconds)) / rate_hz
    return sum(np.cos(2 * np.pi * random.uniform(20, top_hz) * times + random.uniform(0, 6)) for _ in range(30)) / 60


def snr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """Over the middle, where no edge is felt."""
    inner = slice(len(wanted) // 5, -len(wanted) // 5)
    return 10 * np.log10((wanted[inner] ** 2).sum() / ((wanted - got)[inner] ** 2).sum())


RATES = [
    (8000, 16000),
    (11025, 16000),
    (22050, 16000),
    (32000, 16000),
    (44100, 16000),
    (48000, 16000),
    (16000, 8000),
    (16000, 44100),
]


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_resampling_keeps_a_band_limited_signal(from_hz: int, to_hz: int) -> None:
    top_hz = 0.85 * min(from_hz, to_hz) / 2
    resampled = resample(chord(from_hz, top_hz).astype(np.float32), from_hz, to_hz)
    assert resampled.dtype == np.float32
    assert snr_db(chord(to_hz, top_hz), resampled) > 95


@pytest.mark.parametrize("from_hz", [8000, 44100, 48000])
def test_resampling_agrees_with_librosa(from_hz: int) -> None:
    librosa = pytest.importorskip("librosa")
    x = chord(from_hz, 0.85 * min(from_hz, 16000) / 2).astype(np.float32)
    theirs = librosa.resample(x, orig_sr=from_hz, target_sr=16000)
    ours = resample(x, from_hz, 16000)
    assert ours.shape == theirs.shape
    assert snr_db(theirs, ours) > 70  # librosa is 75 dB from the true signal at 44.1 kHz
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99999


def test_what_lies_above_the_new_band_is_removed() -> None:
    times = np.arange(48000) / 48000
    tone = np.cos(2 * np.pi * 8500 * times).astype(np.float32)
    assert np.abs(resample(tone, 48000, 16000)[2000:-2000]).max() < 3e-4  # -70 dB


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.sampled_from([8000, 11025, 16000, 44100, 48000]), st.sampled_from([8000, 16000, 22050]))
def test_resampled_length(samples: int, from_hz: int, to_hz: int) -> None:
    assert resample(np.ones(samples, np.float32), from_hz, to_hz).shape == (-(-samples * to_hz // from_hz),)


def test_resampling_is_linear_phase_and_keeps_levels() -> None:
    constant = resample(np.full(4000, 0.5, np.float32), 44100, 16000)
    np.testing.assert_allclose(constant[200:-200], 0.5, atol=1e-5)
    pulse = np.zeros(4001, np.float32)
    pulse[2000] = 1
    response = resample(pulse, 8000, 16000)
    np.testing.assert_allclose(response[:8001], response[:8001][::-1], atol=1e-6)
    assert response.argmax() == 4000


@pytest.mark.parametrize("rates", [(0, 16000), (16000, -1)])
def test_rates_must_be_positive(rates: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="positive"):
        resample(np.ones(4, np.float32), *rates)


@pytest.mark.parametrize(
    ("name", "subtype", "db"),
    [("a.wav", "PCM_24", 90), ("a.flac", "PCM_16", 70), ("a.ogg", "OPUS", 5), ("a.mp3", None, 5)],
)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_formats_rates_and_channels(tmp_path: Path, name: str, subtype: str | None, db: float, rate_hz: int) -> None:
    x = chord(rate_hz, 3000)
    # Two channels that differ, with the wanted signal as their mean.
    soundfile.write(tmp_path / name, np.stack([1.2 * x, 0.8 * x], axis=1), rate_hz, subtype=subtype)
    samples = load_audio(tmp_path / name, 16000)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - 16000) < 2000  # MP3 pads
    if name.endswith(("wav", "flac")):
        assert snr_db(chord(16000, 3000), samples) > db


def test_silence_is_no_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), np.zeros(1600, np.float32))


def cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def make_bad(folder: Path, what: str) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    if what == "missing.wav":
        return folder / what
    path = folder / what
    if what == "folder.wav":
        path.mkdir()
    elif what == "empty.wav":
        path.touch()
    elif what in ("text.wav", "text.flac", "text.xyz"):
        path.write_text("This is a letter, not a recording.\n" * 20)
    elif what == "no-samples.wav":
        soundfile.write(path, np.zeros(0), 16000)
    elif what in ("nan.wav", "inf.wav"):
        noise[77] = float(what[:3])
        soundfile.write(path, noise, 16000, subtype="FLOAT")
    else:
        soundfile.write(path, noise, 16000, subtype="OPUS" if what.endswith("ogg") else "PCM_16")
        cut(path, float(what[3:5]) / 100)
    return path


BAD = [
    "missing.wav",
    "folder.wav",
    "empty.wav",
    "text.wav",
    "text.flac",
    "text.xyz",
    "no-samples.wav",
    "nan.wav",
    "inf.wav",
    "cut01.flac",
    "cut30.flac",
    "cut95.flac",
    "cut01.wav",
    "cut50.wav",
    "cut50.ogg",
]


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_named_in_one_line(tmp_path: Path, what: str) -> None:
    path = make_bad(tmp_path, what)
    with pytest.raises(InputError) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_of_a_known_kind_does_not_load_librosa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(InputError, match="not audio"):
        load_audio(make_bad(tmp_path, "text.wav"))
    (tmp_path / "a.m4a").write_text("hello")
    with pytest.raises(InputError, match=r"a\.m4a.*install librosa"):
        load_audio(tmp_path / "a.m4a")


def test_a_wav_file_from_a_pipe_claims_no_size(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.find(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(data)
    assert len(load_audio(tmp_path / "a.wav")) == 800


def test_real_speech(corpora_dir: Path) -> None:
    take = next(iter(sorted((corpora_dir / "fsdd" / "recordings").glob("*.flac"))))
    samples = load_audio(take, 16000)
    assert len(samples) == 2 * soundfile.info(take).frames  # recorded at 8 kHz
    assert 0.01 < np.abs(samples).max() <= 1.5
