"""Studies: many compressions of one recognizer, several seeds each, measured in one run against it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe
from asr_compress.corpora.manifests import read_manifest
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.records import read_lines
from asr_compress.evaluation.results import load_results
from asr_compress.evaluation.scoring import Scored, score_results
from asr_compress.evaluation.study_page import contrast_table, smallest_within, study_table
from asr_compress.evaluation.summary import Row, summarize
from asr_compress.evaluation.tuning import Weights, tune_bundle
from asr_compress.evaluation.variants import Variant, file_sha256
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write

BASELINE = "fp32"
BEAM_THRESHOLD = 10.0  # natural log: on dev speakers nothing further from the best came to win


@dataclass(frozen=True)
class Trial:
    """One row of a study.

    Attributes:
        stages: as a recipe has them; a stage with `training` trains.
        student: a fresh model of the zoo; None compresses the recognizer itself.
        listens: takes statistics of speech though it does not train.
        strict: as in a recipe: a pass that finds nothing to change is an error.
    """

    name: str
    stages: Sequence[dict[str, Any]]
    student: str | None = None
    listens: bool = False
    strict: bool = True

    @property
    def trains(self) -> bool:
        return any("training" in stage for stage in self.stages)


@dataclass(frozen=True)
class Study:
    """What is asked, of which variants, and which of them are compared with each other.

    Attributes:
        pairs: names; the first of each is measured against the second.
        margin: relative rise of the error that is asked for; None asks for none.
        notes: paragraphs under the tables.
        appendix: makes a further paragraph of the rows and of the compressed bundles, by name (of the first seed).
    """

    title: str
    question: str
    trials: tuple[Trial, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    margin: float | None = None
    notes: tuple[str, ...] = ()
    appendix: Callable[[Sequence[Row], Mapping[str, Bundle]], str] | None = None


@dataclass(frozen=True)
class Plan:
    """Where a study runs, and how much of it.

    Attributes:
        base: the float bundle that everything is made from, with tuned decoding weights.
        out: folder of the study.  cache: features and posteriors, which studies share.
        tuning: dev speech that decoding was tuned on.  lm, weights: None for greedy decoding.
        training: keys of every stage's training that it does not set itself.
        seeds: trainings of each variant that trains.
        limit: utterances of the test set; None takes all.
        untrained: leave out what trains.
    """

    base: Path
    out: Path
    cache: Path
    train: Path
    dev: Path
    test: Path
    tuning: Path
    lm: Path | None
    weights: Weights | None
    training: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    limit: int | None = None
    untrained: bool = False


def run_study(study: Study, plan: Plan, command: str, say: Callable[[str], None] = print) -> Path:
    """Compress, measure and write `section.md` and `results-*.jsonl` in the study's folder; what is there is kept.

    Raises:
        InputError: whatever `compress` and `evaluate` refuse; above all a folder of another recipe.
    """
    trials = [trial for trial in study.trials if not (plan.untrained and trial.trains)]
    decoder = "greedy" if plan.lm is None else "auto"
    variants = [Variant(BASELINE, plan.base, lm=plan.lm, decoder=decoder)]
    for trial in trials:
        for seed in range(plan.seeds if trial.trains else 1):
            say(f"{trial.name}, seed {seed}")
            path = _compressed(trial, seed, plan, say)
            number = seed if trial.trains else None
            variants.append(Variant(trial.name, path, lm=plan.lm, decoder=decoder, seed=number))
    scored = score_results(load_results([_measured(variants, plan)]))
    section = _section(study, plan, command, scored, variants)
    with atomic_write(plan.out / "section.md") as temporary:
        temporary.write_text(section)
    return plan.out / "section.md"


def tuned_base(teacher: Path, out: Path, dev: Path, lm: Path | None, beam: int) -> tuple[Path, Weights | None]:
    """`OUT/base.safetensors`, a teacher with decoding weights tuned on `dev` for that beam, and the weights.

    Args:
        lm: language model; without one decoding is greedy and nothing is tuned.

    Raises:
        InputError: the folder holds another base.
    """
    path, record = out / "base.safetensors", out / "base.json"
    asked = {"teacher": file_sha256(teacher), "lm": lm and lm.name, "beam": beam}
    if record.exists():
        known = json.loads(record.read_text())
        if known["asked"] != asked:
            raise InputError(f"{out}: holds studies of another teacher, language model or beam; choose another --out")
        return path, known["weights"] and Weights(**known["weights"])
    bundle, weights = Bundle.load(teacher), None
    if lm is not None:
        bundle, weights = tune_bundle(bundle, dev, lm, beam_width=beam, beam_threshold=BEAM_THRESHOLD)
    bundle.save(path)
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps({"asked": asked, "weights": weights and asdict(weights)}))
    return path, weights


def epochs_of(trial: Trial, training: Mapping[str, Any]) -> int:
    """Epochs of all stages together."""
    stages = (stage["training"] for stage in trial.stages if "training" in stage)
    return sum(int(stage.get("epochs", training.get("epochs", 0))) for stage in stages)


def _compressed(trial: Trial, seed: int, plan: Plan, say: Callable[[str], None]) -> Path:
    data = {"train": [str(plan.train)], "dev": [str(plan.dev)]} if trial.trains or trial.listens else {}
    student = {} if trial.student is None else {"student": trial.student}
    keys = {"seed": seed, "strict": trial.strict, "training": dict(plan.training), "stages": list(trial.stages)}
    recipe = Recipe.from_json({**data, **student, **keys}, trial.name)
    folder = plan.out / re.sub(r"[^a-z0-9.]+", "-", trial.name.lower()).strip("-") / f"seed-{seed}"
    made = compress(plan.base, recipe, folder, plan.cache, say=say)
    return _with_own_priors(made, plan, folder)


def _with_own_priors(bundle: Bundle, plan: Plan, folder: Path) -> Path:
    """The base's decoding weights serve every variant; what they take from it are the priors of the variant itself."""
    if plan.weights is None:
        return folder / "model.safetensors"
    path, record = folder / "decoded.safetensors", folder / "decoded.json"
    made_of = file_sha256(folder / "model.safetensors")
    if not (record.exists() and json.loads(record.read_text()) == made_of):
        tuned, _ = tune_bundle(bundle, plan.tuning, plan.lm, weights=plan.weights)
        tuned.save(path)
        with atomic_write(record) as temporary:
            temporary.write_text(json.dumps(made_of))
    return path


