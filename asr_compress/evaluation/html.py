"""The report as one HTML page that needs nothing else: no network, no server, no library."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.errors import ErrorReport
from asr_compress.evaluation.plots import AXES, pareto, points
from asr_compress.evaluation.scoring import Scored
from asr_compress.evaluation.summary import NA, Row
from asr_compress.evaluation.table import HEADLINE, SECTIONS, Column, bytes_text, count_text
from asr_compress.evaluation.timing import Spread
from asr_compress.evaluation.wer import Counts

_LISTED = 60  # lines of each list of words
_UTTERANCES = 40_000  # utterances times variants; beyond, the page would be too large for a phone


def page(
    scored: Scored, rows: Sequence[Row], reports: dict[int, ErrorReport], title: str, about: str, footer: Sequence[str]
) -> str:
    """The page as text.

    Args:
        reports: errors by position of the variant in `scored.results.variants`.
        about: a line under the title.  footer: lines at the end: machines, notes, how numbers were made.
    """
    references = list(scored.results.references.values())
    position = {reference.id: i for i, reference in enumerate(references)}
    places = {id(variant): i for i, variant in enumerate(scored.results.variants)}
    truncated = len(references) * len(scored.scores) > _UTTERANCES
    most = max(200, _UTTERANCES // max(1, len(scored.scores)))
    shown = []
    for row in rows:
        recognized = [places[id(result)] for result in row.results if places[id(result)] in scored.scores]
        first = recognized[0] if recognized else None
        utterances = [] if first is None else _utterances(scored, first, position)[: most if truncated else None]
        shown.append(_row(row, None if first is None else reports[first], utterances))
    data = {
        "title": title,
        "about": about,
        "footer": list(footer),
        "truncated": truncated,
        "sections": [_section(section.title, section.columns) for section in (HEADLINE, *SECTIONS)],
        "plots": _plots(rows),
        "rows": shown,
        "references": [
            {"id": r.id, "speaker": r.speaker, "text": text, "words": len(text.split())}
            for r, text in zip(references, _normalized(scored), strict=True)
        ],
    }
    return _filled(title, data)


def _filled(title: str, data: dict[str, Any]) -> str:
    folder = files("asr_compress.evaluation") / "page"
    # A transcript must not be able to end the script element it is embedded in.
    encoded = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "%TITLE%": html.escape(title),
        "%STYLE%": (folder / "page.css").read_text(encoding="utf-8"),
        "%SCRIPT%": (folder / "page.js").read_text(encoding="utf-8"),
        "%DATA%": encoded,  # last, so that nothing in it is taken for a placeholder
    }
    text = (folder / "page.html").read_text(encoding="utf-8")
    for name, content in parts.items():
        text = text.replace(name, content, 1)
    return text


def _section(title: str, columns: Sequence[Column]) -> dict[str, Any]:
    return {"title": title, "columns": [{"key": column.key, "title": column.title} for column in columns]}


def _row(row: Row, errors: ErrorReport | None, utterances: list[dict[str, Any]]) -> dict[str, Any]:
    variant = row.first.variant
    decoder = variant["decoder"] + (f" with {variant['lm']}" if variant["lm"] else "")
    about = (
        f"{variant['bundle']} on {variant['backend']}, {variant['device']}, threads {variant['threads']}, "
        f"batch {variant['batch']}, decoder {decoder}"
    )
    return {
        "name": row.name,
        "about": about,
        "cells": {column.key: _cell(column, row) for section in SECTIONS for column in section.columns},
        "errors": None if errors is None else _errors(errors),
        "utterances": utterances,
        "layers": [
            [
                layer.name, layer.shape, ", ".join(layer.formats) or "-", count_text(layer.parameters),
                count_text(layer.nonzeros), bytes_text(layer.nbytes), count_text(layer.macs_per_s),
                count_text(layer.dense_macs_per_s),
            ]
            for layer in row.cost.layers
        ],
        "history": row.first.record.get("history", []),
    }  # fmt: skip


def _cell(column: Column, row: Row) -> dict[str, Any]:
    """What is shown, and what it is sorted by."""
    value = column.value(row)
    if isinstance(value, NA):
        return {"text": "n/a", "value": None, "why": value.reason}
    number: Any = value
    if isinstance(value, Interval):
        number = value.point
    elif isinstance(value, Spread):
        number = value.median
    if isinstance(number, float) and not math.isfinite(number):
        number = None
    return {"text": column.show(value), "value": number}


def _errors(errors: ErrorReport) -> dict[str, Any]:
    return {
        "confusions": errors.confusions[:_LISTED],
        "deletions": errors.deletions[:_LISTED],
        "insertions": errors.insertions[:_LISTED],
        "broken": [(b.word, b.broken, b.mended, b.reference) for b in errors.broken[:_LISTED]],
        "speakers": [_group(*group) for group in errors.speakers],
        "lengths": [_group(*group) for group in errors.lengths],
    }


def _group(name: str, counts: Counts) -> tuple[str, int, int, str]:
    return name, counts.reference, counts.errors, f"{100 * counts.rate:.1f}" if counts.reference else "-"


def _utterances(scored: Scored, variant: int, position: dict[str, int]) -> list[dict[str, Any]]:
    """Utterances, the worst first: index of the reference, hypothesis, alignment, errors, why it failed."""
    found = [
        {"r": position[u.id], "h": u.hypothesis, "o": u.operations, "e": u.words.errors, "f": u.failed}
        for u in scored.scores[variant].utterances
    ]
    return sorted(found, key=lambda utterance: (-utterance["e"], utterance["r"]))


def _normalized(scored: Scored) -> list[str]:
    """References as they were scored."""
    scores = next(iter(scored.scores.values()))
    return [utterance.reference for utterance in scores.utterances]


def _plots(rows: Sequence[Row]) -> list[dict[str, Any]]:
    plots = []
    for axis in AXES:
        shown = points(rows, axis)
        if shown:
            front = [shown.index(point) for point in pareto(shown)]
            values = [
                {
                    "row": p.row, "name": p.name, "cost": p.cost, "wer": p.wer,
                    "low": None if math.isnan(p.low) else p.low, "high": None if math.isnan(p.high) else p.high,
                }
                for p in shown
            ]  # fmt: skip
            plots.append({"title": axis.title, "points": values, "front": front})
    return plots
