"""A tiny made-up corpus: each letter of the transcript is a tone of its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from asr_compress.corpora.batches import Batches
from asr_compress.corpora.cache import cache_features
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.tokens import Tokens

FEATURES = FeatureConfig(bins=20)


def tone_word(text: str, seed: int) -> np.ndarray:
    """120 ms of a tone a letter, in noise; float32 at 16 kHz."""
    noise = np.random.default_rng(seed)
    time_s = np.arange(1920) / 16000
    tones = [0.4 * np.sin(2 * np.pi * (300 + 220 * (ord(letter) - ord("A"))) * time_s) for letter in text]
    wave = np.concatenate([np.zeros(800), *tones, np.zeros(800)])
    return (wave + 0.01 * noise.standard_normal(len(wave))).astype(np.float32)


def make_cuts(folder: Path, count: int, seed: int = 0) -> CutSet:
    """`count` utterances of 2 to 5 letters A to F, one of six speakers each."""
    chooser = random.Random(seed)
    cuts = []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        text = "".join(chooser.choice("ABCDEF") for _ in range(chooser.randint(2, 5)))
        name = f"tone-{seed}-{index:03d}"
        path = folder / f"{name}.wav"
        soundfile.write(path, tone_word(text, index), 16000)
        recording = Recording.from_file(path, recording_id=name)
        supervision = SupervisionSegment(name, name, 0.0, recording.duration, text=text, speaker=f"s{index % 6}")
        cuts.append(MonoCut(name, 0.0, recording.duration, 0, [supervision], recording=recording))
    return CutSet.from_cuts(cuts)


@pytest.fixture(scope="session")
def tone_cuts(tmp_path_factory: pytest.TempPathFactory) -> CutSet:
    return make_cuts(tmp_path_factory.mktemp("tones"), 48)


@pytest.fixture(scope="session")
def tone_batches(tone_cuts: CutSet, tmp_path_factory: pytest.TempPathFactory) -> Batches:
    folder = tmp_path_factory.mktemp("frames")
    caches = {speed: cache_features(tone_cuts, FEATURES, folder, speed, jobs=1) for speed in (0.9, 1.0)}
    tokens = Tokens.characters()
    labels = {cut.id: tokens.encode(cut.supervisions[0].text) for cut in tone_cuts}
    return Batches(tone_cuts, caches, labels, batch_s=4.0)
