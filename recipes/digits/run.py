"""Connected digits from recordings of single digits: an easy task with a low error rate, as an absolute check.

    python recipes/digits/run.py                               # everything
    python recipes/digits/run.py --stage train --fold george   # one stage of one fold

The folds: `takes` tests recordings of known speakers that training never saw; each speaker's name tests that speaker
after training on the four others. Every test recording stands in exactly one string.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe
from asr_compress.corpora.fsdd import WORDS, read_fsdd
from asr_compress.corpora.manifests import summarize, write_manifests
from asr_compress.corpora.pronounce import pronounce
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.folds import fold_table
from asr_compress.evaluation.recipe_page import write_results
from asr_compress.evaluation.tuning import tune_bundle
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.files import atomic_write
from asr_compress.training.bundle import bundle_of
from asr_compress.training.config import load_config
from asr_compress.training.run import train_recognizer

HERE = Path(__file__).parent
RUNS = Path("runs/digits")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "yweweler")
FOLDS = ("takes", *SPEAKERS)
MARGIN = 0.005  # a handful of errors: relative differences would be noise
# Variants go on with the perturbed voices of `train.yaml`: without them even the control that compresses nothing loses
# what makes the model hear speakers that it never met.
AUGMENT = yaml.safe_load((HERE / "train.yaml").read_text())["augment"] | {"after_epochs": 0}
TRAINING = {"epochs": 2, "batch_s": 20, "optimizer": {"lr": 1e-3}, "augment": AUGMENT}


def trained(*passes: dict[str, Any]) -> dict[str, Any]:
    """A stage that trains on."""
    return {"passes": list(passes), "training": TRAINING}


INT8 = {"passes": ["dynamic_int8"]}
COMPRESSED: dict[str, list[dict[str, Any]]] = {
    "int8": [INT8],
    "int4": [{"passes": [{"quantization": {"numbers": "int4"}}]}],
    "fp32, trained as long": [trained()],
    "ternary": [trained({"quantization": {"numbers": "ternary"}})],
    **{
        f"rank / {ratio}": [trained({"low_rank": {"ratio": float(ratio), "closest": "outputs"}})] for ratio in (2, 3, 4)
    },
    **{f"{share} % of weights": [trained({"pruning": {"sparsity": share / 100}})] for share in (50, 75, 90)},
    **{
        f"{share} % of blocks, int8": [trained({"block_pruning": {"sparsity": share / 100}}), INT8]
        for share in (40, 60, 80)
    },
    **{f"{share} % of units": [trained({"structured_pruning": {"sparsity": share / 100}})] for share in (25, 50)},
    **{
        f"{share} % of gates": [trained({"gate_pruning": {"criterion": "effect", "share": share / 100}})]
        for share in (5, 10, 20)
    },
}


def prepare(fold: str, corpora: Path) -> None:
    """Strings of digits and their manifests."""
    run = RUNS / fold
    splits = read_fsdd(corpora / "fsdd", audio_dir=run / "audio", leave_out=None if fold == "takes" else fold)
    write_manifests(splits, run / "manifests")
    for name, cuts in splits.items():
        print(fold, summarize(name, cuts))
    with atomic_write(RUNS / "lexicon.txt") as path:
        path.write_text(pronounce(WORDS).lexicon.to_text())


def train(fold: str, corpora: Path) -> None:
    """The acoustic model."""
    run = RUNS / fold
    manifests = {name: [run / f"manifests/{name}.jsonl.gz"] for name in ("train", "dev")}
    config = load_config(HERE / "train.yaml", **manifests)
    bundle_of(train_recognizer(config, run / "train"), config).save(run / "fp32.safetensors")


def compress_fold(fold: str, corpora: Path) -> None:
    """Each family of passes at several strengths; those that train have the same number of epochs."""
    run = RUNS / fold
    data = {name: [str(run / f"manifests/{name}.jsonl.gz")] for name in ("train", "dev")}
    for name, stages in COMPRESSED.items():
        recipe = Recipe.from_json({**data, "stages": stages}, f"{HERE}/run.py")
        compress(run / "fp32.safetensors", recipe, run / folder_of(name), cache=run / "train", say=print)


def folder_of(variant: str) -> str:
    """Where a variant lies in its fold's folder."""
    return re.sub(r"[^a-z0-9]+", "-", variant.lower())


def measure(fold: str, corpora: Path) -> None:
    """Tune the search on dev, recognize the test strings, write the report."""
    run = RUNS / fold
    bundles = {"fp32": run / "fp32.safetensors"}
    bundles |= {name: run / folder_of(name) / "model.safetensors" for name in COMPRESSED}
    variants = []
    for name, path in bundles.items():
        tuned, _ = tune_bundle(Bundle.load(path), run / "manifests/dev.jsonl.gz")
        variants.append(Variant(name, run / f"tuned/{folder_of(name)}.safetensors"))
        tuned.save(variants[-1].bundle)
    evaluate(variants, run / "manifests/test.jsonl.gz", run / "results.jsonl", rounds=3)
    compare([run / "results.jsonl"], run / "report", speakers_fixed=True, margin=MARGIN).show()


def write_page() -> None:
    """Two tables of the folds that were measured: takes of known speakers, and speakers that no training heard."""
    done = [name for name in SPEAKERS if (RUNS / name / "report/report.md").exists()]
    preface = (HERE / "notes.md").read_text()
    if done:
        table = fold_table({name: RUNS / name / "results.jsonl" for name in done}, "fp32", MARGIN)
        preface += f"\n## Speakers that were left out\n\n{table}\n"
    takes = (RUNS / "takes/report/report.md").exists()
    reports = {"held-out-takes": RUNS / "takes/report"} if takes else {}
    curves = {f"fold {name}": RUNS / name / "train/log.jsonl" for name in (*("takes",) * takes, *done)}
    write_results(HERE / "RESULTS.md", "Connected digits", "python recipes/digits/run.py", reports, curves, preface)


STAGES: dict[str, Callable[[str, Path], None]] = {
    "prepare": prepare,
    "train": train,
    "compress": compress_fold,
    "measure": measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"), help="folder that holds fsdd/")
    parser.add_argument("--stage", choices=STAGES, action="append", help="default: all")
    parser.add_argument("--fold", choices=FOLDS, action="append", help="default: all")
    arguments = parser.parse_args()
    for fold in arguments.fold or FOLDS:
        for stage in arguments.stage or STAGES:
            STAGES[stage](fold, arguments.corpora)
    write_page()


if __name__ == "__main__":
    main()
