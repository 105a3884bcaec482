"""Word and character error rates of a corpus, with every utterance's counts and alignment kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jiwer import AlignmentChunk, process_characters, process_words

from asr_compress.evaluation.sclite import align as sclite_align
from asr_compress.runtime.errors import InputError

Scoring = Literal["jiwer", "sclite"]

HIT, SUBSTITUTION, DELETION, INSERTION = "=", "S", "D", "I"
_LETTER = {"equal": HIT, "substitute": SUBSTITUTION, "delete": DELETION, "insert": INSERTION}


@dataclass(frozen=True)
class Counts:
    """What an alignment of hypothesis and reference counts, in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference(self) -> int:
        """Length of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors over reference length; NaN where the reference is empty, which has no rate."""
        return self.errors / self.reference if self.reference else float("nan")

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @classmethod
    def of(cls, operations: str) -> Counts:
        """Count the letters of an alignment."""
        return cls(*(operations.count(letter) for letter in (HIT, SUBSTITUTION, DELETION, INSERTION)))


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance, scored.

    Attributes:
        reference, hypothesis: the normalized texts that were compared.
        operations: the word alignment from left to right, one letter a step: `=` hit, `S` substitution,
            `D` deletion, `I` insertion. `=`, `S` and `D` consume a reference word; `=`, `S` and `I` a hypothesis word.
        words, characters: the counts. Characters include the spaces between words, as jiwer's do.
        failed: why there is no hypothesis, or None. A failed utterance counts as deletions throughout.
    """

    id: str
    reference: str
    hypothesis: str
    operations: str
    words: Counts
    characters: Counts
    failed: str | None = None


@dataclass(frozen=True)
class CorpusScore:
    """All utterances of a test set scored alike, and what they sum to."""

    utterances: tuple[UtteranceScore, ...]
    normalizer: str
    scoring: Scoring

    @property
    def words(self) -> Counts:
        return sum((utterance.words for utterance in self.utterances), Counts())

    @property
    def characters(self) -> Counts:
        return sum((utterance.characters for utterance in self.utterances), Counts())

    @property
    def failed(self) -> int:
        return sum(utterance.failed is not None for utterance in self.utterances)


def score(
    ids: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str | None],
    normalizer: str,
    normalize: Callable[[str], str] = str,
    failures: dict[str, str] | None = None,
    scoring: Scoring = "jiwer",
) -> CorpusScore:
    """Align every hypothesis with its reference and count.

    Args:
        hypotheses: None marks an utterance that could not be recognized; it counts as deletions.
        normalizer: the name under which the results state how text was normalized.
        normalize: applied to both texts.
        failures: id -> why, for the utterances without a hypothesis.
        scoring: "jiwer" takes the fewest errors (Levenshtein); "sclite" weighs a substitution 4 and a deletion
            or insertion 3 as NIST's scorer does. Totals nearly always agree; the split into S, D and I need not.

    Raises:
        InputError: lengths differ, or an id occurs twice.
    """
    if not len(ids) == len(references) == len(hypotheses):
        raise InputError(
            f"scoring needs one reference and one hypothesis an id, got {len(ids)} ids, "
            f"{len(references)} references, {len(hypotheses)} hypotheses"
        )
    if len(set(ids)) != len(ids):
        twice = next(id for id in ids if list(ids).count(id) > 1)
        raise InputError(f"utterance id {twice!r} occurs twice; make the ids of the test set unique")
    wanted = [" ".join(normalize(text).split()) for text in references]
    given = [" ".join(normalize(text or "").split()) for text in hypotheses]
    words = _align_words(wanted, given, scoring)
    characters = _operations(process_characters(wanted, given).alignments) if wanted else []
    reasons = failures or {}
    return CorpusScore(
        tuple(
            UtteranceScore(
                id=ids[i],
                reference=wanted[i],
                hypothesis=given[i],
                operations=words[i],
                words=Counts.of(words[i]),
                characters=Counts.of(characters[i]),
                failed=reasons.get(ids[i], "no hypothesis") if hypotheses[i] is None else None,
            )
            for i in range(len(ids))
        ),
        normalizer,
        scoring,
    )


def word_pairs(utterance: UtteranceScore) -> list[tuple[str, str | None, str | None]]:
    """The alignment spelled out: (operation, reference word or None, hypothesis word or None) a step."""
    reference, hypothesis = iter(utterance.reference.split()), iter(utterance.hypothesis.split())
    return [
        (
            operation,
            None if operation == INSERTION else next(reference),
            None if operation == DELETION else next(hypothesis),
        )
        for operation in utterance.operations
    ]


def errors_by_reference_word(operations: str) -> np.ndarray:
    """Errors charged to each reference word, int64 (words,); they sum to the utterance's errors.

    An insertion is charged to the word before it, or to the first word where it comes before all. Used where each
    reference word is a sampling unit of its own (a take of a spoken digit). Without reference words the result is
    empty and insertions are lost, so callers keep such utterances whole.
    """
    errors: list[int] = []
    early = 0
    for operation in operations:
        if operation != INSERTION:
            errors.append(int(operation != HIT))
        elif errors:
            errors[-1] += 1
        else:
            early += 1
    if errors:
        errors[0] += early
    return np.array(errors, dtype=np.int64)


def _align_words(references: list[str], hypotheses: list[str], scoring: Scoring) -> list[str]:
    if scoring == "sclite":
        return [sclite_align(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
    if scoring != "jiwer":
        raise InputError(f"scoring must be 'jiwer' or 'sclite', got {scoring!r}")
    return _operations(process_words(references, hypotheses).alignments) if references else []


def _operations(alignments: list[list[AlignmentChunk]]) -> list[str]:
    return ["".join(_LETTER[chunk.type] * _steps(chunk) for chunk in chunks) for chunks in alignments]


def _steps(chunk: AlignmentChunk) -> int:
    return int(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx))
