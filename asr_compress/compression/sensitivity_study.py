"""The sensitivity scan as a study: what hurts most, the heat maps, and how long the scan took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from asr_compress.compression.heat_map import heat_map
from asr_compress.compression.sensitivity import scan_bundle
from asr_compress.compression.study import Plan
from asr_compress.evaluation.table import markdown_table
from asr_compress.runtime.files import atomic_write

_SHOWN = 12  # of the probes that hurt most


def run_sensitivity(plan: Plan, command: str, say: Callable[[str], None] = print) -> Path:
    """Scan the base on the dev speakers and write `section.md` and `plots/` in the study's folder.

    Raises:
        InputError: see `scan_bundle`.
    """
    lines, spent_s = _timed_scan(plan, say)
    for figure in ("error", "kl"):
        heat_map(lines, plan.out / f"plots/sensitivity-{figure}.svg", figure)
    baseline, *rest = lines
    cores = torch.get_num_threads()
    parts = [
        "## Sensitivity",
        "Which parts bear which compression? Every map and layer alone, by each pass at several strengths, and every "
        "gate, by blocks at several, without training: greedy errors on "
        f"{baseline['audio_s'] / 60:.1f} minutes of dev speech, never the test speakers.",
        f"    {command}",
        f"{len(rest)} probes took {spent_s / 60:.1f} minutes on {cores} core{'s' * (cores > 1)}. "
        "Untouched: error "
        f"{100 * baseline['error']:.2f} %, blank rate {baseline['blank_rate']:.2f}. What hurts most:",
        _table(baseline, rest),
        "![rise of the error](plots/sensitivity-error.svg)",
        "![KL divergence](plots/sensitivity-kl.svg)",
    ]
    with atomic_write(plan.out / "section.md") as path:
        path.write_text("\n\n".join(parts) + "\n")
    return plan.out / "section.md"


def _timed_scan(plan: Plan, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], float]:
    """The scan's lines, and the seconds of all sessions that measured something."""
    record, results = plan.out / "time.json", plan.out / "scan.jsonl"
    spent_s = json.loads(record.read_text()) if record.exists() else 0.0
    before = results.stat().st_size if results.exists() else 0
    started = time.perf_counter()
    try:
        lines = scan_bundle(plan.base, [plan.dev], plan.out, plan.cache, say=say)
    finally:
        if results.exists() and results.stat().st_size > before:
            spent_s += time.perf_counter() - started
            with atomic_write(record) as path:
                path.write_text(json.dumps(spent_s))
    return lines, spent_s


def _table(baseline: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
    worst = sorted((line for line in lines if "skipped" not in line), key=lambda line: -line["kl"])
    rows = [
        [
            line["part"],
            line["strength"],
            f"{100 * (line['error'] - baseline['error']):+.2f}",
            *(f"{line[kind] - baseline[kind]:+d}" for kind in ("substitutions", "deletions", "insertions")),
            f"{line['blank_rate']:.2f}",
            f"{line['kl']:.4f}",
        ]
        for line in worst[:_SHOWN]
    ]
    titles = ["part", "what is done to it", "error, points", "S", "D", "I", "blank rate", "KL a frame"]
    return "\n".join(markdown_table(titles, rows, left=2))
