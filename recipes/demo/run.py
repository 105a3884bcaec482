"""The main job on synthesized speech: train a recognizer, distill it, prune the student, quantize it, measure.

    python recipes/demo/run.py                      # everything: 5 to 8 minutes on two cores
    python recipes/demo/run.py --smoke              # the same in about a minute; its numbers mean nothing
    python recipes/demo/run.py --stage evaluate     # one stage; each goes on where it stopped

Nothing is downloaded: espeak-ng says sentences of a small grammar. So the model knows synthetic voices and some 300
words, and its error rates say nothing about people's speech; recipes/speechocean762 has those.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe, load_recipe
from asr_compress.corpora.demo import demo_text, read_demo
from asr_compress.corpora.language_model import build_language_model
from asr_compress.corpora.manifests import summarize, write_manifests
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.recipe_page import write_results
from asr_compress.evaluation.tuning import tune_bundle
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.files import atomic_write
from asr_compress.training.bundle import bundle_of
from asr_compress.training.config import load_config
from asr_compress.training.run import train_recognizer

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """How much of everything, and about how long each stage takes on two cores."""

    folder: Path
    train_minutes: float
    dev_minutes: float
    test_minutes: float
    epochs: int | None  # None: what the YAML files say
    rounds: int
    stage_s: dict[str, float]


FULL = Size(
    folder=Path("runs/demo"),
    train_minutes=50,
    dev_minutes=3,
    test_minutes=8,
    epochs=None,
    rounds=5,
    stage_s={"prepare": 30, "train": 210, "compress": 150, "evaluate": 60},
)
SMOKE = Size(
    folder=Path("runs/demo-smoke"),
    train_minutes=2,
    dev_minutes=0.5,
    test_minutes=1,
    epochs=1,
    rounds=1,
    stage_s={"prepare": 5, "train": 10, "compress": 20, "evaluate": 25},
)
# Where compress.yaml leaves what each stage made.
BUNDLES = {
    "teacher": "teacher/model.safetensors",
    "distilled": "student/1-distill/model.safetensors",
    "pruned": "student/2-prune/model.safetensors",
    "pruned-int8": "student/3-int8/model.safetensors",
}
SYNTHETIC = (
    "The voices are synthetic, and the models know no others: these error rates say nothing about people's speech."
)
LM = "lm.arpa.gz"
BEAM_WIDTH = 25  # four times the width of it gains little with 300 words, and costs as much as the model


def prepare(size: Size) -> None:
    """Speech, its manifests, and a language model of sentences that are in none of them."""
    splits = read_demo(
        size.folder / "speech",
        train_minutes=size.train_minutes,
        dev_minutes=size.dev_minutes,
        test_minutes=size.test_minutes,
    )
    write_manifests(splits, size.folder / "manifests")
    for name, cuts in splits.items():
        found = summarize(name, cuts)
        print(f"{name}: {found.utterances} sentences in {found.speakers} voices, {found.hours * 60:.0f} minutes")
    text = size.folder / "text.txt"
    with atomic_write(text) as path:
        path.write_text("\n".join(demo_text(dev_minutes=size.dev_minutes, test_minutes=size.test_minutes)) + "\n")
    build_language_model([text], size.folder / LM, order=3)


def train(size: Size) -> None:
    """The teacher."""
    epochs = {"epochs": size.epochs} if size.epochs else {}
    manifests = {name: [size.folder / f"manifests/{name}.jsonl.gz"] for name in ("train", "dev")}
    config = load_config(HERE / "train.yaml", **manifests, **epochs)
    trained = train_recognizer(config, size.folder / "teacher")
    bundle_of(trained, config).save(size.folder / BUNDLES["teacher"])


def compress_teacher(size: Size) -> None:
    """Distill, prune, quantize; and the weights of the language model for each, tuned on dev."""
    recipe = _sized(load_recipe(HERE / "compress.yaml"), size)
    # The teacher's run has the features already.
    compress(
        size.folder / BUNDLES["teacher"], recipe, size.folder / "student", cache=size.folder / "teacher", say=print
    )
    for name, path in BUNDLES.items():
        bundle = Bundle.load(size.folder / path)
        dev = size.folder / "manifests/dev.jsonl.gz"
        tuned, _ = tune_bundle(bundle, dev, size.folder / LM, beam_width=BEAM_WIDTH)
        tuned.save(size.folder / f"bundles/{name}.safetensors")


def measure(size: Size) -> None:
    """All variants side by side: the table and the plots."""
    lm = size.folder / LM
    variants = [Variant(name, size.folder / f"bundles/{name}.safetensors", lm=lm) for name in BUNDLES]
    if torch.cuda.is_available():
        variants += [replace(v, name=f"{v.name} (GPU)", backend="torch", device="cuda") for v in variants]
    results = size.folder / "results.jsonl"
    evaluate(variants, size.folder / "manifests/test.jsonl.gz", results, rounds=size.rounds)
    report = compare([results], size.folder / "report", baseline="teacher")
    report.show(Console(width=max(Console().width, 132)))
    print(SYNTHETIC)
    print("\n".join(f"{kind}: {path}" for kind, path in report.files.items()))
    curves = {"teacher": size.folder / "teacher/log.jsonl", "student": size.folder / "student/1-distill/log.jsonl"}
    title, command = "The demo: synthesized speech", "python recipes/demo/run.py"
    write_results(size.folder / "RESULTS.md", title, command, {"test": size.folder / "report"}, curves, SYNTHETIC)


STAGES: dict[str, Callable[[Size], None]] = {
    "prepare": prepare,
    "train": train,
    "compress": compress_teacher,
    "evaluate": measure,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that everything runs")
    parser.add_argument("--stage", choices=STAGES, action="append", help="default: all")
    chosen = parser.parse_args(arguments)
    size = SMOKE if chosen.smoke else FULL
    stages = chosen.stage or list(STAGES)
    total_s = sum(size.stage_s[stage] for stage in stages)
    print(f"The demo takes about {_duration(total_s)} on two cores and writes to {size.folder}.", flush=True)
    started = time.monotonic()
    for number, stage in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {stage}: about {_duration(size.stage_s[stage])}", flush=True)
        STAGES[stage](size)
    print(f"\nDone in {_duration(time.monotonic() - started)}.")


def _sized(recipe: Recipe, size: Size) -> Recipe:
    """The recipe with the manifests and the epochs of a size."""
    stages = recipe.stages
    if size.epochs:
        update = {"epochs": size.epochs}
        stages = tuple(replace(s, budget=s.budget.model_copy(update=update) if s.budget else None) for s in stages)
    manifests = size.folder / "manifests"
    return replace(recipe, stages=stages, train=(manifests / "train.jsonl.gz",), dev=(manifests / "dev.jsonl.gz",))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    main()
