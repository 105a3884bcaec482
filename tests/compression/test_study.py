"""Studies end to end on noise: the recipe's own, with a page at the end."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from asr_compress.compression.order_table import order_table
from asr_compress.compression.study import Plan, Study, Trial, epochs_of, run_study
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "recipes/speechocean762/studies.py"
Run = Callable[..., None]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as for a script that is run
    specification = importlib.util.spec_from_file_location("studies_under_test", SCRIPT)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "studies_under_test", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def run(recipe: ModuleType, bundle_path: Path, data: dict[str, list[str]], tmp_path: Path) -> Run:
    """The script on a small model and noise; the dev speakers serve as test speakers too."""
    manifests = Path(data["dev"][0]).parent
    for name in ("test", "dev-ocean"):
        shutil.copyfile(data["dev"][0], manifests / f"{name}.jsonl.gz")
    places = ["--teacher", bundle_path, "--runs", tmp_path, "--out", tmp_path / "out"]
    return lambda *words: recipe.main([str(word) for word in (*places, "--greedy", *words)])


def test_what_needs_no_training(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    run("--untrained", "--study", "gates", "--page", page)
    text = page.read_text()
    assert "| 5 % by variance | - |" in text and "Constant gates by type and layer" in text
    assert "trained as long" not in text and "Nothing was trained." in text
    assert "studies.py --study gates --teacher" in text
    results = list((tmp_path / "out/gates").glob("results-*.jsonl"))
    before = results[0].read_text()
    run("--untrained", "--study", "gates", "--page", page)
    assert [path.read_text() for path in results] == [before] and page.read_text() == text


@pytest.mark.slow
def test_the_scan_has_pictures(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    run("--study", "sensitivity", "--page", page)
    assert "probes took" in page.read_text() and "(plots/sensitivity-kl.svg)" in page.read_text()
    assert (page.parent / "plots/sensitivity-kl.svg").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", ["quantization", "low-rank", "low-rank-taught", "pruning", "distillation", "gates", "order"]
)
def test_every_study(recipe: ModuleType, run: Run, tmp_path: Path, study: str) -> None:
    """Every pass of every study runs, and every comparison that the study promises is in its tables."""
    run("--study", study, "--epochs", 1)
    section = (tmp_path / f"out/{study}/section.md").read_text()
    made = recipe.STUDIES[study](recipe.Base(Bundle.load(tmp_path / "out/base.safetensors"), 1))
    for trial in made.trials:
        assert f"| {trial.name} | {epochs_of(trial, {'epochs': 1}) or '-'}" in section
    for name, other in made.pairs:
        assert f"| {name} | {other} |" in section


def test_seeds_are_paired_and_resumed(bundle_path: Path, data: dict[str, list[str]], tmp_path: Path) -> None:
    train, dev = (Path(data[split][0]) for split in ("train", "dev"))
    training = {"epochs": 1, "batch_s": 3.0, "device": "cpu", "augment": {"speeds": [1.0], "time_masks": 0}}
    plan = Plan(
        base=bundle_path,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        train=train,
        dev=dev,
        test=dev,
        tuning=dev,
        lm=None,
        weights=None,
        training=training,
        seeds=2,
    )
    trials = (Trial("control", [{"training": {}}]), Trial("int8", [{"passes": ["dynamic_int8"]}]))
    study = Study("Title", "A question?", trials, pairs=(("int8", "control"),), margin=0.5)
    section = run_study(study, plan, "make it").read_text()
    assert "| control | 1 x 2 |" in section and "| int8 | - |" in section and "| int8 | control |" in section
    said: list[str] = []
    run_study(study, plan, "make it", say=said.append)
    assert said.count("stage training: done already") == 2


def test_orders_are_those_that_recipes_refuse() -> None:
    table = order_table({"low_rank": {"ratio": 2.0}, "block_pruning": {}, "dynamic_int8": {}}).splitlines()
    assert table[2] == "| low_rank | no (1) | yes | yes |"
    assert table[3].startswith("| block_pruning | no (2) | ") and table[3].endswith("| yes |")
    assert "low_rank cannot follow block_pruning" in "\n".join(table)


def test_another_teacher_wants_another_folder(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    run("--untrained", "--study", "distillation")  # nothing in it can be done
    assert not (tmp_path / "out/distillation").exists()
    with pytest.raises(InputError, match="choose another --out"):
        run("--untrained", "--study", "distillation", "--beam", 7)
