"""A recognizer from a few hours of speech, compressed, and what that cost.

    python recipes/speechocean762/run.py                       # everything, several hours on two cores
    python recipes/speechocean762/run.py --stage train         # one stage; each goes on where it stopped

Training speech is pooled: speechocean762, the LibriSpeech sample and the one speaker of Kathleen. Tested are the
speakers of speechocean762's test set, and LibriSpeech's held-out speaker and test-other.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse import CutSet

from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe, load_recipe
from asr_compress.corpora.language_model import build_language_model
from asr_compress.corpora.manifests import summarize, write_manifests
from asr_compress.corpora.normalize import normalizer
from asr_compress.corpora.pronounce import pronounce
from asr_compress.corpora.registry import read_corpus
from asr_compress.corpora.splits import hold_out
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.recipe_page import write_results
from asr_compress.evaluation.tuning import Trial, Weights, tune_bundle
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.files import atomic_write
from asr_compress.training.bundle import bundle_of
from asr_compress.training.config import load_config
from asr_compress.training.run import train_recognizer

HERE = Path(__file__).parent
RUNS = Path("runs/speechocean762")


@dataclass(frozen=True)
class Test:
    """What is tested together: with one language model, tuned on the same dev speakers.

    peers: whether other engines take part. Half an hour of speech shows their speed; two would be waiting.
    """

    dev: str
    lm: str
    splits: tuple[str, ...]
    peers: bool = False


TESTS = {
    "ocean": Test("dev-ocean", "lm-ocean.arpa.gz", ("test",)),
    "libri": Test("dev-libri", "lm-libri.arpa.gz", ("heldout-clean", "test-other"), peers=True),
}
# The second starts from the first. The teacher is plain CTC, as its students are.
TRAININGS = {"train-1-ctc": "teacher", "train-2-crf": "crf"}
FAMILIES = ("lstm-tiny", "blstm-tiny", "lstmp-tiny", "tdnn-lstm-tiny")  # the teacher and the student are of ds2
VARIANTS = {
    "teacher fp32": "teacher/model.safetensors",
    "teacher int8": "teacher-int8/model.safetensors",
    "crf fp32": "crf/model.safetensors",
    "crf int8": "crf-int8/model.safetensors",
    "student distilled": "student/1-distill/model.safetensors",
    "student pruned": "student/2-prune/model.safetensors",
    "student pruned int8": "student/3-int8/model.safetensors",
    **{name: f"{name}/model.safetensors" for name in FAMILIES},
}
PEERS = {"teacher fp32": ("torch", "onnx", "openvino"), "teacher int8": ("torch-int8", "onnx-int8")}
PUBLISHED = ("crf fp32", "crf int8", "teacher fp32", "student pruned int8")  # with the weights for speechocean762
SEARCH: dict[str, Any] = {"beam_width": 100, "beam_threshold": 10.0}  # found on dev speakers, see notes.md
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
    """The acoustic model, in two trainings."""
    start = None
    for name, folder in TRAININGS.items():
        config = load_config(HERE / f"{name}.yaml")
        trained = train_recognizer(config, RUNS / folder, start, cache=RUNS)
        start = RUNS / folder / "model.safetensors"
        bundle_of(trained, config).save(start)


def families(corpora: Path) -> None:
    """A small model of each other family."""
    for name in FAMILIES:
        config = load_config(HERE / "train-family.yaml", model=name)
        bundle_of(train_recognizer(config, RUNS / name, cache=RUNS), config).save(RUNS / name / "model.safetensors")


def compress_teacher(corpora: Path) -> None:
    """Distill, prune, quantize; and the large ones in int8."""
    recipe = load_recipe(HERE / "compress.yaml")
    compress(RUNS / "teacher/model.safetensors", recipe, RUNS / "student", cache=RUNS, say=print)
    int8 = Recipe.from_json({"stages": [{"passes": ["dynamic_int8"]}]})
    for name in ("teacher", "crf"):
        compress(RUNS / name / "model.safetensors", int8, RUNS / f"{name}-int8", say=print)


def tune(corpora: Path) -> None:
    """Decoding weights, found on the dev speakers of each test set: the teacher's for every variant but the CRF's."""
    for test, sets in TESTS.items():
        dev = RUNS / f"manifests/{sets.dev}.jsonl.gz"
        found: dict[str, Weights] = {}
        for name, path in VARIANTS.items():  # of those that share weights, the one in fp32 comes first
            kind = "crf" if name.startswith("crf") else "ctc"
            bundle = Bundle.load(RUNS / path)
            lm = RUNS / sets.lm
            tuned, found[kind] = tune_bundle(bundle, dev, lm, weights=found.get(kind), report=print, **SEARCH)
            tuned.save(RUNS / test / f"{name}.safetensors")


def steps(corpora: Path) -> None:
    """What each training gained: WER on the dev speakers with weights tuned for it, with and without priors."""
    lines = ["| after | priors | " + " | ".join(f"{sets.dev}, WER %" for sets in TESTS.values()) + " |"]
    lines.append("|---|---|" + "---:|" * len(TESTS))
    best: dict[tuple[str, str], list[str]] = {}
    for name, folder in TRAININGS.items():
        bundle = Bundle.load(RUNS / folder / "model.safetensors")
        for sets in TESTS.values():
            trials: list[Trial] = []
            dev = RUNS / f"manifests/{sets.dev}.jsonl.gz"
            tune_bundle(bundle, dev, RUNS / sets.lm, report=trials.append, **SEARCH)
            plain = [trial for trial in trials if trial.weights.prior_share == 0]
            for priors, found in (("no", plain), ("yes", trials)):
                best.setdefault((name, priors), []).append(f"{100 * min(trial.wer for trial in found):.1f}")
    lines += [f"| {name} | {priors} | {' | '.join(rates)} |" for (name, priors), rates in best.items()]
    print("\n".join(lines))
    with atomic_write(RUNS / "steps.md") as path:
        path.write_text("\n".join(lines) + "\n")


def measure(corpora: Path) -> None:
    """WER against speed, all variants side by side, and the page of results."""
    reports = {}
    for test, sets in TESTS.items():
        variants = [Variant(name, RUNS / test / f"{name}.safetensors", lm=RUNS / sets.lm) for name in VARIANTS]
        variants += [
            Variant(f"{name}, {peer}", RUNS / test / f"{name}.safetensors", peer, lm=RUNS / sets.lm)
            for name, peers in PEERS.items()
            for peer in peers
            if sets.peers
        ]
        for split in sets.splits:
            results = RUNS / test / f"{split}.jsonl"
            evaluate(variants, RUNS / f"manifests/{split}.jsonl.gz", results, rounds=1)
            reports[split] = RUNS / test / f"report-{split}"
            compare([results], reports[split], baseline="teacher fp32").show()
    curves = {config: RUNS / folder / "log.jsonl" for config, folder in TRAININGS.items()}
    curves |= {"student, distilled": RUNS / "student/1-distill/log.jsonl"}
    curves |= {name: RUNS / name / "log.jsonl" for name in FAMILIES}
    command = "python recipes/speechocean762/run.py"
    title = "speechocean762 and LibriSpeech"
    preface = f"{(HERE / 'notes.md').read_text()}\n{(RUNS / 'steps.md').read_text()}"
    write_results(HERE / "RESULTS.md", title, command, reports, curves, preface)
    for name in PUBLISHED:
        Bundle.load(RUNS / "ocean" / f"{name}.safetensors").save(
            HERE / "models" / f"{name.replace(' ', '-')}.safetensors"
        )


STAGES: dict[str, Callable[[Path], None]] = {
    "prepare": prepare,
    "lm": language_models,
    "train": train,
    "families": families,
    "compress": compress_teacher,
    "tune": tune,
    "steps": steps,
    "measure": measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--stage", choices=STAGES, action="append")
    arguments = parser.parse_args()
    for stage in arguments.stage or STAGES:
        STAGES[stage](arguments.corpora)


if __name__ == "__main__":
    main()
