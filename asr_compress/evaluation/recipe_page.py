"""A recipe's RESULTS.md: what was measured, by which command, and how the models came about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from asr_compress.runtime.files import atomic_write


def write_results(
    path: Path,
    title: str,
    command: str,
    reports: Mapping[str, Path],
    curves: Mapping[str, Path],
    preface: str = "",
) -> None:
    """Gather reports of `compare` and the learning curves of training runs on one page.

    Args:
        path: the page; plots are copied to `plots/` beside it.
        command: what makes all of it again.
        reports: folder of each report, by the name of its test set.
        curves: `log.jsonl` of each training run, by name.
        preface: Markdown that stands above the tables.

    Raises:
        OSError: a report or log that is not there, or a folder that cannot be written.
    """
    parts = [f"# {title}", f"Made by `{command}`.", *([preface.strip()] if preface else [])]
    for name, folder in reports.items():
        text = (folder / "report.md").read_text()
        for plot in sorted(folder.glob("*.svg")):
            kept = path.parent / "plots" / f"{name}-{plot.name}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plot, kept)
            text = text.replace(f"({plot.name})", f"(plots/{kept.name})")
        parts.append(text.strip())
    for name, log in curves.items():
        parts.append(f"## Learning curve: {name}\n\n{_curve(log)}")
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def _curve(log: Path) -> str:
    """Dev results by epoch as a Markdown table; of an epoch that was repeated after an interruption, the last."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    by_epoch = {line["epoch"]: line for line in lines if line["kind"] == "dev"}
    rows = [
        f"| {epoch} | {line['step']} | {100 * line['error']:.1f} | {line['loss']:.3f} | {line['blank_rate']:.2f} |"
        for epoch, line in sorted(by_epoch.items())
    ]
    unit = next(iter(by_epoch.values()))["unit"] if by_epoch else "unit"
    head = f"| epoch | updates | dev {unit} error, % (greedy) | dev loss a label | blank rate |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])
