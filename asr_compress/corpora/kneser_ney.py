"""Modified Kneser-Ney smoothing, interpolated, with a discount each for n-grams seen once, twice, more often.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", TR-10-98, Harvard 1998,
section 3 and equation 26. Counts below the highest order are the numbers of different words before, except
for n-grams that begin a sentence, before which nothing stands: those keep their counts. The unigrams are
interpolated with the uniform distribution over the vocabulary, which is what <unk> gets. Heafield et al.,
"Scalable modified Kneser-Ney language model estimation", ACL 2013, make the same choices.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from asr_compress.corpora.ngram import END_ID, NEVER, SPECIAL, START_ID, NgramModel, NgramTable, encode
from asr_compress.runtime.errors import InputError

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""For an order whose counts of counts give no discounts: a very small text, or one of repeated lines."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Counts:
    """The distinct n-grams of one order, sorted by (prefix, word); every array is (n,)."""

    prefix: np.ndarray
    word: np.ndarray
    suffix: np.ndarray  # row of the n-gram without its first word, one order lower
    seen: np.ndarray
    opens: np.ndarray  # bool: begins with <s>


def estimate(
    sentences: Sequence[Sequence[str]],
    order: int = 3,
    vocabulary: Collection[str] | None = None,
    cutoffs: Sequence[int] = (),
) -> NgramModel:
    """Estimate a model from sentences of words.

    Args:
        order: length of the longest n-grams.
        vocabulary: the words of the model; others in the text become <unk>. Without it, all words of
            the text.
        cutoffs: for each order, n-grams seen at most so often are left out, their probability going to the
            back-off; not decreasing, the first 0, the last holding for the orders above.

    Raises:
        InputError: no sentences; an order, vocabulary or cutoffs that cannot be.
    """
    if order < 1:
        raise InputError(f"order {order}: must be 1 or more")
    if not any(len(sentence) for sentence in sentences):
        raise InputError("language model: the text has no words")
    limits = _limits(cutoffs, order)
    found = set().union(*sentences) if vocabulary is None else set(vocabulary)
    if vocabulary is not None and found & set(SPECIAL):
        raise InputError(f"vocabulary: {', '.join(sorted(found & set(SPECIAL)))} must not be listed; it is implied")
    words = (*SPECIAL, *sorted(found - set(SPECIAL)))
    ids, position = encode(sentences, {word: number for number, word in enumerate(words)})
    counts = _count(ids, position, order, len(words))
    return NgramModel(words, _smooth(counts, limits))


def _limits(cutoffs: Sequence[int], order: int) -> list[int]:
    limits = list(cutoffs) or [0]
    if limits[0] != 0 or limits != sorted(limits) or len(limits) > order:
        raise InputError(
            f"cutoffs {list(cutoffs)}: at most {order} numbers, the first 0, none smaller than the one before"
        )
    return limits + [limits[-1]] * (order - len(limits))


def _count(ids: np.ndarray, position: np.ndarray, order: int, size: int) -> list[_Counts]:
    """Count the n-grams of every order. `row[i]` is always the row of the n-gram that ends at token i."""
    row = ids
    everything = np.arange(size)
    zeros = np.zeros(size, np.int64)
    counts = [_Counts(zeros, everything, zeros, np.bincount(ids, minlength=size), everything == START_ID)]
    for k in range(1, order):
        ends = np.flatnonzero(position >= k)
        keys, first, inverse, seen = np.unique(
            row[ends - 1] * size + ids[ends], return_index=True, return_inverse=True, return_counts=True
        )
        prefix, word = np.divmod(keys, size)
        counts.append(_Counts(prefix, word, row[ends][first], seen, counts[-1].opens[prefix]))
        row = np.full(len(ids), -1)
        row[ends] = inverse
    return counts


def _smooth(counts: list[_Counts], limits: list[int]) -> tuple[NgramTable, ...]:
    """Turn counts into tables: each order leans on the probabilities of the one below."""
    tables: list[NgramTable] = []
    below = np.zeros(0)  # probabilities of the order below, all its n-grams
    kept_below = np.ones(1, bool)  # which of them its table lists
    for k, these in enumerate(counts):
        adjusted = these.seen if k + 1 == len(counts) else _continuations(these, counts[k + 1])
        if k == 0:
            adjusted = np.where(these.word == START_ID, 0, adjusted)  # <s> is never predicted
        kept = these.seen > limits[k] if k else np.ones(len(these.word), bool)
        amount = np.array([0.0, *_discounts(adjusted, k + 1)])[np.minimum(adjusted, 3)]
        histories = len(counts[k - 1].word) if k else 1
        total = np.bincount(these.prefix, adjusted, histories)
        # What discounting and leaving out have taken goes to the back-off.
        left = np.bincount(these.prefix, np.where(kept, amount, adjusted), histories)
        backoff = np.divide(left, total, out=np.ones(histories), where=total > 0)
        # Every word but <s> can follow; with no n-gram below, all are equally likely.
        lower = below[these.suffix] if k else np.full(len(these.word), 1.0 / (len(these.word) - 1))
        probability = np.where(kept, adjusted - amount, 0.0) / total[these.prefix] + backoff[these.prefix] * lower
        if k == 0:
            probability[START_ID] = 0.0
        else:
            tables[-1] = _with_backoff(tables[-1], backoff[kept_below])
        tables.append(
            NgramTable(
                (np.cumsum(kept_below) - 1)[these.prefix[kept]],
                these.word[kept],
                _log10(probability[kept]),
                np.zeros(kept.sum()),
            )
        )
        below, kept_below = probability, kept
    return tuple(tables)


def _continuations(these: _Counts, longer: _Counts) -> np.ndarray:
    """(n,) how many different words stand before each n-gram; its count where it begins a sentence."""
    before = np.bincount(longer.suffix, minlength=len(these.word))
    return np.where(these.opens, these.seen, before)


def _discounts(adjusted: np.ndarray, order: int) -> tuple[float, float, float]:
    """Chen and Goodman's equation 26; the fallback where it has no sensible value."""
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if n[1] and n[2] and n[3]:
        y = n[1] / (n[1] + 2 * n[2])
        discounts = tuple(float(k - (k + 1) * y * n[k + 1] / n[k]) for k in (1, 2, 3))
        if all(0 < amount <= k for k, amount in enumerate(discounts, start=1)):
            return discounts[0], discounts[1], discounts[2]
    _log.info("%d-grams: counts of counts %s give no discounts, using %s", order, n[1:5], FALLBACK_DISCOUNTS)
    return FALLBACK_DISCOUNTS


def _with_backoff(table: NgramTable, backoff: np.ndarray) -> NgramTable:
    log10_backoff = _log10(backoff)
    log10_backoff[table.word == END_ID] = 0.0  # nothing follows; the weight is never used
    return NgramTable(table.prefix, table.word, table.log10_prob, log10_backoff)


def _log10(values: np.ndarray) -> np.ndarray:
    return np.log10(values, out=np.full(len(values), NEVER), where=values > 0)
