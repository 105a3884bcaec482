"""WER against speed and against size, with intervals and the Pareto front, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_compress.evaluation.summary import NA, Row, why_not_timed
from asr_compress.runtime.files import atomic_write

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Axis:
    """A cost to plot the word error rate against. `value` gives None for a row that has no place on it."""

    name: str
    title: str
    value: Callable[[Row], float | None]


def _rtf(row: Row) -> float | None:
    # A time that is not that of the stored weights must not look like one.
    return None if isinstance(row.speed, NA) or why_not_timed(row.first) else row.speed.rtf.median


AXES = (
    Axis("wer_rtf", "real-time factor (processing s / audio s)", _rtf),
    Axis("wer_bytes", "size on disk (MB)", lambda row: row.cost.file_bytes / 1e6),
)


@dataclass(frozen=True)
class Point:
    """Row `row` in the plane of a cost and the word error rate in per cent, with its interval (NaN where none)."""

    row: int
    name: str
    cost: float
    wer: float
    low: float
    high: float


def points(rows: Sequence[Row], axis: Axis) -> list[Point]:
    """The rows that have both numbers."""
    found = []
    for number, row in enumerate(rows):
        cost = axis.value(row)
        if cost is None or isinstance(row.accuracy, NA) or math.isnan(row.accuracy.wer.point):
            continue
        wer = row.accuracy.wer
        found.append(Point(number, row.name, cost, 100 * wer.point, 100 * wer.low, 100 * wer.high))
    return found


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both cost and word error rate, by rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.wer)):
        if not front or point.wer < front[-1].wer:
            front.append(point)
    return front


def draw(rows: Sequence[Row], folder: Path, note: str = "") -> list[Path]:
    """Write every plot that has points, in every format; the files written.

    Args:
        note: a line above the plot: test set and machine.
    """
    written = []
    for axis in AXES:
        shown = points(rows, axis)
        if not shown:
            continue
        figure = _figure(shown, axis, note)
        for form in FORMATS:
            path = folder / f"{axis.name}.{form}"
            with atomic_write(path) as temporary:
                # No date in the file: the same results give the same plot.
                figure.savefig(temporary, format=form, metadata={"Date": None} if form == "svg" else None, dpi=150)
            written.append(path)
    return written


def _figure(shown: Sequence[Point], axis: Axis, note: str) -> Any:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    mpl.rcParams["svg.hashsalt"] = "asr_compress"
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot = figure.add_subplot()
    front = pareto(shown)
    plot.plot([p.cost for p in front], [p.wer for p in front], color="0.7", zorder=1, label="Pareto front")
    for point in shown:
        ends = [[max(0.0, point.wer - point.low)], [max(0.0, point.high - point.wer)]]
        error = None if math.isnan(point.low) else ends
        plot.errorbar([point.cost], [point.wer], yerr=error, fmt="o", color=f"C{point.row % 10}", capsize=3)
    _name_points(plot, shown)
    plot.set_xscale("log")
    plot.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plot.xaxis.set_minor_locator(NullLocator())
    plot.set_xlabel(axis.title)
    plot.set_ylabel("word error rate (%), 95 % interval")
    plot.set_title(note, loc="left", fontsize=8, color="0.4")
    plot.grid(True, color="0.92")
    plot.set_axisbelow(True)
    plot.margins(x=0.2, y=0.15)
    return figure


def _name_points(plot: Any, shown: Sequence[Point]) -> None:
    """Names beside the points, on alternating sides where points are close."""
    for turn, point in enumerate(sorted(shown, key=lambda p: (p.cost, p.wer))):
        offset = (6, 6) if turn % 2 == 0 else (6, -12)
        place = {"xy": (point.cost, point.wer), "xytext": offset, "textcoords": "offset points"}
        plot.annotate(point.name, **place, fontsize=8, color=f"C{point.row % 10}")
