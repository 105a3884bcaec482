"""The table: its columns, stated once, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.significance import MatchedPairs
from asr_compress.evaluation.summary import NA, Accuracy, Comparison, Row, Speed
from asr_compress.evaluation.timing import Spread

Value = float | int | str | Interval | Spread | NA


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in CSV and JSON; the unit is in it.
        title: its heading for people.
        value: what a row has there.
        show: how a number is written for people; None for text.
    """

    key: str
    title: str
    value: Callable[[Row], Value]
    show: Callable[[Any], str] = str


@dataclass(frozen=True)
class Section:
    """Columns that stand together; a table of all of them would be too wide to read."""

    title: str
    columns: tuple[Column, ...]


def digits(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def bytes_text(count: float) -> str:
    """1234567 -> "1.23 MB" (powers of ten, as disks are sold)."""
    return _scaled(count, ("B", "kB", "MB", "GB"))


def count_text(count: float) -> str:
    """1234567 -> "1.23 M"."""
    return _scaled(count, ("", "k", "M", "G", "T")).rstrip()


def _scaled(value: float, units: Sequence[str]) -> str:
    step = 0
    while abs(value) >= 999.5 and step + 1 < len(units):
        value, step = value / 1000, step + 1
    digits = f"{value:.0f}" if step == 0 else f"{value:.3g}"
    return f"{digits} {units[step]}"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.point:.2f} [{_end(interval.low)}, {_end(interval.high)}]"


def _signed(interval: Interval) -> str:
    ends = f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
    return f"{100 * interval.point:+.2f} {ends if not math.isnan(interval.low) else '[no interval]'}"


def _end(value: float) -> str:
    return "?" if math.isnan(value) else f"{100 * value:.2f}"


def spread_text(spread: Spread) -> str:
    """Median, and in brackets the smallest and the largest."""
    # No-break hyphen: a terminal that must break a cell shall do it before the bracket.
    return f"{digits(spread.median)} ({digits(spread.minimum)}\u2011{digits(spread.maximum)})"


def _milliseconds(seconds: float) -> str:
    return digits(1000 * seconds)


def _factor(value: float) -> str:
    return f"{digits(value)}x"


def _accuracy(value: Callable[[Accuracy], Value]) -> Callable[[Row], Value]:
    return lambda row: row.accuracy if isinstance(row.accuracy, NA) else value(row.accuracy)


def _speed(value: Callable[[Speed], Value]) -> Callable[[Row], Value]:
    return lambda row: row.speed if isinstance(row.speed, NA) else value(row.speed)


def _against(value: Callable[[Comparison], Value]) -> Callable[[Row], Value]:
    return _accuracy(lambda a: NA("this is the baseline") if a.against is None else value(a.against))


def _matched_pairs(comparison: Comparison) -> Value:
    test = comparison.mapsswe
    if isinstance(test, MatchedPairs):
        return NA("the systems differ in no two segments") if math.isnan(test.p) else test.p
    return test


def _difference(comparison: Comparison) -> str:
    if comparison.in_points or isinstance(comparison.relative, NA):
        return f"{_signed(comparison.absolute)} points"
    return f"{_signed(comparison.relative)} % rel."


def _split(accuracy: Accuracy) -> str:
    words = accuracy.counts
    if not words.reference:
        return "-"
    shares = (words.substitutions, words.deletions, words.insertions)
    return " / ".join(f"{100 * share / words.reference:.1f}" for share in shares)


def _stages(speed: Speed) -> str:
    return " / ".join(f"{part:.2g}" for part in astuple(speed.stages))


def _rate(value: float) -> str:
    return "?" if math.isnan(value) else f"{100 * value:.2f}"


