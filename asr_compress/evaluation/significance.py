"""Is one system better than another? The matched-pairs test and the verdict that tables print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr

from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.wer import HIT, INSERTION

Verdict = Literal["better", "worse", "no evidence", "within margin", "beyond margin"]
_GOOD_WORDS = 2  # as many words right in both systems end a segment


@dataclass(frozen=True)
class MatchedPairs:
    """Result of the matched-pairs sentence-segment word error test.

    Attributes:
        segments: stretches of speech in which a system erred.
        mean: errors of the second system less those of the first, a segment.
        z: the mean over its standard error.
        p: two-sided probability of a z as far from 0 were the systems equal; NaN with fewer than two segments.
    """

    segments: int
    mean: float
    z: float
    p: float


def mapsswe(first: Sequence[str], second: Sequence[str]) -> MatchedPairs:
    """MAPSSWE of two systems on the same utterances (Gillick & Cox 1989; NIST's sc_stats).

    Utterances fall into segments at every two words in a row that both systems got right, and the segments' differences
    in errors are taken as independent. That ignores speakers, so the paired bootstrap is what verdicts rest on; this
    test is here because the field reports it.

    Args:
        first, second: the systems' alignments of each utterance (`UtteranceScore.operations`), in one order.
    """
    differences = np.array(
        [b - a for pair in zip(first, second, strict=True) for a, b in segments(*pair)], dtype=np.float64
    )
    if len(differences) < 2:
        mean = float(differences.sum()) if len(differences) else 0.0
        return MatchedPairs(len(differences), mean, float("nan"), float("nan"))
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    z = mean / error if error else (0.0 if mean == 0 else math.copysign(math.inf, mean))
    return MatchedPairs(len(differences), mean, z, float(2 * ndtr(-abs(z))))


def segments(first: str, second: str) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of one utterance where at least one of them erred."""
    words_a, gaps_a = _by_position(first)
    words_b, gaps_b = _by_position(second)
    found: list[tuple[int, int]] = []
    a, b, good = gaps_a[0], gaps_b[0], 0
    for position in range(len(words_a)):
        wrong = (words_a[position], words_b[position])
        inserted = (gaps_a[position + 1], gaps_b[position + 1])
        if not any(wrong):
            good += 1
            if good == _GOOD_WORDS and (a or b):
                found.append((a, b))
                a = b = 0
        if any(wrong) or any(inserted):
            good = 0
        a += wrong[0] + inserted[0]
        b += wrong[1] + inserted[1]
    return [*found, (a, b)] if a or b else found


def verdict(difference: Interval) -> Verdict:
    """What the paired interval of (system - baseline) allows to say: fewer errors are better."""
    if difference.high < 0:
        return "better"
    if difference.low > 0:
        return "worse"
    return "no evidence"


@dataclass(frozen=True)
class MarginTest:
    """Whether a system is no worse than a baseline by more than a margin, and why."""

    passed: bool
    reason: str


def within_margin(difference: Interval, margin: float, unit: str = "%") -> MarginTest:
    """Non-inferiority by the paired interval: its upper end must not exceed the margin.

    An interval wider than the margin to both sides (high - low > 2 * margin) cannot tell a pass from luck; it is no
    evidence and does not pass, unless all of it lies below zero. NaN, where there is no interval, does not pass either.

    Args:
        difference, margin: both as rates (0.01 is 1 %).
        unit: how the reason states them: "%" for relative, "points" for absolute.
    """
    shown = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f} {unit}"
    limit = f"{100 * margin:g} {unit}"
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return MarginTest(False, "no interval can be had from this test set")
    if difference.high > margin:
        worse = difference.low > margin
        return MarginTest(False, f"difference is {shown}, {'beyond' if worse else 'not surely within'} {limit}")
    if difference.high >= 0 and difference.width > 2 * margin:
        return MarginTest(False, f"no evidence: difference is {shown}, wider than +-{limit}; use a larger test set")
    return MarginTest(True, f"difference is {shown}, within {limit}")


def margin_verdict(difference: Interval, margin: float) -> Verdict:
    """`within_margin` in a table's words; neither within nor surely beyond is no evidence."""
    if within_margin(difference, margin).passed:
        return "within margin"
    return "beyond margin" if difference.low > margin else "no evidence"


def _by_position(operations: str) -> tuple[list[int], list[int]]:
    """Errors at each reference word, and insertions before each and after the last (one more)."""
    words: list[int] = []
    gaps = [0]
    for operation in operations:
        if operation == INSERTION:
            gaps[-1] += 1
        else:
            words.append(int(operation != HIT))
            gaps.append(0)
    return words, gaps
