"""From scored results to the rows of the table: every number that a table shows, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_compress.evaluation import bootstrap
from asr_compress.evaluation.backends import BACKENDS
from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.cost import Cost
from asr_compress.evaluation.recognition import SCOPES, Scope, in_scope
from asr_compress.evaluation.results import VariantResult
from asr_compress.evaluation.scoring import Scored
from asr_compress.evaluation.significance import MatchedPairs, Verdict, mapsswe, margin_verdict, verdict
from asr_compress.evaluation.timing import ENOUGH_FOR_P99, PERCENTILES, Spread, percentiles
from asr_compress.evaluation.wer import Counts
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.transcript import Timings

# A larger share of zero weights in a dense format is a mask; int8 rounding leaves a few per cent.
_MASKED = 0.1


@dataclass(frozen=True)
class NA:
    """No number, and why."""

    reason: str

    def __str__(self) -> str:
        return "n/a"


@dataclass(frozen=True)
class Comparison:
    """A row beside the baseline: paired on the same utterances.

    Attributes:
        relative, absolute: differences of word error rates with their paired intervals; below zero is better.
        in_points: whether the absolute difference is what counts: a margin was asked for, or the baseline makes no
            errors.
        verdict: by the difference that counts, and by the margin where one was asked for.
        mapsswe: NIST's test, without regard to speakers.
    """

    relative: Interval | NA
    absolute: Interval
    in_points: bool
    verdict: Verdict
    mapsswe: MatchedPairs | NA


@dataclass(frozen=True)
class Accuracy:
    """What a variant gets wrong. Counts and rates are means over seeds where there are several.

    Attributes:
        wer: with its interval; NaN where the references have no words.
        counts: words; sums over seeds.
        cer: character error rate.
        failed: utterances without text, counted as deletions.
        unsteady: utterances that a later round recognized as something else.
        against: None for the baseline itself.
    """

    wer: Interval
    counts: Counts
    cer: float
    failed: int
    unsteady: int
    against: Comparison | None


@dataclass(frozen=True)
class Speed:
    """How long it takes. Real-time factors are processing seconds a second of audio, over whole rounds.

    Attributes:
        rtf, rtfx: of the scope asked for, median, smallest and largest of the rounds.
        stages: median real-time factor of features, model and decoding.
        latency_s: percentile -> seconds from a whole utterance to its text.
    """

    rtf: Spread
    rtfx: Spread
    stages: Timings
    latency_s: dict[int, float | NA]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        results: what it was made of, one a seed.
        size_ratio, speed_ratio: times smaller and faster than the baseline.
        gpu_rtfx: speed of the same bundle on a GPU.
    """

    name: str
    results: tuple[VariantResult, ...]
    accuracy: Accuracy | NA
    speed: Speed | NA
    cost: Cost
    peak_bytes: float | NA
    load_s: float | NA
    size_ratio: float | NA
    speed_ratio: float | NA
    gpu_rtfx: float | NA

    @property
    def first(self) -> VariantResult:
        return self.results[0]


def summarize(
    scored: Scored, scope: Scope = "e2e", baseline: str | None = None, margin: float | None = None
) -> list[Row]:
    """The rows of the table, in the order of the results.

    Args:
        scope: what the real-time factor covers.
        baseline: name of the row that others are compared with; the first one that was recognized by default.
        margin: absolute difference of word error rates that matters (0.005 is half a point). Without one, verdicts
            are about differences from zero.

    Raises:
        InputError: no row of that name, an unknown scope, or a baseline that was not recognized.
    """
    if scope not in SCOPES:
        raise InputError(f"scope is {scope!r}; choose one of {', '.join(SCOPES)}")
    groups: dict[str, list[int]] = {}
    for i, variant in enumerate(scored.results.variants):
        groups.setdefault(variant.label, []).append(i)
    if baseline is None:
        baseline = next(name for name, members in groups.items() if any(i in scored.scores for i in members))
    if baseline not in groups:
        raise InputError(f"baseline {baseline!r}: no such row; there are {', '.join(map(repr, groups))}")
    reference = [i for i in groups[baseline] if i in scored.scores]
    if not reference:
        raise InputError(f"baseline {baseline!r} was not recognized: {_reason(scored, groups[baseline])}")
    return [_row(scored, name, members, reference, scope, margin) for name, members in groups.items()]


def _row(scored: Scored, name: str, members: list[int], baseline: list[int], scope: Scope, margin: float | None) -> Row:
    variants = [scored.results.variants[i] for i in members]
    recognized = [i for i in members if i in scored.scores]
    base = scored.results.variants[baseline[0]]
    cost = variants[0].cost
    missing = NA(_reason(scored, members))
    speed = _speed([scored.results.variants[i] for i in recognized], scored, scope) if recognized else missing
    base_speed = _speed([scored.results.variants[i] for i in baseline], scored, scope)
    return Row(
        name=name,
        results=tuple(variants),
        accuracy=_accuracy(scored, recognized, baseline, margin) if recognized else missing,
        speed=speed,
        cost=cost,
        peak_bytes=_footprint(variants[0], "peak_bytes"),
        load_s=_footprint(variants[0], "load_s"),
        size_ratio=base.cost.file_bytes / cost.file_bytes,
        speed_ratio=_speed_ratio(variants[0], speed, base, base_speed),
        gpu_rtfx=_gpu(scored, variants[0], scope),
    )


