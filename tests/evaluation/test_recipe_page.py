"""The page of a recipe gathers reports, plots and learning curves."""

from __future__ import annotations

import json
from pathlib import Path

from asr_compress.evaluation.recipe_page import write_results


def test_a_page_holds_tables_plots_and_the_last_word_of_each_epoch(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.md").write_text("## test\n\n| a |\n\n![WER](wer-rtf.svg)\n")
    (report / "wer-rtf.svg").write_text("<svg/>")
    dev = {"kind": "dev", "unit": "phone", "loss": 2.0, "blank_rate": 0.8}
    lines = [
        {"kind": "step", "step": 5},
        dev | {"epoch": 1, "step": 10, "error": 0.9},
        dev | {"epoch": 1, "step": 10, "error": 0.5},  # the epoch was repeated after an interruption
        dev | {"epoch": 2, "step": 20, "error": 0.25},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = tmp_path / "recipe" / "RESULTS.md"
    write_results(page, "Title", "make it", {"test": report}, {"teacher": tmp_path / "log.jsonl"})
    text = page.read_text()
    assert "# Title" in text and "`make it`" in text and "![WER](plots/test-wer-rtf.svg)" in text
    assert (page.parent / "plots/test-wer-rtf.svg").read_text() == "<svg/>"
    assert "| 1 | 10 | 50.0 | 2.000 | 0.80 |" in text and "| 2 | 20 | 25.0 |" in text and "90.0" not in text
