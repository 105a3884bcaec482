"""Cross-validation as one table: every fold trains its own models and tests what the others trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from asr_compress.evaluation.bootstrap import difference, draw, rate
from asr_compress.evaluation.results import load_results
from asr_compress.evaluation.scoring import Scored, score_results
from asr_compress.evaluation.significance import margin_verdict
from asr_compress.runtime.errors import InputError


def fold_table(folds: Mapping[str, Path], baseline: str, margin: float) -> str:
    """Markdown: error rates of all folds' test sets together and of each alone, by variant.

    Intervals resample speakers, and within them the takes that strings are made of (else utterances).

    Args:
        folds: results file of each fold, by name. All must have the same variants.
        baseline: the variant that others are compared with, by an absolute difference.
        margin: difference of error rates that matters (0.005 is half a point).

    Raises:
        InputError: see `load_results`; folds with other variants; a variant that was not recognized.
    """
    scored = {name: score_results(load_results([path])) for name, path in folds.items()}
    names = [variant.label for variant in next(iter(scored.values())).results.variants]
    errors = {variant: [_errors_of(fold, variant, name) for name, fold in scored.items()] for variant in names}
    words = np.concatenate([fold.units.words for fold in scored.values()])
    draws = draw([speaker for fold in scored.values() for speaker in fold.units.speakers])
    if baseline not in errors:
        raise InputError(f"baseline {baseline!r}: no such variant; there are {', '.join(names)}")
    against = np.concatenate(errors[baseline])
    head = ["variant", "all, WER % [95 %]", f"vs {baseline}, points", "verdict", *scored]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for variant, parts in errors.items():
        pooled = np.concatenate(parts)
        wer = rate(pooled, words, draws)
        cells = [variant, f"{100 * wer.point:.2f} [{100 * wer.low:.2f}, {100 * wer.high:.2f}]"]
        if variant == baseline:
            cells += ["", "baseline"]
        else:
            gap = difference(pooled, against, words, draws, relative=False)
            cells.append(f"{100 * gap.point:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]")
            cells.append(margin_verdict(gap, margin))
        each = zip(parts, scored.values(), strict=True)
        cells += [f"{100 * part.sum() / fold.units.words.sum():.1f}" for part, fold in each]
        lines.append(f"| {' | '.join(cells)} |")
    count = len(set(draws.owner))
    unit = next(iter(scored.values())).units.kind
    lines += ["", f"{words.sum():.0f} words; intervals: {count} speakers resampled, then {unit} within them; margin "]
    return "\n".join(lines) + f"{100 * margin:g} points."


def _errors_of(scored: Scored, variant: str, fold: str) -> np.ndarray:
    for index, result in enumerate(scored.results.variants):
        if result.label == variant and index in scored.errors:
            return scored.errors[index]
    raise InputError(f"fold {fold!r} has no texts of variant {variant!r}; evaluate the same variants in every fold")
