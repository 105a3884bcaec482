"""A text file read aloud by espeak-ng voices: training material without end, for pretraining."""

from __future__ import annotations

import random
from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.language_model import read_sentences
from asr_compress.corpora.spoken import deal, spoken_splits, voices
from asr_compress.corpora.utterances import Problem
from asr_compress.runtime.errors import InputError

_WORD_S, _EDGES_S = 0.36, 0.3  # mean duration of a word, and of the silence around a sentence


def read_aloud(
    text: str | Path,
    *,
    audio_dir: str | Path | None = None,
    hours: float | None = None,
    longest_s: float = 16.0,
    seed: int = 0,
    jobs: int | None = None,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """The split `train`: sentences of a text file (one a line) in random order, dealt to all voices.

    Args:
        audio_dir: folder to speak into.
        hours: about how much to speak; all of the text by default.
        longest_s: sentences that would take longer are left out.

    Raises:
        InputError: a text that cannot be used or is too short; espeakng-loader is not installed.
    """
    if audio_dir is None:
        raise InputError("corpus 'aloud': audio_dir, a folder to speak into, is needed")
    if splits not in (None, ["train"]):
        raise InputError(f"{text}: read aloud it is one split, 'train', not {', '.join(splits or [])}")
    durations = {" ".join(words): len(words) * _WORD_S + _EDGES_S for words in read_sentences(text, normalize)}
    sentences = [sentence for sentence, duration_s in durations.items() if duration_s <= longest_s]
    random.Random(f"aloud {seed}").shuffle(sentences)
    total_s = sum(durations[sentence] for sentence in sentences)
    if not sentences or (hours is not None and not 0 < hours * 3600 <= total_s):
        raise InputError(f"{text}: {hours} hours of sentences up to {longest_s} s; it has about {total_s / 3600:.2f}")
    left_s = total_s if hours is None else hours * 3600
    chosen = []
    for sentence in sentences:
        if left_s <= 0:
            break
        chosen.append(sentence)
        left_s -= durations[sentence]
    blocks = deal("train", chosen, voices(seed), seed)
    return spoken_splits(blocks, audio_dir, jobs=jobs, normalize=normalize, problems=problems)
