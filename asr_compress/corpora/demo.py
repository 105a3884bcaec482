"""The demo corpus: sentences of a small grammar, said by espeak-ng voices. No recording of a person is in it.

The voices of training, dev and test are disjoint, and so are the sentences. What is trained on it knows synthetic
voices only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.grammar import Grammar, parse_grammar
from asr_compress.corpora.normalize import upper
from asr_compress.corpora.spoken import Block, deal, spoken_splits, voices
from asr_compress.corpora.utterances import Problem
from asr_compress.runtime.errors import InputError

_SENTENCE_S = 2.2  # mean duration
_SENTENCES_A_VOICE = 8  # fewer voices rather than fewer sentences each
_HELD_OUT_VOICES = {"test": 12, "dev": 8}  # training has all others


def read_demo(
    folder: str | Path,
    *,
    train_minutes: float = 30.0,
    dev_minutes: float = 3.0,
    test_minutes: float = 8.0,
    seed: int = 0,
    jobs: int | None = None,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """The splits `train`, `dev` and `test`, of about so many minutes each, spoken into `folder` at first.

    The same seed gives the same test sentences, voices and samples whatever the size of the other splits.

    Raises:
        InputError: sizes that cannot be; espeakng-loader is not installed.
    """
    minutes = {"test": test_minutes, "dev": dev_minutes, "train": train_minutes}
    for name in splits or []:
        if name not in minutes:
            raise InputError(f"demo corpus: no split {name!r}; there are {', '.join(minutes)}")
    sentences = _sentences(minutes, seed)
    blocks = [
        block
        for name, pool in _voices(seed).items()
        if name in (splits or minutes)
        for block in _blocks(name, sentences[name], pool, seed)
    ]
    return spoken_splits(blocks, folder, jobs=jobs, normalize=normalize, problems=problems)


def demo_text(count: int = 20_000, *, dev_minutes: float = 3.0, test_minutes: float = 8.0, seed: int = 0) -> list[str]:
    """Text for a language model, normalized by `upper`: different sentences, none of dev or test of these sizes.

    Where the training split has the same seed and sizes, its sentences come first.
    """
    minutes = {"test": test_minutes, "dev": dev_minutes, "train": count * _SENTENCE_S / 60}
    return [upper(sentence) for sentence in _sentences(minutes, seed)["train"]]


def demo_grammar() -> Grammar:
    """The grammar of the sentences."""
    file = resources.files("asr_compress.corpora") / "resources" / "demo_grammar.txt"
    return parse_grammar(file.read_text(encoding="utf-8"), "demo_grammar.txt")


def _sentences(minutes: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Split -> sentences, different from all others of any split. Splits are drawn in the order given."""
    counts = {name: round(length * 60 / _SENTENCE_S) for name, length in minutes.items()}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"demo corpus: {minutes[name]} minutes of {name} are less than a sentence")
    drawn = demo_grammar().sentences(sum(counts.values()), random.Random(f"demo {seed}"))
    found = {}
    for name, count in counts.items():
        found[name], drawn = drawn[:count], drawn[count:]
    return found


def _voices(seed: int) -> dict[str, list[str]]:
    left = voices(seed)
    found = {}
    for name, count in _HELD_OUT_VOICES.items():
        found[name], left = left[:count], left[count:]
    return {**found, "train": left}


def _blocks(name: str, sentences: list[str], pool: list[str], seed: int) -> list[Block]:
    return deal(name, sentences, pool[: max(1, len(sentences) // _SENTENCES_A_VOICE)], seed)
