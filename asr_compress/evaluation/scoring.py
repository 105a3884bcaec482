"""Results scored: error counts of every variant in the units that are resampled, and the draws they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asr_compress.corpora.normalize import normalizer
from asr_compress.evaluation.bootstrap import RESAMPLES, Draws, draw
from asr_compress.evaluation.results import Results, VariantResult
from asr_compress.evaluation.test_set import Reference
from asr_compress.evaluation.wer import CorpusScore, Scoring, UtteranceScore, errors_by_reference_word, score
from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class Units:
    """What is resampled: utterances, or takes where every utterance is joined from takes.

    Attributes:
        words: float64 (units,) reference words of each.
        speakers: whose each is.
        kind: "utterances" or "takes".
    """

    words: np.ndarray
    speakers: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Scored:
    """All variants of one test set, scored alike.

    Attributes:
        scores: one a variant that was recognized, by position in `results.variants`.
        errors: float64 (units,) of each.
    """

    results: Results
    units: Units
    draws: Draws
    scores: dict[int, CorpusScore]
    errors: dict[int, np.ndarray]

    @property
    def how(self) -> str:
        """How the intervals were made, in a sentence."""
        return self.draws.describe().replace("utterances", self.units.kind)


def score_results(
    results: Results, scoring: Scoring = "jiwer", speakers_fixed: bool = False, resamples: int = RESAMPLES
) -> Scored:
    """Score every variant and draw the resampled test sets.

    Raises:
        InputError: see `normalizer`.
    """
    references = list(results.references.values())
    normalize = _lenient(normalizer(results.normalizer))
    scores = {
        i: _score(variant, references, results.normalizer, normalize, scoring)
        for i, variant in enumerate(results.variants)
        if variant.texts
    }
    by_take = all(reference.takes for reference in references)
    units = _take_units(references) if by_take else _utterance_units(references)
    errors = {i: _errors(corpus.utterances, references, by_take) for i, corpus in scores.items()}
    return Scored(results, units, draw(units.speakers, resamples, speakers_fixed), scores, errors)


def _score(
    variant: VariantResult,
    references: list[Reference],
    name: str,
    normalize: Callable[[str], str],
    scoring: Scoring,
) -> CorpusScore:
    ids = [reference.id for reference in references]
    texts = [variant.texts[id] for id in ids]
    return score(ids, [r.text for r in references], texts, name, normalize, variant.failures, scoring)


def _lenient(normalize: Callable[[str], str]) -> Callable[[str], str]:
    """A recognizer may say what a normalizer refuses in a transcript (digits, say); that is scored as it is."""

    def apply(text: str) -> str:
        try:
            return normalize(text)
        except InputError:
            return text

    return apply


def _utterance_units(references: list[Reference]) -> Units:
    words = np.array([len(reference.text.split()) for reference in references], np.float64)
    return Units(words, tuple(reference.speaker for reference in references), "utterances")


def _take_units(references: list[Reference]) -> Units:
    """A take's words are those of all strings it stands in."""
    index = _take_index(references)
    words = np.bincount(_takes(references, index), minlength=len(index)).astype(np.float64)
    speakers = {take: reference.speaker for reference in references for take in reference.takes}
    return Units(words, tuple(speakers[take] for take in index), "takes")


def _errors(utterances: tuple[UtteranceScore, ...], references: list[Reference], by_take: bool) -> np.ndarray:
    if not by_take:
        return np.array([utterance.words.errors for utterance in utterances], np.float64)
    index = _take_index(references)
    charged = np.concatenate([errors_by_reference_word(utterance.operations) for utterance in utterances])
    return np.bincount(_takes(references, index), weights=charged, minlength=len(index))


def _take_index(references: list[Reference]) -> dict[str, int]:
    takes = dict.fromkeys(take for reference in references for take in reference.takes)
    return {take: i for i, take in enumerate(takes)}


def _takes(references: list[Reference], index: dict[str, int]) -> np.ndarray:
    """Unit of each reference word, in order."""
    return np.array([index[take] for reference in references for take in reference.takes], np.int64)