ACCURACY = Section(
    "Accuracy",
    (
        Column("wer", "WER % [95 %]", _accuracy(lambda a: a.wer), _percent),
        Column("sdi", "S / D / I %", _accuracy(_split)),
        Column("cer", "CER %", _accuracy(lambda a: a.cer), _rate),
        Column("difference", "WER vs baseline", _against(_difference)),
        Column("verdict", "verdict", _accuracy(lambda a: a.against.verdict if a.against else "baseline")),
    ),
)
SPEED = Section(
    "Speed",
    (
        Column("rtf", "RTF (min-max)", _speed(lambda s: s.rtf), spread_text),
        Column("rtfx", "RTFx (min-max)", _speed(lambda s: s.rtfx), spread_text),
        Column("stages", "RTF of features / model / decoding", _speed(_stages)),
        Column("p50_s", "p50 ms", _speed(lambda s: s.latency_s[50]), _milliseconds),
        Column("p90_s", "p90 ms", _speed(lambda s: s.latency_s[90]), _milliseconds),
        Column("p99_s", "p99 ms", _speed(lambda s: s.latency_s[99]), _milliseconds),
        Column("speed_ratio", "faster", lambda row: row.speed_ratio, _factor),
        Column("gpu_rtfx", "GPU RTFx", lambda row: row.gpu_rtfx, lambda x: f"{x:.0f}"),
    ),
)
SIZE = Section(
    "Size and work",
    (
        Column("parameters", "parameters", lambda row: row.cost.parameters, count_text),
        Column("nonzero_parameters", "non-zero", lambda row: row.cost.nonzeros, count_text),
        Column("macs_per_s", "MACs / s", lambda row: row.cost.macs_per_s, count_text),
        Column("file_bytes", "on disk", lambda row: row.cost.file_bytes, bytes_text),
        Column("size_ratio", "smaller", lambda row: row.size_ratio, _factor),
        Column("peak_bytes", "peak memory", lambda row: row.peak_bytes, bytes_text),
        Column("load_s", "load s", lambda row: row.load_s, lambda x: f"{x:.2f}"),
        Column("energy_mj_per_s", "energy mJ / s", lambda row: row.cost.energy_mj_per_s, lambda x: f"{x:.2g}"),
    ),
)
SECTIONS = (ACCURACY, SPEED, SIZE)


# Columns whose parts programs get one by one.
_PUT_TOGETHER = ("sdi", "stages", "difference")


def _named(*keys: str) -> tuple[Column, ...]:
    columns = {column.key: column for section in SECTIONS for column in section.columns}
    return tuple(columns[key] for key in keys)


HEADLINE = Section("The table", _named("wer", "verdict", "rtfx", "speed_ratio", "file_bytes", "size_ratio"))
# Columns for programs only: what a row is, and what else is known of it.
_IDENTITY = (
    Column("backend", "", lambda row: row.first.variant["backend"]),
    Column("device", "", lambda row: row.first.variant["device"]),
    Column("threads", "", lambda row: row.first.variant["threads"]),
    Column("batch", "", lambda row: row.first.variant["batch"]),
    Column("decoder", "", lambda row: row.first.variant["decoder"]),
    Column("lm", "", lambda row: row.first.variant["lm"] or ""),
    Column("machine", "", lambda row: row.first.run.machine),
    Column("seeds", "", lambda row: len(row.results)),
)
_DETAILS = (
    Column("features_rtf", "", _speed(lambda s: s.stages.features_s)),
    Column("model_rtf", "", _speed(lambda s: s.stages.model_s)),
    Column("decode_rtf", "", _speed(lambda s: s.stages.decode_s)),
    Column("words", "", _accuracy(lambda a: a.counts.reference)),
    Column("substitutions", "", _accuracy(lambda a: a.counts.substitutions)),
    Column("deletions", "", _accuracy(lambda a: a.counts.deletions)),
    Column("insertions", "", _accuracy(lambda a: a.counts.insertions)),
    Column("failed", "", _accuracy(lambda a: a.failed)),
    Column("unsteady", "", _accuracy(lambda a: a.unsteady)),
    Column("relative_difference", "", _against(lambda c: c.relative)),
    Column("absolute_difference", "", _against(lambda c: c.absolute)),
    Column("mapsswe_p", "", _against(_matched_pairs)),
    Column("dense_macs_per_s", "", lambda row: row.cost.dense_macs_per_s),
)


