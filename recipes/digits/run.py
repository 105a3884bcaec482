"""Connected digits from recordings of single digits: an easy task with a low error rate, as an absolute check.

    python recipes/digits/run.py                               # everything
    python recipes/digits/run.py --stage train --fold george   # one stage of one fold

The folds: `takes` tests recordings of known speakers that training never saw; each speaker's name tests that speaker
after training on the four others. Every test recording stands in exactly one string.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

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
VARIANTS = {
    "fp32": "fp32.safetensors",
    "int8": "int8/model.safetensors",
    "pruned": "pruned/1-prune/model.safetensors",
    "pruned int8": "pruned/model.safetensors",
}
MARGIN = 0.005  # a handful of errors: relative differences would be noise
PRUNE = {
    "name": "prune",
    "passes": [{"block_pruning": {"sparsity": 0.6}}],
    "training": {"epochs": 6, "batch_s": 20, "optimizer": {"lr": 1e-3}},
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
    """Prune in blocks, then int8; and int8 alone."""
    run = RUNS / fold
    start = run / "fp32.safetensors"
    for name, stages in (("pruned", [PRUNE, {"passes": ["dynamic_int8"]}]), ("int8", [{"passes": ["dynamic_int8"]}])):
        keys = {name: [str(run / f"manifests/{name}.jsonl.gz")] for name in ("train", "dev")}
        recipe = Recipe.from_json({**keys, "stages": stages}, f"{HERE}/run.py")
        compress(start, recipe, run / name, cache=run / "train", say=print)


def measure(fold: str, corpora: Path) -> None:
    """Tune the search on dev, recognize the test strings, write the report."""
    run = RUNS / fold
    for name, path in VARIANTS.items():
        bundle = Bundle.load(run / path)
        tuned, _ = tune_bundle(bundle, run / "manifests/dev.jsonl.gz")
        tuned.save(run / f"tuned/{name}.safetensors")
    variants = [Variant(name, run / f"tuned/{name}.safetensors") for name in VARIANTS]
    evaluate(variants, run / "manifests/test.jsonl.gz", run / "results.jsonl", rounds=3)
    compare([run / "results.jsonl"], run / "report", speakers_fixed=True, margin=MARGIN).show()


def write_page() -> None:
    """Two tables: takes of known speakers, and speakers that no training heard, all of them together."""
    done = [name for name in SPEAKERS if (RUNS / name / "report/report.md").exists()]
    preface = (HERE / "notes.md").read_text()
    if done:
        table = fold_table({name: RUNS / name / "results.jsonl" for name in done}, "fp32", MARGIN)
        preface += f"\n## Speakers that were left out\n\n{table}\n"
    reports = {"held-out-takes": RUNS / "takes/report"}
    curves = {f"fold {name}": RUNS / name / "train/log.jsonl" for name in ("takes", *done)}
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
