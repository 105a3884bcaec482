"""Cached frames are those of the audio; a second opening computes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from asr_compress.corpora import cache as cache_module
from asr_compress.corpora.batches import Batches
from asr_compress.corpora.cache import cache_features, statistics
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig, log_mel

CONFIG = FeatureConfig(bins=40)


@pytest.fixture(scope="module")
def noise_cuts(tmp_path_factory: pytest.TempPathFactory) -> CutSet:
    folder = tmp_path_factory.mktemp("noise")
    cuts = []
    for index, (samples, rate_hz) in enumerate([(8000, 16000), (24000, 16000), (8000, 8000)]):
        wave = 0.1 * np.random.default_rng(index).standard_normal(samples).astype(np.float32)
        path = folder / f"noise-{index}.wav"
        soundfile.write(path, wave, rate_hz, subtype="FLOAT")
        recording = Recording.from_file(path, recording_id=path.stem)
        supervision = SupervisionSegment(path.stem, path.stem, 0.0, recording.duration, text="A", speaker="s")
        cuts.append(MonoCut(path.stem, 0.0, recording.duration, 0, [supervision], recording=recording))
    return CutSet.from_cuts(cuts)


def test_frames_are_those_of_the_audio(noise_cuts: CutSet, tmp_path: Path) -> None:
    cache = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    for cut in list(noise_cuts)[:2]:
        expected = log_mel(cut.load_audio()[0], CONFIG)
        assert cache.length(cut.id) == len(expected)
        np.testing.assert_allclose(cache[cut.id], expected, atol=0.02)  # float16 near 20


def test_another_rate_is_resampled_and_another_speed_changes_the_length(noise_cuts: CutSet, tmp_path: Path) -> None:
    cache = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    assert cache.length("noise-2") == CONFIG.frames(16000)
    slow = cache_features(noise_cuts, CONFIG, tmp_path, speed=0.9, jobs=1)
    assert slow.length("noise-1") == pytest.approx(CONFIG.frames(round(24000 / 0.9)), abs=1)


def test_a_second_opening_computes_nothing(noise_cuts: CutSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    monkeypatch.setattr(cache_module, "log_mel", None)
    second = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    np.testing.assert_array_equal(first.frames, second.frames)
    with pytest.raises(TypeError):
        cache_features(noise_cuts, FeatureConfig(bins=20), tmp_path, jobs=1)


def test_audio_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.wav"
    soundfile.write(path, np.zeros(8000, np.float32), 16000)
    recording = Recording.from_file(path, recording_id="gone")
    supervision = SupervisionSegment("gone", "gone", 0.0, recording.duration, text="A", speaker="s")
    cuts = CutSet.from_cuts([MonoCut("gone", 0.0, recording.duration, 0, [supervision], recording=recording)])
    path.write_bytes(b"not audio")
    with pytest.raises(InputError, match=r"^gone: audio cannot be read \(.+\)$"):
        cache_features(cuts, CONFIG, tmp_path / "cache", jobs=1)
    path.unlink()
    with pytest.raises(InputError, match=r"^gone: .*gone\.wav is not there; .* prepare the manifest again$"):
        cache_features(cuts, CONFIG, tmp_path / "cache", jobs=1)
    assert not list((tmp_path / "cache").glob("*"))


def test_statistics_are_those_of_all_frames(noise_cuts: CutSet, tmp_path: Path) -> None:
    cache = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    mean, deviation = statistics(cache, [cut.id for cut in noise_cuts])
    frames = cache.frames.astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(deviation, frames.std(0), rtol=1e-3)


def test_a_batch_is_padded_with_zeros(noise_cuts: CutSet, tmp_path: Path) -> None:
    cache = cache_features(noise_cuts, CONFIG, tmp_path, jobs=1)
    batches = Batches(noise_cuts, {1.0: cache}, {"noise-0": [3], "noise-1": [4, 5]}, batch_s=60, shuffle=False)
    (batch,) = batches.epoch(0)
    assert batch.ids == ("noise-0", "noise-1")  # noise-2 has no labels; the shortest comes first
    assert batch.targets.tolist() == [[3, 0], [4, 5]] and batch.target_lengths.tolist() == [1, 2]
    short = int(batch.feature_lengths[0])
    np.testing.assert_array_equal(batch.features[0, :short].numpy(), cache["noise-0"])
    assert not batch.features[0, short:].any()
