"""The most probable label sequences of an utterance, and how probable each is."""

from __future__ import annotations

import math

import numpy as np

BLANK = 0
Labels = tuple[int, ...]


def nbest(log_probs: np.ndarray, count: int, beam: int = 16, tokens: int = 8) -> list[tuple[Labels, float]]:
    """Prefix beam search without a language model (Hannun et al. 2014, "First-pass large vocabulary ...").

    Args:
        log_probs: float32 `(frames, tokens)`.
        count: sequences to return, at most.
        beam: prefixes kept after each frame.
        tokens: tokens tried in each frame, the most probable.

    Returns:
        Label sequences with the logarithm of the probability of all their alignments that were kept, the best first.
    """
    # For each prefix the probability of its alignments that end in blank, and of those that do not.
    prefixes: dict[Labels, tuple[float, float]] = {(): (0.0, -math.inf)}
    tried = np.argsort(-log_probs, axis=1)[:, :tokens]
    for frame, candidates in zip(log_probs, tried.tolist(), strict=True):
        grown: dict[Labels, tuple[float, float]] = {}
        for prefix, (blank, label) in prefixes.items():
            total = _add(blank, label)
            _gain(grown, prefix, total + float(frame[BLANK]), -math.inf)
            for token in candidates:
                if token == BLANK:
                    continue
                probability = float(frame[token])
                if prefix and prefix[-1] == token:
                    _gain(grown, prefix, -math.inf, label + probability)
                    _gain(grown, (*prefix, token), -math.inf, blank + probability)
                else:
                    _gain(grown, (*prefix, token), -math.inf, total + probability)
        best = sorted(grown, key=lambda prefix: _add(*grown[prefix]), reverse=True)[:beam]
        prefixes = {prefix: grown[prefix] for prefix in best}
    ranked = sorted(((prefix, _add(*sums)) for prefix, sums in prefixes.items()), key=lambda item: -item[1])
    return ranked[:count]


def _gain(prefixes: dict[Labels, tuple[float, float]], prefix: Labels, blank: float, label: float) -> None:
    before = prefixes.get(prefix, (-math.inf, -math.inf))
    prefixes[prefix] = (_add(before[0], blank), _add(before[1], label))


def _add(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    if one < other:
        one, other = other, one
    return one if other == -math.inf else one + math.log1p(math.exp(other - one))
