"""A trained recognizer as one file's worth of data."""

from __future__ import annotations

from dataclasses import asdict

from asr_compress import __version__
from asr_compress.models.convert import to_network
from asr_compress.runtime.bundle import Bundle
from asr_compress.training.config import TrainConfig
from asr_compress.training.run import Trained


def bundle_of(trained: Trained, config: TrainConfig) -> Bundle:
    """The bundle of a training run, whose history begins with how it was trained and how good it was on dev."""
    history = {
        "step": "train",
        "config": config.model_dump(mode="json", exclude_defaults=True),
        "dev": asdict(trained.dev),
        "asr_compress": __version__,
    }
    return Bundle(
        network=to_network(trained.model),
        features=config.feature_config(),
        tokens=trained.tokens,
        lexicon=trained.lexicon,
        model={"name": config.model},
        history=[history],
    )
