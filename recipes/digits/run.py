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

from asr_compress.corpora.fsdd import WORDS, read_fsdd
from asr_compress.corpora.manifests import summarize, write_manifests
from asr_compress.corpora.pronounce import pronounce
from asr_compress.runtime.files import atomic_write
from asr_compress.training.bundle import bundle_of
from asr_compress.training.config import load_config
from asr_compress.training.run import train_recognizer

HERE = Path(__file__).parent
RUNS = Path("runs/digits")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "yweweler")
FOLDS = ("takes", *SPEAKERS)


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


STAGES: dict[str, Callable[[str, Path], None]] = {"prepare": prepare, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"), help="folder that holds fsdd/")
    parser.add_argument("--stage", choices=STAGES, action="append", help="default: all")
    parser.add_argument("--fold", choices=FOLDS, action="append", help="default: all")
    arguments = parser.parse_args()
    for fold in arguments.fold or FOLDS:
        for stage in arguments.stage or STAGES:
            STAGES[stage](fold, arguments.corpora)


if __name__ == "__main__":
    main()
