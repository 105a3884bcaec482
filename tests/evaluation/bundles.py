"""Small random recognizers, written as bundles, and test sets of noise for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet

from asr_compress.corpora.manifests import write_manifests
from asr_compress.corpora.utterances import Utterance, to_cuts
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.formats import Float32
from asr_compress.runtime.network import FrameStack, Network
from asr_compress.runtime.tokens import Tokens
from tests.runtime.networks import Encode, Maker

TOKENS = Tokens("char", ("<blank>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"))
BINS = 16
RATE_HZ = 16000


def bundle(
    folder: Path,
    name: str = "small",
    encode: Encode = Float32.encode,
    hidden: int = 24,
    bidirectional: bool = True,
    seed: int = 0,
    history: list[dict] | None = None,
) -> Path:
    """A bundle of random weights that says something of every noise."""
    make = Maker(seed, encode, scale=0.3)
    recurrent = make.bidirectional(2 * BINS, hidden) if bidirectional else make.lstm(2 * BINS, hidden)
    width = recurrent.width(2 * BINS)
    network: Network = (
        make.normalize(BINS),
        FrameStack(2, 2),
        recurrent,
        make.norm(width),
        make.linear(width, len(TOKENS.symbols)),
    )
    path = folder / f"{name}.safetensors"
    Bundle(network, FeatureConfig(bins=BINS), TOKENS, model={"name": name}, history=history or []).save(path)
    return path


def noise_set(folder: Path, utterances: int = 12, speakers: int = 3, broken: int = 0) -> Path:
    """A manifest of noise, 0.3 to 0.8 s an utterance; the last `broken` ones are no audio."""
    chance = np.random.default_rng(0)
    items = []
    for i in range(utterances):
        audio = folder / f"u{i}.wav"
        if i >= utterances - broken:
            audio.write_text("no audio")
        else:
            soundfile.write(audio, chance.normal(size=int(RATE_HZ * (0.3 + 0.5 * chance.random()))) * 0.1, RATE_HZ)
        items.append(Utterance(f"u{i:03d}", audio, "A TEST OF NOISE", f"speaker{i % speakers}", "made up"))
    cuts: CutSet = to_cuts("test", items, problems=[])
    return write_manifests({"test": cuts}, folder / "manifests")["test"]
