"""Tables of `benchmark`: throughput by batch size, and streaming by length of the chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_compress.evaluation.records import read_lines
from asr_compress.evaluation.table import digits, markdown_table, spread_text
from asr_compress.evaluation.timing import Spread, percentiles

Cells = dict[str, str]
Line = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkTable:
    """One table: cells by title, and lines about what is not in it."""

    title: str
    rows: tuple[Cells, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """The table in Markdown."""
        titles = list(self.rows[0])
        lines = markdown_table(titles, [[row[title] for title in titles] for row in self.rows], left=1)
        return "\n".join([f"### {self.title}", "", *lines, "", *(f"{note}  " for note in self.notes)]) + "\n"

    def show(self, console: Console | None = None) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
        for i, title in enumerate(self.rows[0]):
            table.add_column(title, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row.values())
        (console or Console()).print(table, *map(Text, self.notes), sep="\n")


def benchmark_tables(paths: Sequence[str | Path]) -> list[BenchmarkTable]:
    """The tables of all benchmark runs in results files; none where there are no such runs.

    Raises:
        InputError: not results files.
    """
    lines = [line for path in paths for line in read_lines(path)]
    modes = {line["run"]: line for line in lines if line["kind"] == "run"}
    tables = []
    for mode, kind, rows in (("throughput", "throughput", _throughput), ("streaming", "stream", _streaming)):
        for run, opening in modes.items():
            found = [line for line in lines if line["run"] == run and line["kind"] == kind]
            if opening["mode"] == mode and found:
                variants = [line for line in lines if line["run"] == run and line["kind"] == "variant"]
                made, notes = rows(found)
                tables.append(BenchmarkTable(_title(mode, opening), tuple(made), (*notes, *_missing(variants))))
    return tables


def _title(mode: str, opening: Line) -> str:
    test_set, environment = opening["test_set"], opening["environment"]
    gpu = f", {environment['gpu']['name']}" if environment.get("gpu") else ""
    return (
        f"{mode.capitalize()}: {test_set['utterances']} utterances of {test_set['name']}, {test_set['audio_s']:.0f} s, "
        f"on {environment['cpu']}{gpu}"
    )


def _missing(variants: Iterable[Line]) -> list[str]:
    return [f"{line['key']}: n/a, {line['unavailable']}" for line in variants if line.get("unavailable")]


def _throughput(lines: list[Line]) -> tuple[list[Cells], list[str]]:
    cases = dict.fromkeys((line["variant"], line["batch"], line["order"]) for line in lines)
    rows, notes = [], []
    for case in cases:
        mine = [line for line in lines if (line["variant"], line["batch"], line["order"]) == case]
        failed = next((line["failed"] for line in mine if "failed" in line), None)
        done = [line for line in mine if "failed" not in line]
        if not done:
            notes.append(f"{case[0]}, batch {case[1]}, {case[2]}: n/a, {failed}")
            continue
        stages = ("features_s", "model_s", "decode_s")
        shares = [np.median([line[stage] / line["audio_s"] for line in done]) for stage in stages]
        rows.append(
            {
                "variant": case[0],
                "batch": str(case[1]),
                "order": case[2],
                "RTFx (min-max)": spread_text(Spread.of([line["audio_s"] / line["seconds"] for line in done])),
                "RTFx of the model": spread_text(Spread.of([line["audio_s"] / line["model_s"] for line in done])),
                "RTF of features / model / decoding": " / ".join(f"{share:.2g}" for share in shares),
                "padding %": f"{100 * done[0]['padding']:.1f}",
            }
        )
    return rows, notes


def _streaming(lines: list[Line]) -> tuple[list[Cells], list[str]]:
    cases = dict.fromkeys((line["variant"], line["chunk_s"], line["look_ahead_s"]) for line in lines)
    rows = []
    for case in cases:
        mine = [line for line in lines if (line["variant"], line["chunk_s"], line["look_ahead_s"]) == case]
        chunks = percentiles([seconds for line in mine for seconds in line["chunks_s"]])
        final = percentiles([line["finish_s"] for line in mine])
        same = sum(line["same_as_whole"] for line in mine)
        ahead = "0" if case[2] is None else f"{1000 * case[2]:.0f}"
        rows.append(
            {
                "variant": case[0],
                "chunk ms": f"{1000 * case[1]:.0f}",
                "look-ahead ms": ahead,
                "chunk p50 / p90 / p99 ms": " / ".join(_milliseconds(chunks.get(p)) for p in (50, 90, 99)),
                "final text after p50 / p90 ms": " / ".join(_milliseconds(final.get(p)) for p in (50, 90)),
                "RTF": f"{sum(line['seconds'] for line in mine) / sum(line['audio_s'] for line in mine):.3g}",
                "model waits ms": f"{1000 * max(line['wait_s'] for line in mine):.0f}",
                "same text as whole": f"{same} of {len(mine)}",
            }
        )
    return rows, ["A chunk's time includes its partial text. p99 of chunks is n/a (-) below 1000 of them."]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else digits(1000 * seconds)
