"""A back-off n-gram language model as arrays: look-up, scores, perplexity.

The probability of word w after history h is the model's explicit value where the n-gram is listed, otherwise
the back-off weight of h (1 where h is not listed) times the probability after the history shortened by its
oldest word (Katz, "Estimation of probabilities from sparse data", IEEE TASSP 1987). So do ARPA files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from asr_compress.runtime.errors import InputError

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
UNKNOWN_ID, START_ID, END_ID = 0, 1, 2
SPECIAL = (UNKNOWN, START, END)

NEVER = -99.0
"""log10 of a probability of zero, by the convention of ARPA files."""


@dataclass(frozen=True)
class NgramTable:
    """All n-grams of one order, sorted by (prefix, word).

    Attributes:
        prefix: (n,) int64, row of the n-gram without its last word, one order lower; 0 for unigrams.
        word: (n,) int64, id of the last word.
        log10_prob: (n,) float64, probability of the last word after the others.
        log10_backoff: (n,) float64, back-off weight of the n-gram as a history.
    """

    prefix: np.ndarray
    word: np.ndarray
    log10_prob: np.ndarray
    log10_backoff: np.ndarray


@dataclass(frozen=True)
class NgramModel:
    """`words[id]` is a word, the first three being <unk>, <s>, </s>; `tables[k]` holds the (k+1)-grams.

    The table of unigrams has one row a word, in order of id. Every prefix and every suffix of a listed n-gram
    is listed.
    """

    words: tuple[str, ...]
    tables: tuple[NgramTable, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.tables)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """word -> id."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def keys(self) -> tuple[np.ndarray, ...]:
        """Per order, (n,) int64 sorted: prefix row and word as one number."""
        return tuple(table.prefix * len(self.words) + table.word for table in self.tables)

    def log10_probs(self, ids: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The log10 probability of each token of a text given the tokens before it in its sentence.

        Args:
            ids: (n,) int64 word ids.
            position: (n,) int64 place of each token in its sentence; histories do not reach past 0.

        Returns:
            (n,) float64. A token at position 0 has its unigram value.
        """
        row = ids
        score = self.tables[0].log10_prob[ids]
        for k in range(1, self.order):
            history = np.roll(row, 1)
            history[position < k] = -1
            backoff = np.where(history >= 0, self.tables[k - 1].log10_backoff[history], 0.0)
            row = find(self.keys[k], history * len(self.words) + ids, history >= 0)
            score = np.where(row >= 0, self.tables[k].log10_prob[row], backoff + score)
        return score


def find(keys: np.ndarray, wanted: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(n,) rows of the wanted keys in sorted `keys`, -1 where a key is not there or not valid."""
    if not len(keys):
        return np.full(len(wanted), -1)
    row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(valid & (keys[row] == wanted), row, -1)


def encode(sentences: Iterable[Sequence[str]], ids: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A text as (ids, position), each (n,) int64: every sentence between <s> and </s>, unknown words <unk>.

    Raises:
        InputError: a sentence that spells <s>, </s> or <unk>.
    """
    flat: list[int] = []
    lengths = []
    for words in sentences:
        for special in SPECIAL:
            if special in words:
                raise InputError(f"sentence {' '.join(words)!r}: {special} is reserved; remove it from the text")
        flat.append(START_ID)
        flat.extend(ids.get(word, UNKNOWN_ID) for word in words)
        flat.append(END_ID)
        lengths.append(len(words) + 2)
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths) if lengths else np.zeros(0, np.int64)
    return np.array(flat, np.int64), np.arange(len(flat)) - starts.astype(np.int64)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    `perplexity` is per predicted token: the words in the vocabulary and each sentence's end. Words outside
    the vocabulary are counted, not predicted; as <unk> they are still the history of others.
    """

    sentences: int
    words: int
    unknown_words: int
    log10_prob: float
    perplexity: float


def perplexity(model: NgramModel, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Score a text.

    Raises:
        InputError: a text without sentences.
    """
    ids, position = encode(sentences, model.ids)
    if not len(ids):
        raise InputError("perplexity: the text has no sentences")
    predicted = (position > 0) & (ids != UNKNOWN_ID)
    log10_prob = float(model.log10_probs(ids, position)[predicted].sum())
    count = int((position == 0).sum())
    return Perplexity(
        sentences=count,
        words=len(ids) - 2 * count,
        unknown_words=int((ids == UNKNOWN_ID).sum()),
        log10_prob=log10_prob,
        perplexity=float(10 ** (-log10_prob / predicted.sum())),
    )
