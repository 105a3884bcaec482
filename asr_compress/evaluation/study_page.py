"""A page of studies: what was asked, the command, strength against error in one table, and direct comparisons."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asr_compress.evaluation.bootstrap import Interval, difference
from asr_compress.evaluation.scoring import Scored
from asr_compress.evaluation.significance import verdict, within_margin
from asr_compress.evaluation.summary import NA, Row
from asr_compress.evaluation.table import bytes_text, markdown_table
from asr_compress.runtime.files import atomic_write


def study_table(rows: Sequence[Row], epochs: Mapping[str, int], margin: float | None) -> str:
    """Size and error of every variant beside the first row.

    Args:
        epochs: epochs of training behind a row, by name; rows that are not in it were not trained.
        margin: adds a column that says whether the row is surely within this relative rise (0.01 is 1 %).
    """
    titles = ["variant", "epochs x seeds", "on disk", "smaller", "WER % [95 %]", "S / D / I %"]
    titles += ["against fp32, % relative [95 %]", "verdict"]
    titles += [] if margin is None else [f"within {100 * margin:g} %"]
    return "\n".join(markdown_table(titles, [_cells(row, epochs, margin) for row in rows], left=1))


def _cells(row: Row, epochs: Mapping[str, int], margin: float | None) -> list[str]:
    trained = f"{epochs[row.name]} x {len(row.results)}" if row.name in epochs else "-"
    smaller = "n/a" if isinstance(row.size_ratio, NA) else f"{row.size_ratio:.2f} x"
    size = [row.name, trained, bytes_text(row.cost.file_bytes), smaller]
    if isinstance(row.accuracy, NA):
        return [*size, *["n/a"] * (4 if margin is None else 5)]
    wer, counts, against = row.accuracy.wer, row.accuracy.counts, row.accuracy.against
    words = max(1, counts.reference)
    shares = (counts.substitutions, counts.deletions, counts.insertions)
    split = " / ".join(f"{100 * share / words:.1f}" for share in shares)
    found = [*size, f"{100 * wer.point:.2f} [{100 * wer.low:.2f}, {100 * wer.high:.2f}]", split]
    if against is None or isinstance(against.relative, NA):
        return [*found, "-", "baseline" if against is None else against.verdict, *([] if margin is None else ["-"])]
    return [*found, _signed(against.relative), against.verdict, *_within(against.relative, margin)]


def smallest_within(rows: Sequence[Row], margin: float) -> str:
    """A sentence on the smallest file that is surely within the margin of the first row."""
    asked = f"within {100 * margin:g} % relative of {rows[0].name}"
    sure = []
    for row in rows[1:]:
        against = None if isinstance(row.accuracy, NA) else row.accuracy.against
        if against is not None and not isinstance(against.relative, NA):
            sure += [row] if within_margin(against.relative, margin).passed else []
    if not sure:
        return f"No variant is surely {asked}."
    best = min(sure, key=lambda row: row.cost.file_bytes)
    times = rows[0].cost.file_bytes / best.cost.file_bytes
    return f"The smallest file surely {asked}: {best.name}, {times:.2f} times smaller."


def contrast_table(scored: Scored, pairs: Sequence[tuple[str, str]], margin: float | None = None) -> str:
    """Paired differences of the first of each pair against the second, relative to the second.

    Pairs of which one was not measured are left out; without any the text is empty.
    """
    rows = []
    for name, other in pairs:
        ours, theirs = _errors(scored, name), _errors(scored, other)
        if not ours or not theirs:
            continue
        relative = difference(
            np.stack(ours, axis=1), np.stack(theirs, axis=1), scored.units.words, scored.draws, relative=True
        )
        if not math.isnan(relative.point):
            rows.append([name, other, _signed(relative), verdict(relative), *_within(relative, margin)])
    titles = ["variant", "against", "WER, % relative [95 %]", "verdict"]
    titles += [] if margin is None else [f"within {100 * margin:g} %"]
    return "\n".join(markdown_table(titles, rows, left=2)) if rows else ""


def _errors(scored: Scored, name: str) -> list[np.ndarray]:
    """Errors of each unit, an array a seed."""
    return [scored.errors[i] for i in scored.scores if scored.results.variants[i].label == name]


def _signed(interval: Interval) -> str:
    return f"{100 * interval.point:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _within(relative: Interval, margin: float | None) -> list[str]:
    """An interval that reaches beyond the margin shows nothing, unless all of it lies beyond."""
    if margin is None:
        return []
    if within_margin(relative, margin).passed:
        return ["yes"]
    return ["no" if relative.low > margin else "not shown"]


def write_page(path: Path, title: str, intro: Sequence[str], folders: Sequence[Path]) -> None:
    """Gather the `section.md` of studies, and their `plots/`, on one page; folders without a section are left out."""
    parts = [f"# {title}", *intro]
    for folder in folders:
        section = folder / "section.md"
        if not section.exists():
            continue
        parts.append(section.read_text().strip())
        for plot in sorted((folder / "plots").glob("*")):
            kept = path.parent / "plots" / plot.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plot, kept)
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
