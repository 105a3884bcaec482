"""Cross-validation: folds are pooled by what was tested, and each is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_compress.evaluation.folds import fold_table
from asr_compress.runtime.errors import InputError
from tests.evaluation.results_files import Made, Spoken, write


def fold(folder: Path, speaker: str, wrong: int, names: tuple[str, ...] = ("fp32", "int8")) -> Path:
    """Results of one fold: ten strings of two takes by `speaker`; of `wrong`, the second variant misses a word."""
    spoken = [
        Spoken(f"{speaker}{i}", "ONE TWO", speaker, takes=(f"{speaker}a{i}", f"{speaker}b{i}")) for i in range(10)
    ]
    right = {s.id: s.text for s in spoken}
    texts = right | {s.id: "ONE" for s in spoken[:wrong]}
    return write(folder / f"{speaker}.jsonl", spoken, [Made(names[0], right), Made(names[1], texts)])


def test_pooled_and_each(tmp_path: Path) -> None:
    folds = {name: fold(tmp_path, name, wrong) for name, wrong in (("anna", 0), ("ben", 2), ("cleo", 10))}
    table = fold_table(folds, "fp32", 0.005)
    head, _, fp32, int8, _, note = table.splitlines()
    assert head.endswith("| anna | ben | cleo |")
    assert fp32.startswith("| fp32 | 0.00 [") and fp32.endswith("| baseline | 0.0 | 0.0 | 0.0 |")
    assert int8.startswith("| int8 | 20.00 [") and int8.endswith("| 0.0 | 10.0 | 50.0 |")
    assert "beyond margin" in int8
    assert note.startswith("60 words; intervals: 3 speakers resampled, then takes within them")


def test_equal_variants_are_within_the_margin(tmp_path: Path) -> None:
    folds = {name: fold(tmp_path, name, 0) for name in ("anna", "ben")}
    assert "within margin" in fold_table(folds, "fp32", 0.005)


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    folds = {"anna": fold(tmp_path, "anna", 0), "ben": fold(tmp_path, "ben", 0, ("fp32", "int4"))}
    with pytest.raises(InputError, match="fold 'ben' has no texts of variant 'int8'"):
        fold_table(folds, "fp32", 0.005)
    with pytest.raises(InputError, match="no such variant"):
        fold_table({"anna": folds["anna"]}, "fp16", 0.005)
