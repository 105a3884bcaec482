"""A small untrained bundle and a few seconds of noise to compress it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_compress.corpora.manifests import write_manifests
from asr_compress.corpora.utterances import Utterance, to_cuts
from asr_compress.models.convert import to_network
from asr_compress.models.zoo import Size, blstm
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.tokens import Tokens

BINS = 20


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = blstm(Size(2, 19, dropout=0.0), len(Tokens.characters()), BINS)
    path = tmp_path / "start.safetensors"
    history = [{"step": "train", "note": "made up"}]
    Bundle(to_network(model), FeatureConfig(bins=BINS), Tokens.characters(), model={"name": "x"}, history=history).save(
        path
    )
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, list[str]]:
    """A few seconds of noise that says A or BE."""
    chance = np.random.default_rng(0)
    items = []
    for index in range(16):
        audio = tmp_path / f"u{index}.wav"
        soundfile.write(audio, chance.normal(size=int(16000 * (0.4 + 0.3 * chance.random()))) * 0.1, 16000)
        items.append(Utterance(f"u{index:02d}", audio, ("A", "BE")[index % 2], f"s{index % 4}", "made up"))
    paths = write_manifests(
        {"train": to_cuts("train", items[:12], problems=[]), "dev": to_cuts("dev", items[12:], problems=[])},
        tmp_path / "manifests",
    )
    return {"train": [str(paths["train"])], "dev": [str(paths["dev"])]}
