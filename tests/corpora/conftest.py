"""Small corpora of noise, in the layouts of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

WriteAudio = Callable[..., Path]


@pytest.fixture
def write_audio() -> WriteAudio:
    """`write_audio(path, seconds=0.5, rate_hz=16000)` writes quiet noise, the same for the same name."""

    def write(path: Path, seconds: float = 0.5, rate_hz: int = 16000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(path.name)).normal(0, 0.05, round(seconds * rate_hz))
        if path.suffix == ".opus":
            soundfile.write(path, noise, rate_hz, format="OGG", subtype="OPUS")
        else:
            soundfile.write(path, noise, rate_hz)
        return path

    return write


@pytest.fixture
def kaldi_corpus(tmp_path: Path, write_audio: WriteAudio) -> Path:
    """Three speakers in `train`, one in `test`, two utterances each; paths relative to the corpus folder."""
    root = tmp_path / "corpus"
    for split, speakers in {"train": ("ann", "bob", "cy"), "test": ("dee",)}.items():
        wav, text, speaker_of = [], [], []
        for speaker in speakers:
            for number in range(2):
                name = f"{speaker}-{number}"
                write_audio(root / "audio" / f"{name}.wav", seconds=0.5 + 0.25 * number)
                wav.append(f"{name} audio/{name}.wav")
                text.append(f"{name} HELLO {'AGAIN ' * number}{speaker.upper()}")
                speaker_of.append(f"{name} {speaker}")
        folder = root / split
        folder.mkdir(parents=True)
        for file, lines in (("wav.scp", wav), ("text", text), ("utt2spk", speaker_of)):
            (folder / file).write_text("\n".join(lines) + "\n")
    return root
