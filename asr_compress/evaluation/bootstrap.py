"""Confidence intervals for error rates and for differences between systems, by resampling speakers.

Utterances of one speaker err together, so an interval that treats them as independent is too narrow. Here speakers are
drawn with replacement, then utterances (or takes) within each drawn speaker; Bisani & Ney 2004 ("Bootstrap estimates
for confidence intervals in ASR performance evaluation") is the one-stage form. Both systems of a comparison are
evaluated on the same draws: the paired bootstrap.

Every quantity here is a ratio of sums over units: errors / words (a rate), (errors - baseline errors) / words (a
difference), (errors - baseline errors) / baseline errors (a relative difference). One function serves all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from asr_compress.runtime.errors import InputError

RESAMPLES = 10_000
LEVEL = 0.95
_CELLS_AT_ONCE = 2_000_000  # resamples x units held in memory


@dataclass(frozen=True)
class Interval:
    """A point and its confidence interval; NaN ends where none can be had (a single unit, no reference words)."""

    point: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class Draws:
    """Resampled test sets, for all ratios of one test set alike.

    Attributes:
        counts: float32 (resamples, units), how often each unit was drawn.
        owner: int64 (units,), index of each unit's speaker.
        independent: how many independent things were drawn: speakers, or units where speakers are fixed.
        speakers_fixed: whether only units were drawn: asked for, or because there is one speaker.
    """

    counts: np.ndarray
    owner: np.ndarray
    independent: int
    speakers_fixed: bool

    def describe(self) -> str:
        """How the intervals were made, for the table."""
        if self.speakers_fixed:
            return "utterances resampled within the given speakers: says nothing about other speakers"
        return f"{self.independent} speakers resampled, then utterances within them"


def draw(
    speakers: Sequence[str],
    resamples: int = RESAMPLES,
    speakers_fixed: bool = False,
    seed: int = 0,
) -> Draws:
    """Draw test sets like this one.

    Args:
        speakers: (units,) whose each unit is. A unit is an utterance, or a take where strings are built from takes.
        speakers_fixed: resample only within speakers, for claims about just these speakers.

    Raises:
        InputError: no units.
    """
    if not len(speakers):
        raise InputError("bootstrap: the test set has no utterances to resample")
    names, owner = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    speakers_fixed = speakers_fixed or len(names) == 1
    chance = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(owner))
    counts = [
        _draw_some(owner, len(names), min(at_once, resamples - first), speakers_fixed, chance)
        for first in range(0, resamples, at_once)
    ]
    independent = len(owner) if speakers_fixed else len(names)
    return Draws(np.concatenate(counts), owner, independent, speakers_fixed)


def ratio_interval(numerator: ArrayLike, denominator: ArrayLike, draws: Draws, level: float = LEVEL) -> Interval:
    """Interval of sum(numerator) / sum(denominator).

    Plain two-stage resampling counts the variance within speakers twice, once in the speakers' own sums and once when
    their units are drawn, and its intervals come out up to sqrt(2) too wide. So the speakers' deviations are shrunk
    first until both stages together have the variance of the speakers' sums (Davison & Hinkley 1997, "Bootstrap Methods
    and their Application", section 3.8). `benchmarks/interval_coverage.py` checks what comes out by simulation.

    Args:
        numerator: (units,), or (units, seeds) of several trainings: the ratio is then the mean over seeds, and seeds
            are resampled too.
        denominator: (units,).
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if not bottom.sum() > 0:
        return Interval(float("nan"), float("nan"), float("nan"), level)
    mean = top if top.ndim == 1 else top.mean(axis=1)
    point = float(mean.sum() / bottom.sum())
    deviation = mean - point * bottom
    if not draws.speakers_fixed:
        deviation = _shrink_between(deviation, draws.owner)
    sums = draws.counts @ deviation.astype(np.float32)
    if top.ndim == 2 and top.shape[1] > 1:
        sums = sums + _seed_deviations(top - mean[:, None], draws.counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = point + sums / (draws.counts @ bottom.astype(np.float32))
    low, high = _expanded_percentiles(values.astype(np.float64), draws.independent, level)
    return Interval(point, low, high, level)


def rate(errors: ArrayLike, words: ArrayLike, draws: Draws, level: float = LEVEL) -> Interval:
    """Error rate with its interval. errors: (units,) or (units, seeds); words: (units,)."""
    interval = ratio_interval(errors, words, draws, level)
    return replace(interval, low=_at_least(0.0, interval.low))


def difference(
    errors: ArrayLike, baseline: ArrayLike, words: ArrayLike, draws: Draws, relative: bool, level: float = LEVEL
) -> Interval:
    """Paired difference to a baseline: of rates, or as a share of the baseline's rate.

    A relative difference to a baseline without errors is NaN.

    Args:
        errors, baseline: (units,) or (units, seeds). As many seeds on both sides are paired in order, so that a student
            is compared with the teacher of its own seed; else each seed is compared with the baseline's mean.
        words: (units,).
    """
    ours, theirs = _by_seed(errors), _by_seed(baseline)
    mean = theirs.mean(axis=1)
    other = theirs if ours.shape == theirs.shape else mean[:, None]
    interval = ratio_interval(ours - other, mean if relative else words, draws, level)
    return replace(interval, low=_at_least(-1.0, interval.low)) if relative else interval


def _at_least(least: float, value: float) -> float:
    """Shrinking can carry an end of an interval of very few errors beyond what is possible; NaN stays."""
    return value if math.isnan(value) else max(least, value)


def _by_seed(errors: ArrayLike) -> np.ndarray:
    counted = np.asarray(errors, dtype=np.float64)
    return counted[:, None] if counted.ndim == 1 else counted


def _shrink_between(deviation: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Shrink speakers' mean deviations so that two-stage resampling has the variance of the speakers' sums."""
    sizes = np.bincount(owner)
    sums = np.bincount(owner, weights=deviation)
    means = (sums / sizes)[owner]
    within = deviation - means
    between_variance, within_variance = (sums**2).sum(), (within**2).sum()
    share = 0.0 if within_variance >= between_variance else 1 - within_variance / between_variance
    return within + np.sqrt(share) * means


def _seed_deviations(deviations: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums of seeds' deviations from their mean, (resamples,), with as many seeds drawn as there are.

    deviations: (units, seeds). Scaled by sqrt(seeds / (seeds - 1)), without which few seeds would seem too alike.
    """
    seeds = deviations.shape[1]
    drawn = np.random.default_rng(seeds).multinomial(seeds, np.full(seeds, 1 / seeds), size=len(counts)) / seeds
    sums = counts @ deviations.astype(np.float32)
    return (drawn * sums).sum(axis=1) * np.sqrt(seeds / (seeds - 1))


def _expanded_percentiles(values: np.ndarray, independent: int, level: float) -> tuple[float, float]:
    """Percentiles further out than level says, as Student's t is wider than the normal, for few independent draws.

    A percentile bootstrap over n independent things is too narrow by sqrt((n - 1) / n) and by the normal in place of
    the t distribution (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.1). Five speakers
    are few all the same, and two say nothing about a third.
    """
    finite = values[np.isfinite(values)]
    if independent < 2 or not len(finite):
        return float("nan"), float("nan")
    reach = stdtrit(independent - 1, 0.5 + level / 2) * np.sqrt(independent / (independent - 1))
    tail = ndtr(-reach)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _draw_some(
    owner: np.ndarray, speakers: int, count: int, speakers_fixed: bool, chance: np.random.Generator
) -> np.ndarray:
    """How often each unit is drawn, float32 (count, units)."""
    by_speaker = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=speakers)
    starts = np.cumsum(sizes) - sizes
    if speakers_fixed:
        slots = np.tile(np.arange(speakers), count)
    else:
        slots = chance.integers(0, speakers, size=count * speakers)
    draws = sizes[slots]  # a drawn speaker gives as many units as they have
    place = chance.random(draws.sum()) * np.repeat(draws, draws)
    drawn = by_speaker[np.repeat(starts[slots], draws) + place.astype(np.int64)]
    resample = np.repeat(np.arange(count), draws.reshape(count, speakers).sum(axis=1))
    flat = np.bincount(resample * len(owner) + drawn, minlength=count * len(owner))
    return flat.reshape(count, len(owner)).astype(np.float32)
