"""speechocean762: train a recognizer on a few hours of speech.

    python recipes/speechocean762/run.py                       # everything
    python recipes/speechocean762/run.py --stage train         # one stage
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.manifests import summarize, write_manifests
from asr_compress.corpora.normalize import normalizer
from asr_compress.corpora.pronounce import pronounce
from asr_compress.corpora.registry import read_corpus
from asr_compress.corpora.splits import hold_out
from asr_compress.runtime.files import atomic_write
from asr_compress.training.config import load_config
from asr_compress.training.run import train_recognizer

HERE = Path(__file__).parent
RUNS = Path("runs/speechocean762")


def prepare(corpora: Path) -> None:
    """Manifests. Dev speakers (prompts, for the one speaker of Kathleen) come out of the training parts."""
    ocean = read_corpus("kaldi", corpora / "speechocean762")
    libri = read_corpus("librispeech", corpora / "librispeech-sample")
    kathleen = read_corpus("folder", corpora / "kathleen")["all"]
    ocean_train, ocean_dev = hold_out(ocean["train"], 8)
    libri_train, libri_dev = hold_out(libri["train-clean-100"], 24, seed=2)
    kathleen_train, kathleen_dev = hold_out(kathleen, 20, by="prompt")
    splits = {
        "train": CutSet.from_cuts([*ocean_train, *libri_train, *kathleen_train]),
        "dev": CutSet.from_cuts([*ocean_dev, *libri_dev, *kathleen_dev]),
        "dev-ocean": ocean_dev,
        "dev-libri": libri_dev,
        "test": ocean["test"],
        "heldout-clean": libri["heldout-clean"],
        "test-other": libri["test-other"],
    }
    write_manifests(splits, RUNS / "manifests")
    for name, cuts in splits.items():
        print(summarize(name, cuts))
    upper = normalizer("upper")
    book = [upper(line) for line in (corpora / "text/librispeech-train-clean-100.txt").read_text().splitlines()]
    read = [cut.supervisions[0].text for cut in splits["train"]]
    with atomic_write(RUNS / "text/books.txt") as path:
        path.write_text("\n".join(book) + "\n")
    with atomic_write(RUNS / "text/read.txt") as path:
        path.write_text("\n".join(read) + "\n")
    words = sorted({word for line in [*book, *read] for word in line.split()})
    spoken = pronounce(words + sorted({w for cut in splits["dev"] for w in cut.supervisions[0].text.split()} - set(words)))
    print(spoken.sources)
    with atomic_write(RUNS / "lexicon.txt") as path:
        path.write_text(spoken.lexicon.to_text())


def train(corpora: Path) -> None:
    """The acoustic model."""
    result = train_recognizer(load_config(HERE / "train.yaml"), RUNS / "teacher")
    print(result.dev)


def student(corpora: Path) -> None:
    """The student's architecture trained alone: the control that distillation has to beat."""
    result = train_recognizer(load_config(HERE / "train.yaml", model="blstm-tiny"), RUNS / "student-alone")
    print(result.dev)


STAGES = {"prepare": prepare, "train": train, "student": student}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--stage", choices=STAGES, action="append")
    arguments = parser.parse_args()
    for stage in arguments.stage or STAGES:
        STAGES[stage](arguments.corpora)


if __name__ == "__main__":
    main()
