"""Results files read back: runs of several machines merged, and refused where they do not compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_compress.evaluation.cost import Cost
from asr_compress.evaluation.environment import machine
from asr_compress.evaluation.records import SCHEMA, read_lines
from asr_compress.evaluation.test_set import Reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.transcript import Timings


@dataclass(frozen=True)
class Run:
    """What a run was: `mode`, `settings`, `test_set` and `environment` as recorded."""

    id: str
    path: Path
    mode: str
    settings: dict[str, Any]
    test_set: dict[str, Any]
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        return machine(self.environment)


@dataclass(frozen=True)
class VariantResult:
    """One variant in one run.

    Attributes:
        record: its variant line: variant, sha256, cost, footprint, agreement, model, history, unavailable.
        texts: utterance id -> text of the first round, or None where it failed.
        failures: utterance id -> why it failed.
        rounds: for each complete round, utterance id -> time of its stages; failed ones are left out.
        unsteady: utterances that later rounds recognized as something else.
        label: what tables call it.
    """

    run: Run
    record: dict[str, Any]
    texts: dict[str, str | None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    rounds: tuple[dict[str, Timings], ...] = ()
    unsteady: int = 0
    label: str = ""

    @property
    def key(self) -> str:
        return str(self.record["key"])

    @property
    def variant(self) -> dict[str, Any]:
        """As asked for: name, backend, device, threads, batch, decoder, seed ..."""
        return dict(self.record["variant"])

    @property
    def unavailable(self) -> str | None:
        """Why the variant could not be run, or None."""
        return self.record.get("unavailable")

    @property
    def cost(self) -> Cost:
        return Cost.from_json(self.record["cost"])


@dataclass(frozen=True)
class Results:
    """Runs on one test set, merged.

    Attributes:
        references: utterance id -> what was to be recognized.
        variants: in the order of the files.
        notes: what a reader must know about the merging.
    """

    runs: tuple[Run, ...]
    references: dict[str, Reference]
    variants: tuple[VariantResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def normalizer(self) -> str:
        return str(self.runs[0].test_set["normalizer"])


def load_results(paths: Sequence[str | Path]) -> Results:
    """Read and merge results files.

    Of a variant that was run twice on one machine the later run counts. Variants of one name on several machines get
    the machine added to their names.

    Raises:
        InputError: not results files; runs of other test sets or normalizers, which do not compare; nothing complete.
    """
    if not paths:
        raise InputError("no results files given; make one with `asr-compress evaluate`")
    collected = [_collect(Path(path)) for path in paths]
    runs = [run for found in collected for run in found.runs.values() if run.mode == "evaluate"]
    if not runs:
        raise InputError(f"{paths[0]}: has no run of `asr-compress evaluate`")
    _check_comparable(runs)
    notes: list[str] = []
    repeated: list[str] = []
    latest: dict[tuple[str, str], VariantResult] = {}
    for found in collected:
        for result in found.results():
            if result.run.mode != "evaluate":
                continue
            if not result.rounds and result.unavailable is None:
                notes.append(f"{result.key}: left out, as its run in {result.run.path.name} was interrupted.")
                continue
            place = (result.key, result.run.machine)
            if place in latest:
                repeated.append(result.key)
            latest[place] = result
    if repeated:
        notes.append(f"Run more than once on one machine, the last counts: {', '.join(dict.fromkeys(repeated))}.")
    if not any(result.rounds for result in latest.values()):
        raise InputError(f"{paths[0]}: no variant was recognized to the end; run the same `evaluate` again to go on")
    used = tuple(dict.fromkeys(id(result.run) for result in latest.values()))
    kept = tuple(run for run in runs if id(run) in used)
    references = next(found.references[run.id] for found in collected for run in kept if run.id in found.references)
    return Results(kept, references, tuple(_labelled(list(latest.values()))), tuple(dict.fromkeys(notes)))


class _Collected:
    """The lines of one file, sorted by run."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.references: dict[str, dict[str, Reference]] = {}
        self.variants: dict[tuple[str, str], dict[str, Any]] = {}
        self.timed: dict[tuple[str, str], dict[int, dict[str, dict[str, Any]]]] = {}

    def results(self) -> Iterator[VariantResult]:
        """All variants of all runs, with their complete rounds."""
        for (run, key), record in self.variants.items():
            rounds = self.timed.get((run, key), {})
            whole = [rounds[r] for r in sorted(rounds) if len(rounds[r]) == len(self.references[run])]
            yield _result(self.runs[run], record, whole)


def _result(run: Run, record: dict[str, Any], rounds: list[dict[str, dict[str, Any]]]) -> VariantResult:
    if not rounds:
        return VariantResult(run, record)
    first = rounds[0]
    return VariantResult(
        run,
        record,
        texts={id: line["text"] for id, line in first.items()},
        failures={id: line["failed"] for id, line in first.items() if line.get("failed")},
        rounds=tuple(
            {
                id: Timings(line["features_s"], line["model_s"], line["decode_s"])
                for id, line in lines.items()
                if line["text"] is not None
            }
            for lines in rounds
        ),
        unsteady=sum(any(lines[id]["text"] != line["text"] for lines in rounds[1:]) for id, line in first.items()),
    )


def _collect(path: Path) -> _Collected:
    found = _Collected()
    for line in read_lines(path):
        run = line.pop("run")
        kind = line.pop("kind")
        try:
            if kind == "run":
                found.runs[run] = _read_run(path, run, line)
                found.references[run] = {}
            elif kind == "reference":
                found.references[run][line["id"]] = Reference(**{**line, "takes": tuple(line["takes"])})
            elif kind == "variant":
                found.variants[run, line["key"]] = line
            elif kind == "timed":
                rounds = found.timed.setdefault((run, line["variant"]), {})
                rounds.setdefault(line["round"], {})[line["id"]] = line
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: a {kind!r} record of run {run!r} is malformed ({error})") from None
    return found


def _read_run(path: Path, id: str, line: dict[str, Any]) -> Run:
    if line["schema"] != SCHEMA:
        raise InputError(f"{path}: results format {line['schema']!r}; this asr_compress reads {SCHEMA!r}")
    return Run(id, path, line["mode"], line["settings"], line["test_set"], line["environment"])


def _check_comparable(runs: Iterable[Run]) -> None:
    first, *others = runs
    for other in others:
        pair = f"{first.path.name} and {other.path.name} do not compare"
        ours, theirs = first.test_set, other.test_set
        if ours["normalizer"] != theirs["normalizer"]:
            raise InputError(
                f"{pair}: texts were normalized by {ours['normalizer']!r} and by {theirs['normalizer']!r}, "
                "which count other words"
            )
        if ours["fingerprint"] != theirs["fingerprint"]:
            raise InputError(
                f"{pair}: {_test_set(ours)} and {_test_set(theirs)} are not the same utterances, texts and speakers"
            )


def _test_set(described: dict[str, Any]) -> str:
    return f"test set {described['name']!r} ({described['utterances']} utterances, {described['fingerprint']})"


def _labelled(results: list[VariantResult]) -> Iterator[VariantResult]:
    several = len({result.run.machine for result in results}) > 1
    keys = [result.key for result in results]
    for result in results:
        name = str(result.variant["name"])
        label = f"{name} @ {result.run.machine}" if several and keys.count(result.key) > 1 else name
        yield replace(result, label=label)
