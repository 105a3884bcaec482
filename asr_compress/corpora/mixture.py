"""Several n-gram models mixed into one, so that one ARPA file serves.

The mixture lists every n-gram that any part lists, with the weighted sum of the parts' probabilities (their
backed-off ones where they do not list it), and back-off weights that make each history sum to one. For an
n-gram that no part lists this is an approximation of the true mixture; SRILM's `ngram -mix-lm` makes the
same. Stolcke, "SRILM: an extensible language modeling toolkit", ICSLP 2002.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from asr_compress.corpora.ngram import (
    END_ID,
    NEVER,
    START_ID,
    UNKNOWN_ID,
    NgramModel,
    NgramTable,
    encode,
    find,
)
from asr_compress.runtime.errors import InputError


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """Mix models of one vocabulary and order.

    Args:
        weights: one a model, above 0, summing to 1.

    Raises:
        InputError: vocabularies or orders that differ; weights that are no distribution.
    """
    _check(models)
    if len(weights) != len(models) or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-6:
        raise InputError(f"mixture weights {list(weights)}: {len(models)} numbers above 0 that sum to 1 are needed")
    words = models[0].words
    size = len(words)
    tables: list[NgramTable] = []
    ngrams = np.zeros((1, 0), np.int64)  # (rows, k) words of every n-gram of the table below
    suffix_keys: list[np.ndarray] = []
    to_union = [np.zeros(1, np.int64) for _ in models]  # row in a model's table below -> row in the union's
    for k in range(models[0].order):
        keys_of = [to[m.tables[k].prefix] * size + m.tables[k].word for to, m in zip(to_union, models, strict=True)]
        keys = np.unique(np.concatenate(keys_of))
        prefix, word = np.divmod(keys, size)
        ngrams = np.column_stack([ngrams[prefix], word])
        parts = np.stack([10 ** _last_word(model, ngrams) for model in models])
        probability = np.asarray(weights) @ parts
        if k:
            suffix = _rows(suffix_keys, ngrams[:, 1:], size)
            below = 10 ** tables[-1].log10_prob[suffix]
            tables[-1] = _normalized(tables[-1], prefix, probability, below)
        log10_prob = np.log10(probability)
        if k == 0:
            log10_prob[START_ID] = NEVER
        tables.append(NgramTable(prefix, word, log10_prob, np.zeros(len(word))))
        suffix_keys.append(keys)
        to_union = [np.searchsorted(keys, of) for of in keys_of]
    return NgramModel(words, tuple(tables))


def fit_weights(
    models: Sequence[NgramModel], sentences: Iterable[Sequence[str]], rounds: int = 100
) -> tuple[float, ...]:
    """The weights that make the mixture of `models` predict a text best, by expectation maximization.

    Words outside the vocabulary have no part in it. No weight falls below 0.001.

    Raises:
        InputError: models that cannot be mixed; a text without words.
    """
    _check(models)
    ids, position = encode(sentences, models[0].ids)
    predicted = (position > 0) & (ids != UNKNOWN_ID)
    if not predicted.any():
        raise InputError("mixture: the text to fit the weights on has no known words")
    probabilities = np.stack([10 ** model.log10_probs(ids, position)[predicted] for model in models])
    weights = np.full(len(models), 1 / len(models))
    for _ in range(rounds):
        joint = weights[:, None] * probabilities
        weights = (joint / joint.sum(0)).mean(1)
    weights = np.maximum(weights, 0.001)
    return tuple(float(weight) for weight in weights / weights.sum())


def _check(models: Sequence[NgramModel]) -> None:
    if not models:
        raise InputError("mixture: no models")
    for model in models[1:]:
        if model.words != models[0].words or model.order != models[0].order:
            raise InputError("mixture: the models must be estimated with one vocabulary and one order")


def _last_word(model: NgramModel, ngrams: np.ndarray) -> np.ndarray:
    """(rows,) log10 probability of the last word of each row of (rows, k) after the others."""
    rows, k = ngrams.shape
    scores = model.log10_probs(ngrams.ravel(), np.tile(np.arange(k), rows))
    return scores[k - 1 :: k]


def _rows(keys: list[np.ndarray], ngrams: np.ndarray, size: int) -> np.ndarray:
    """(rows,) where each row of (rows, k) stands in the k-th of the tables with these keys."""
    row = np.zeros(len(ngrams), np.int64)
    for k in range(ngrams.shape[1]):
        row = find(keys[k], row * size + ngrams[:, k], row >= 0)
    return row


def _normalized(table: NgramTable, prefix: np.ndarray, probability: np.ndarray, below: np.ndarray) -> NgramTable:
    """`table` with the back-off weights that the longer n-grams leave it.

    `prefix`, `probability` and `below` are (longer n-grams,): the history's row in `table`, the probability,
    and that of the n-gram without its first word.
    """
    size = len(table.word)
    left = 1 - np.bincount(prefix, probability, size)
    left_below = 1 - np.bincount(prefix, below, size)
    # A history that lists (nearly) every word has nothing to back off to: both differences are rounding.
    usable = (left > 1e-9) & (left_below > 1e-9)
    log10_backoff = np.zeros(size)
    log10_backoff[usable] = np.log10(left[usable] / left_below[usable])
    log10_backoff[table.word == END_ID] = 0.0
    return NgramTable(table.prefix, table.word, table.log10_prob, log10_backoff)
