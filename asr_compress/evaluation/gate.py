"""The quality gate: is a compressed model within a margin of its reference, and can this test set tell?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.significance import within_margin
from asr_compress.evaluation.summary import NA, Row
from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class Verdict:
    """One model at the gate.

    Attributes:
        passed: whether the difference to the baseline is surely within the margin.
        reason: the paired interval and what it says of the margin, or why there is none.
        difference: word error rate less the baseline's, relative to it or absolute as asked; None where not recognized.
    """

    name: str
    passed: bool
    reason: str
    difference: Interval | None

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.reason}"


@dataclass(frozen=True)
class GateResult:
    """The gate's verdicts. `exit_code` is 0 if every model passed, else 1."""

    baseline: str
    margin: float
    relative: bool
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    def to_json(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def gate(
    results: Sequence[str | Path],
    margin: float = 0.01,
    relative: bool = True,
    baseline: str | None = None,
    candidates: Sequence[str] | None = None,
    speakers_fixed: bool = False,
) -> GateResult:
    """Test models against a baseline with the paired interval of their difference.

    Args:
        results: files of `evaluate`.
        margin: largest increase of the word error rate that is let through: a share of the baseline's rate (0.01 is 1 %
            relative), or with `relative=False` a rate (0.005 is half a point), as small error rates need.
        baseline: the row to compare with; the first by default.
        candidates: rows to test; all others by default.
        speakers_fixed: see `compare`.

    Raises:
        InputError: a margin that is not positive, no row of a name, nothing to test; see `compare`.
    """
    if not 0 < margin < 1:
        raise InputError(f"margin is {margin}; it must lie between 0 and 1 (0.01 is 1 %)")
    rows = compare(results, baseline=baseline, speakers_fixed=speakers_fixed).rows
    chosen = baseline or next(row.name for row in rows if row.first.texts)
    names = [row.name for row in rows if row.name != chosen]
    wanted = names if candidates is None else list(candidates)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InputError(f"candidate {unknown[0]!r}: no such row beside the baseline; there are {', '.join(names)}")
    if not wanted:
        raise InputError(f"nothing to test: the results have no row beside the baseline {chosen!r}")
    verdicts = tuple(_verdict(row, margin, relative) for row in rows if row.name in wanted)
    return GateResult(chosen, margin, relative, verdicts)


def _verdict(row: Row, margin: float, relative: bool) -> Verdict:
    if isinstance(row.accuracy, NA):
        return Verdict(row.name, False, f"not recognized: {row.accuracy.reason}", None)
    against = row.accuracy.against
    assert against is not None
    difference = against.relative if relative else against.absolute
    if isinstance(difference, NA):
        return Verdict(row.name, False, f"{difference.reason}; use an absolute margin", None)
    tested = within_margin(difference, margin, "%" if relative else "points")
    return Verdict(row.name, tested.passed, tested.reason, difference)