class Footnotes:
    """Reasons behind the n/a cells, numbered in order of appearance."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def cell(self, column: Column, row: Row) -> str:
        """The text of a cell; an n/a with the number of its reason."""
        value = column.value(row)
        if not isinstance(value, NA):
            return column.show(value)
        if value.reason not in self.reasons:
            self.reasons.append(value.reason)
        return f"n/a ({self.reasons.index(value.reason) + 1})"

    def lines(self) -> list[str]:
        return [f"({number}) {reason}" for number, reason in enumerate(self.reasons, start=1)]


def terminal(rows: Sequence[Row], sections: Sequence[Section] = SECTIONS) -> list[Table | Text]:
    """The table for a terminal, in sections that fit about 120 columns, and the reasons of the n/a."""
    notes = Footnotes()
    shown: list[Table | Text] = []
    for section in sections:
        table = Table(title=section.title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
        table.add_column("variant", overflow="fold", min_width=8)
        for column in section.columns:
            table.add_column(column.title, justify="right", overflow="fold")
        for row in rows:
            table.add_row(row.name, *(notes.cell(column, row) for column in section.columns))
        shown += [table, Text()]
    return [*shown, *(Text(line) for line in notes.lines())]


def markdown(rows: Sequence[Row], sections: Sequence[Section] = (HEADLINE, *SECTIONS)) -> str:
    """The table in Markdown, with the reasons of the n/a."""
    notes = Footnotes()
    parts = []
    for section in sections:
        titles = ["variant", *(column.title for column in section.columns)]
        cells = [[row.name, *(notes.cell(column, row) for column in section.columns)] for row in rows]
        parts.append("\n".join([f"### {section.title}", "", *markdown_table(titles, cells, left=1)]))
    if notes.reasons:
        parts.append("\n".join(f"{line}  " for line in ["n/a:", *notes.lines()]))
    return "\n\n".join(parts) + "\n"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """Lines of a Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    return [_line(titles), _line(rule), *map(_line, rows)]


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table for programs: one dict a row. Intervals and spreads are taken apart; an n/a is None, its reason under
    `why`."""
    found = []
    for row in rows:
        cells: dict[str, Any] = {"name": row.name}
        why: dict[str, str] = {}
        for column in _all_columns():
            value = column.value(row)
            if isinstance(value, NA):
                why[column.key] = value.reason
                cells[column.key] = None
            else:
                cells.update(_taken_apart(column.key, value))
        found.append({**cells, "why": why})
    return found


def csv_text(rows: Sequence[Row]) -> str:
    """The table as CSV; reasons of the n/a in the column `why`."""
    table = plain(rows)
    names = list(dict.fromkeys(name for cells in table for name in cells if name != "why"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "why"])
    for cells in table:
        why = "; ".join(f"{key}: {reason}" for key, reason in cells["why"].items())
        values = ("n/a" if name in cells["why"] else cells.get(name) for name in names)
        writer.writerow([*("" if value is None else value for value in values), why])
    return text.getvalue()


def _all_columns() -> Iterable[Column]:
    yield from _IDENTITY
    for section in SECTIONS:
        yield from (column for column in section.columns if column.key not in _PUT_TOGETHER)
    yield from _DETAILS


def _taken_apart(key: str, value: Value) -> dict[str, Any]:
    if isinstance(value, Interval):
        return {key: _number(value.point), f"{key}_low": _number(value.low), f"{key}_high": _number(value.high)}
    if isinstance(value, Spread):
        return {key: value.median, f"{key}_min": value.minimum, f"{key}_max": value.maximum}
    return {key: _number(value)}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