def _accuracy(scored: Scored, members: list[int], baseline: list[int], margin: float | None) -> Accuracy:
    words, draws = scored.units.words, scored.draws
    errors = np.stack([scored.errors[i] for i in members], axis=1)
    scores = [scored.scores[i] for i in members]
    against = None
    if members != baseline:
        theirs = np.stack([scored.errors[i] for i in baseline], axis=1)
        share = bootstrap.difference(errors, theirs, words, draws, relative=True)
        relative = NA("the baseline makes no errors") if math.isnan(share.point) else share
        absolute = bootstrap.difference(errors, theirs, words, draws, relative=False)
        found = (
            margin_verdict(absolute, margin) if margin else verdict(absolute if isinstance(relative, NA) else relative)
        )
        in_points = margin is not None or isinstance(relative, NA)
        against = Comparison(relative, absolute, in_points, found, _matched_pairs(scored, members, baseline))
    characters = sum((corpus.characters for corpus in scores), Counts())
    return Accuracy(
        wer=bootstrap.rate(errors, words, draws),
        counts=sum((corpus.words for corpus in scores), Counts()),
        cer=characters.rate,
        failed=max(corpus.failed for corpus in scores),
        unsteady=max(scored.results.variants[i].unsteady for i in members),
        against=against,
    )


def _matched_pairs(scored: Scored, members: list[int], baseline: list[int]) -> MatchedPairs | NA:
    if len(members) > 1 or len(baseline) > 1:
        return NA("the test compares two systems, not sets of seeds")
    first, second = ([u.operations for u in scored.scores[i].utterances] for i in (baseline[0], members[0]))
    return mapsswe(first, second)


def _speed(variants: Sequence[VariantResult], scored: Scored, scope: Scope) -> Speed | NA:
    durations = {id: reference.duration_s for id, reference in scored.results.references.items()}
    rtfs: list[float] = []
    stages: list[np.ndarray] = []
    for times in (times for variant in variants for times in variant.rounds if times):
        audio_s = sum(durations[id] for id in times)
        parts = np.array([(t.features_s, t.model_s, t.decode_s) for t in times.values()]).sum(axis=0) / audio_s
        stages.append(parts)
        rtfs.append(in_scope(Timings(*parts.tolist()), scope))
    if not rtfs or min(rtfs) <= 0:
        return NA("no utterance was recognized")
    rtf = Spread.of(rtfs)
    return Speed(rtf, rtf.inverse(), Timings(*np.median(stages, axis=0).tolist()), _latency(variants, scope))


def _latency(variants: Sequence[VariantResult], scope: Scope) -> dict[int, float | NA]:
    batch = variants[0].variant["batch"]
    if batch != 1:
        return dict.fromkeys(PERCENTILES, NA(f"utterances were recognized {batch} at a time"))
    seconds = [
        float(np.median([in_scope(times[id], scope) for times in variant.rounds if id in times]))
        for variant in variants
        for id in variant.rounds[0]
    ]
    found = percentiles(seconds)
    few = NA(f"p99 needs {ENOUGH_FOR_P99} utterances, there are {len(seconds)}")
    return {p: found.get(p, few) for p in PERCENTILES}


def _footprint(variant: VariantResult, name: str) -> float | NA:
    footprint = variant.record.get("footprint")
    if footprint is None:
        return NA(variant.unavailable or "not measured in this run")
    return NA(footprint["unavailable"]) if "unavailable" in footprint else float(footprint[name])


def _speed_ratio(variant: VariantResult, speed: Speed | NA, base: VariantResult, base_speed: Speed | NA) -> float | NA:
    """Times faster than the baseline, where the time is that of what is stored."""
    if isinstance(speed, NA) or isinstance(base_speed, NA):
        return speed if isinstance(speed, NA) else NA("the baseline has no time")
    if variant.run.id != base.run.id:
        return NA("timed in another run than the baseline: a ratio needs variants timed in turns")
    if not_as_stored := why_not_timed(variant):
        return NA(not_as_stored)
    return base_speed.rtf.median / speed.rtf.median


def why_not_timed(variant: VariantResult) -> str | None:
    """Why the time of a variant says nothing about the weights it stores, or None."""
    cost, name = variant.cost, variant.variant["backend"]
    backend = BACKENDS[name]
    if not backend.timed:
        return f"the {name} engine defines the numbers and is not meant to be fast"
    masked = cost.masked
    if masked > _MASKED:
        return f"{100 * masked:.0f} % of the weights are masked, and masked weights run as dense ones"
    kinds = {kind for layer in cost.layers for kind in layer.formats}
    if not backend.runs_as_stored(kinds):
        others = sorted(kinds - (backend.runs or set()))
        return f"{name} has no kernel for {', '.join(others)} and runs it as dense float32"
    return None


def _gpu(scored: Scored, variant: VariantResult, scope: Scope) -> float | NA:
    """The best speed of the same file on a GPU."""
    if not any(str(other.variant["device"]).startswith("cuda") for other in scored.results.variants):
        return NA("no GPU was used in these runs")
    found = []
    for other in scored.results.variants:
        on_gpu = str(other.variant["device"]).startswith("cuda")
        if on_gpu and other.rounds and other.record["sha256"] == variant.record["sha256"]:
            if reason := why_not_timed(other):
                return NA(f"on a GPU {reason}")
            speed = _speed([other], scored, scope)
            if isinstance(speed, Speed):
                found.append(speed.rtfx.median)
    return max(found) if found else NA("this bundle was not run on a GPU")


def _reason(scored: Scored, members: list[int]) -> str:
    return next((reason for i in members if (reason := scored.results.variants[i].unavailable)), "not recognized")
