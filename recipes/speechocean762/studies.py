"""Studies of compression: for each family of passes, its strength against the word error rate of the recognizer.

python recipes/speechocean762/studies.py --study quantization --study gates --untrained
python recipes/speechocean762/studies.py --seeds 5 --epochs 3 --page docs/compression-studies.md

After the stages `prepare` and `lm` of run.py. Every study leaves its bundles, results and section in `OUT/STUDY`;
interrupted, the same command goes on. Another teacher or another number of epochs wants another --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from study_trials import STUDIES, Base

from asr_compress.compression.sensitivity_study import run_sensitivity
from asr_compress.compression.study import Plan, run_study, tuned_base
from asr_compress.corpora.manifests import read_manifest, write_manifests
from asr_compress.corpora.splits import take_hours
from asr_compress.evaluation.study_page import write_page
from asr_compress.evaluation.table import bytes_text
from asr_compress.runtime.bundle import Bundle

TRAINING = {
    "batch_s": 30,
    "dropout": 0.1,
    "average": 1,
    "optimizer": {"lr": 1.0e-3},
    "augment": {
        "speeds": [1.0],
        "frequency_masks": 2,
        "frequency_bins": 15,
        "time_masks": 3,
        "time_share": 0.05,
        "after_epochs": 0,
    },
}
INTRO = """\
The recognizer: {model}, {size} in fp32, dev error when it was trained {error}.
Every table compares with the recognizer in fp32 on the same utterances of speechocean762's test speakers. Intervals are
95 %, from resampled speakers; differences are paired, and 'no evidence' is neither a loss nor its absence. Words are
searched with a lexicon and a trigram model, {beam} hypotheses; the weights are the recognizer's, tuned on dev speakers.
Bytes are those of the whole file, lexicon included. The same families on an easy task, connected digits, are an
absolute check: recipes/digits/RESULTS.md."""


def training_speech(runs: Path, out: Path, hours: float) -> Path:
    """The manifest to train on: all of it, or a part of about so many hours."""
    if not hours:
        return runs / "manifests/train.jsonl.gz"
    name = f"train-{hours:g}h"
    path = out / f"manifests/{name}.jsonl.gz"
    if not path.exists():
        write_manifests({name: take_hours(read_manifest(runs / "manifests/train.jsonl.gz"), hours)}, out / "manifests")
    return path


def make_plan(arguments: argparse.Namespace) -> Plan:
    """What all studies share; `out` is still the folder above theirs."""
    runs, out = arguments.runs, arguments.out
    lm = None if arguments.greedy else runs / "lm-ocean.arpa.gz"
    tuning = runs / "manifests/dev-ocean.jsonl.gz"
    base, weights = tuned_base(arguments.teacher, out, tuning, lm, arguments.beam)
    return Plan(
        base=base,
        out=out,
        cache=arguments.cache or out / "cache",
        train=training_speech(runs, out, arguments.train_hours),
        dev=runs / "manifests/dev.jsonl.gz",
        test=runs / "manifests/test.jsonl.gz",
        tuning=tuning,
        lm=lm,
        weights=weights,
        training={**TRAINING, "epochs": arguments.epochs},
        seeds=arguments.seeds,
        limit=arguments.limit,
        untrained=arguments.untrained,
    )


def command_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace, study: str) -> str:
    """The command that makes one study again."""
    words = ["python recipes/speechocean762/studies.py", f"--study {study}"]
    for name, value in vars(arguments).items():
        if name not in ("study", "page", "cache") and value != parser.get_default(name):
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def introduction(path: Path, bundle: Bundle, beam: int) -> str:
    """What stands above all studies."""
    errors = [entry["dev"]["error"] for entry in bundle.history if "error" in entry.get("dev", {})]
    error = f"{100 * errors[-1]:.1f} %" if errors else "unknown"
    size = bytes_text(path.stat().st_size)
    return INTRO.format(model=bundle.model.get("name", "a model"), size=size, error=error, beam=beam)


def parse(words: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=[*STUDIES, "sensitivity"], action="append", help="all if none is named")
    parser.add_argument("--teacher", type=Path, default=Path("runs/speechocean762/teacher/model.safetensors"))
    parser.add_argument("--runs", type=Path, default=Path("runs/speechocean762"), help="what run.py prepared")
    parser.add_argument("--out", type=Path, default=Path("runs/speechocean762/studies"))
    parser.add_argument("--cache", type=Path, help="features and posteriors; OUT/cache if not given")
    parser.add_argument("--page", type=Path, help="the page; OUT/compression-studies.md if not given")
    parser.add_argument("--epochs", type=int, default=1, help="of each stage that trains")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant; five for a claim")
    parser.add_argument("--train-hours", type=float, default=0.0, help="train on a part of the speech; 0: all of it")
    parser.add_argument("--beam", type=int, default=100, help="width of the word search")
    parser.add_argument("--greedy", action="store_true", help="no word search: for tokens that are letters")
    parser.add_argument("--limit", type=int, help="test utterances, for a quick look")
    parser.add_argument("--untrained", action="store_true", help="leave out what trains")
    return parser, parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    parser, arguments = parse(words)
    plan = make_plan(arguments)
    base = Base(Bundle.load(plan.base), arguments.epochs)
    for name in arguments.study or [*STUDIES, "sensitivity"]:
        command, own = command_of(parser, arguments, name), replace(plan, out=plan.out / name)
        if name == "sensitivity":
            run_sensitivity(own, command)
        elif any(not (own.untrained and trial.trains) for trial in STUDIES[name](base).trials):
            run_study(STUDIES[name](base), own, command)
        page = arguments.page or plan.out / "compression-studies.md"
        write_page(
            page,
            "Studies of compression",
            [introduction(plan.base, base.bundle, arguments.beam)],
            [plan.out / each for each in (*STUDIES, "sensitivity")],
        )
        print(f"{name}: {page}")


if __name__ == "__main__":
    main()