def _measured(variants: Sequence[Variant], plan: Plan) -> Path:
    """The results file of just these files on these utterances, measured first where it is not there."""
    wanted = [[variant.key, file_sha256(variant.bundle)] for variant in variants]
    key = hashlib.sha256(json.dumps([wanted, plan.test.name, plan.limit]).encode()).hexdigest()[:12]
    path = plan.out / f"results-{key}.jsonl"
    if not (path.exists() and any(line["kind"] == "done" for line in read_lines(path))):
        evaluate(variants, plan.test, path, rounds=1, limit=plan.limit, footprints=False)
    return path


def _section(study: Study, plan: Plan, command: str, scored: Scored, variants: Sequence[Variant]) -> str:
    rows = summarize(scored, baseline=BASELINE)
    epochs = {trial.name: epochs_of(trial, plan.training) for trial in study.trials if trial.trains}
    parts = [f"## {study.title}", study.question, f"    {command}", _how(scored, epochs, plan, len(rows))]
    parts.append(study_table(rows, epochs, study.margin))
    if study.margin is not None:
        parts.append(smallest_within(rows, study.margin))
    contrasts = contrast_table(scored, study.pairs, study.margin)
    if contrasts:
        parts += ["Against each other, paired on the same utterances:", contrasts]
    parts += study.notes
    if study.appendix is not None:
        parts.append(study.appendix(rows, {v.name: Bundle.load(v.bundle) for v in reversed(variants)}))
    return "\n\n".join(parts) + "\n"


def _how(scored: Scored, epochs: Mapping[str, int], plan: Plan, rows: int) -> str:
    """What stands behind the numbers, in one paragraph."""
    run = scored.results.runs[0]
    test, surroundings = run.test_set, run.environment
    words = int(scored.units.words.sum())
    text = (
        f"{test['utterances']} utterances of {test['speakers']} test speakers, {words} words; "
        f"{rows} variants in one run; intervals: {scored.how}; {surroundings['date'][:10]}, "
        f"commit {surroundings['commit']}."
    )
    if not epochs or plan.untrained:
        return text + " Nothing was trained."
    hours = sum(cut.duration for cut in read_manifest(plan.train)) / 3600
    text += (
        f" Epochs are over {hours:.2f} h of speech; every variant that trains had {plan.seeds} "
        f"seed{'s' if plan.seeds > 1 else ''}."
    )
    if plan.seeds < 3:
        text += " Intervals are over speakers and utterances: with so few seeds they say little about another training."
    return text
