"""The recipe for digits from recordings to its page, on tones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).resolve().parents[1] / "recipes/digits/run.py"
SPEAKERS = ("ann", "bob")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Every digit a tone of its own, a little higher for the second speaker."""
    folder = tmp_path / "corpora/fsdd/recordings"
    folder.mkdir(parents=True)
    time_s = np.arange(1600) / 8000
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(11):
                tone = 0.3 * np.sin(2 * np.pi * (300 + 250 * digit + 40 * number + take) * time_s)
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", tone.astype(np.float32), 8000)
    return tmp_path / "corpora"


@pytest.fixture
def recipe(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recipe on two speakers, one epoch a training."""
    specification = importlib.util.spec_from_file_location("digits_under_test", SCRIPT)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "digits_under_test", module)
    specification.loader.exec_module(module)
    here = tmp_path / "recipe"
    here.mkdir()
    for name in ("notes.md", "train.yaml"):
        text = (
            (SCRIPT.parent / name)
            .read_text()
            .replace("epochs: 16", "epochs: 1")
            .replace("after_epochs: 3", "after_epochs: 0")
        )
        (here / name).write_text(text.replace("runs/digits", str(tmp_path / "runs")))
    monkeypatch.setattr(module, "HERE", here)
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "SPEAKERS", SPEAKERS)
    monkeypatch.setattr(module, "FOLDS", ("takes", *SPEAKERS))
    monkeypatch.setitem(module.TRAINING, "epochs", 1)
    monkeypatch.setattr(sys, "argv", ["run.py", "--corpora", str(recordings)])
    return module


@pytest.mark.slow
def test_every_family_has_a_row(recipe: ModuleType) -> None:
    recipe.main()
    page = (recipe.HERE / "RESULTS.md").read_text()
    left_out = page[page.index("## Speakers that were left out") :]
    assert all(left_out.count(f"| {name} | ") >= 2 for name in ("fp32", *recipe.COMPRESSED))


def test_a_stage_of_a_fold_alone(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--fold", "bob", "--stage", "prepare"])
    recipe.main()
    assert {path.name for path in recipe.RUNS.iterdir()} == {"bob", "lexicon.txt"}
    assert "| variant |" not in (recipe.HERE / "RESULTS.md").read_text()  # nothing measured yet
