"""speechocean762: train a recognizer on a few hours of speech.

    python recipes/speechocean762/run.py                       # everything
    python recipes/speechocean762/run.py --stage train         # one stage
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.language_model import build_language_model
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
BOOKS = "text/librispeech-train-clean-100.txt"


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
    _write_texts(corpora, splits | {"ocean": ocean_train, "arctic": kathleen_train})


def _write_texts(corpora: Path, splits: dict[str, CutSet]) -> None:
    """What language models and the lexicon are made of: books, and what the training speakers read."""
    upper = normalizer("upper")
    lines = {
        name: [cut.supervisions[0].text or "" for cut in splits[name]]
        for name in ("ocean", "arctic", "dev-ocean", "dev-libri", "train", "dev")
    }
    books = [upper(line) for line in (corpora / BOOKS).read_text().splitlines()]
    lines["books"] = [line for line in books if line not in set(lines["dev-libri"])]
    for name, sentences in lines.items():
        with atomic_write(RUNS / f"text/{name}.txt") as path:
            path.write_text("\n".join(sentences) + "\n")
    known = Counter(word for name in ("books", "train") for line in lines[name] for word in line.split())
    # Dev words are pronounced so that phone errors can be counted on them; they get no place in the language model.
    dev_only = {word for line in lines["dev"] for word in line.split()} - set(known)
    spoken = pronounce([word for word, _ in known.most_common()] + sorted(dev_only))
    print(f"lexicon: {spoken.sources}")
    for name, words in (("lexicon", known), ("lexicon-dev", spoken.lexicon)):
        with atomic_write(RUNS / f"{name}.txt") as path:
            path.write_text(spoken.lexicon.restricted_to(words).to_text())


def language_models(corpora: Path) -> None:
    """Trigrams: books, training sentences and prompts, mixed to suit the dev speakers of each test set."""
    for name in ("ocean", "libri"):
        report = build_language_model(
            [RUNS / f"text/{text}.txt" for text in ("books", "ocean", "arctic")],
            RUNS / f"lm-{name}.arpa.gz",
            order=3,
            vocabulary=RUNS / "lexicon.txt",
            held_out=RUNS / f"text/dev-{name}.txt",
        )
        print(report)


def train(corpora: Path) -> None:
    """The acoustic model."""
    result = train_recognizer(load_config(HERE / "train.yaml"), RUNS / "teacher")
    print(result.dev)


def student(corpora: Path) -> None:
    """The student's architecture trained alone: the control that distillation has to beat."""
    result = train_recognizer(load_config(HERE / "train.yaml", model="blstm-tiny"), RUNS / "student-alone")
    print(result.dev)


STAGES = {"prepare": prepare, "lm": language_models, "train": train, "student": student}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--stage", choices=STAGES, action="append")
    arguments = parser.parse_args()
    for stage in arguments.stage or STAGES:
        STAGES[stage](arguments.corpora)


if __name__ == "__main__":
    main()
