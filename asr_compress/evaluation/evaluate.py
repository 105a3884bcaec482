"""Recognize a test set with several variants side by side, timing every utterance and keeping every text.

Variants take turns by blocks of utterances, A B C, then B C A, in one process, so that a machine that slows down slows
all of them; the whole test set is gone through several rounds, and a table gives the median round with the fastest and
the slowest. The texts that are scored are those of the timed recognition. Files are read between the timed parts.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asr_compress.evaluation.environment import environment, machine
from asr_compress.evaluation.prepare import Prepared, prepare, quiet
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.records import SCHEMA, Journal, read_lines
from asr_compress.evaluation.test_set import Reference, TestSet, batches, load_test_set
from asr_compress.evaluation.timing import ThreadPinning, rotated
from asr_compress.evaluation.variants import Variant, check_unique, file_sha256
from asr_compress.runtime.errors import InputError

_LEAST_BLOCK = 24  # utterances a turn: enough that a variant's weights are in the caches for most of them
_KEPT_AUDIO_S = 4 * 3600  # samples of so much audio stay in memory between rounds: about 1 GB
_console = Console(stderr=True)


@dataclass(frozen=True)
class Finished:
    """A complete run.

    Attributes:
        path, run: the results file and the run's id in it.
        wall_s: from start to end, over all sessions of a run that was gone on with.
        setup_s: loading, warming up, comparing, footprints.
        timed_s: inside timed scopes.  read_s: reading audio files.
    """

    path: Path
    run: str
    wall_s: float
    setup_s: float
    timed_s: float
    read_s: float

    @property
    def overhead(self) -> float:
        """Share of the time after set-up that is neither recognition nor reading."""
        rest = self.wall_s - self.setup_s
        return max(0.0, rest - self.timed_s - self.read_s) / rest if rest > 0 else 0.0


def evaluate(
    variants: Sequence[Variant],
    manifest: str | Path,
    out: str | Path,
    rounds: int = 3,
    limit: int | None = None,
    warmup: int = 3,
    pin_cores: bool = True,
    footprints: bool = True,
    progress: bool = True,
    fresh: bool = False,
) -> Finished:
    """Recognize every utterance of a manifest with every variant and append what came out to a results file.

    A run that was interrupted is gone on with if it is asked for again in the same words on the same machine; one that
    was completed is not repeated.

    Args:
        out: JSONL; see `records`.
        rounds: times that the whole test set is recognized by each variant.
        limit: take only so many utterances, for a quick look.
        warmup: utterances recognized by each variant before anything is timed.
        pin_cores: keep the process on as many cores as a variant has threads.
        footprints: measure memory and loading time in fresh processes.
        fresh: begin a new run in any case.

    Raises:
        InputError: see `Variant`, `load_test_set`; no audio that can be read.
    """
    if rounds < 1 or warmup < 1:
        raise InputError(f"rounds and warmup must be 1 or more, got {rounds} and {warmup}")
    check_unique(variants)
    test_set = load_test_set(manifest, limit)
    settings = {"rounds": rounds, "warmup": warmup, "pin_cores": pin_cores, "scope": "e2e"}
    surroundings = environment(uses_gpu=any(variant.device.startswith("cuda") for variant in variants))
    key = run_key("evaluate", variants, test_set, settings, surroundings)
    path = Path(out)
    earlier = {} if fresh else find_run(path, key)
    if "done" in earlier:
        _console.print(f"{path}: this run is there already, complete; pass fresh=True to repeat it", soft_wrap=True)
        return Finished(path, earlier["id"], **earlier["done"])
    run = earlier.get("id") or uuid.uuid4().hex[:12]
    journal = Journal(path, run)
    if not earlier:
        journal.write(opening(run, key, "evaluate", test_set, settings, surroundings))
    session = _Session(test_set, variants, journal, settings, earlier.get("spent", {}), progress)
    try:
        session.prepare(earlier.get("variants", {}), footprints)
        session.run(earlier.get("blocks", set()))
        return session.finish()
    finally:
        journal.close()


def opening(
    run: str, key: str, mode: str, test_set: TestSet, settings: dict[str, Any], surroundings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The first lines of a run."""
    yield {
        "kind": "run",
        "schema": SCHEMA,
        "id": run,
        "key": key,
        "mode": mode,
        "settings": settings,
        "test_set": {
            "name": test_set.name,
            "fingerprint": test_set.fingerprint,
            "normalizer": test_set.normalizer,
            "utterances": len(test_set.references),
            "speakers": len({reference.speaker for reference in test_set.references}),
            "audio_s": test_set.audio_s,
        },
        "environment": surroundings,
    }
    for reference in test_set.references:
        yield {"kind": "reference", **asdict(reference)}


def run_key(
    mode: str, variants: Sequence[Variant], test_set: TestSet, settings: dict[str, Any], surroundings: dict[str, Any]
) -> str:
    """Equal for two runs exactly if the second would repeat the first: same request, same files, same machine."""
    files = {path: file_sha256(path) for v in variants for path in (v.bundle, v.lm) if path is not None}
    wanted = [{**v.to_json(), "sha256": [files[p] for p in (v.bundle, v.lm) if p is not None]} for v in variants]
    where = [machine(surroundings), surroundings["packages"], surroundings["commit"]]
    everything = [mode, wanted, test_set.fingerprint, test_set.normalizer, settings, where]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def find_run(path: Path, key: str) -> dict[str, Any]:
    """What is there of the last run with this key: id, variants' records, blocks timed, times spent, done."""
    found: dict[str, Any] = {}
    if not path.exists():
        return found
    for line in read_lines(path):
        if line["kind"] == "run" and line["key"] == key:
            found = {"id": line["run"], "variants": {}, "blocks": set(), "spent": {}}
        elif not found or line["run"] != found["id"]:
            continue
        elif line["kind"] == "variant":
            found["variants"][line["key"]] = {k: v for k, v in line.items() if k != "run"}
        elif line["kind"] == "timed" and "spent" in line:  # the last of a block
            found["blocks"].add((line["round"], line["block"]))
            found["spent"] = line["spent"]
        elif line["kind"] == "done":
            found["done"] = {name: line[name] for name in ("wall_s", "setup_s", "timed_s", "read_s")}
    return found


class _Session:
    """One process's work on a run."""

    def __init__(
        self,
        test_set: TestSet,
        variants: Sequence[Variant],
        journal: Journal,
        settings: dict[str, Any],
        earlier: dict[str, float],
        progress: bool,
    ) -> None:
        self.test_set, self.variants, self.journal = test_set, variants, journal
        self.rounds, self.warmup = int(settings["rounds"]), int(settings["warmup"])
        self.pin_cores = bool(settings["pin_cores"])
        self.earlier = earlier
        self.progress = progress
        self.ready: dict[str, Recognition] = {}
        self.audio: dict[int, dict[str, np.ndarray | str]] = {}
        self.started = time.perf_counter()
        self.pinning = ThreadPinning(self.pin_cores)
        self.setup_s = self.timed_s = self.read_s = 0.0

    def prepare(self, known: dict[str, dict[str, Any]], footprints: bool) -> None:
        """Load the variants and write the records that are not there yet."""
        tell: Callable[[str], None] = _console.print if self.progress else lambda _: None
        prepared = prepare(self.variants, self._warm_up_audio, footprints and not known, tell)
        self.journal.write(item.record for key, item in prepared.items() if key not in known)
        for key, item in prepared.items():
            if item.recognition is not None:
                self.ready[key] = item.recognition
            else:
                tell(f"{key}: n/a: {item.record['unavailable']}")
        self.pinning = ThreadPinning(self.pin_cores)  # now that the engines have brought their pools
        self.setup_s = time.perf_counter() - self.started
        self._tell_plan(prepared, tell)

    def run(self, timed: set[tuple[int, int]]) -> None:
        """All rounds over all blocks that are not timed yet."""
        blocks = self._blocks()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        # Refreshed between blocks only: a thread that draws ten times a second would be in the measurements.
        bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True),
            console=_console, auto_refresh=False, disable=not self.progress, speed_estimate_period=600,
        )  # fmt: skip
        with bar:
            task = bar.add_task("evaluating", total=self.rounds * sum(_audio_s(block) for block in blocks))
            for round_ in range(self.rounds):
                for number, block in enumerate(blocks):
                    bar.update(task, description=f"round {round_ + 1} of {self.rounds}")
                    if (round_, number) not in timed:
                        self._block(round_, number, block)
                    bar.advance(task, _audio_s(block))
                    bar.refresh()

    def finish(self) -> Finished:
        """Write that the run is complete."""
        spent = self._spent()
        self.journal.write([{"kind": "done", **spent}])
        finished = Finished(self.journal.path, self.journal.run, **spent)
        if self.progress:
            _console.print(
                f"took {finished.wall_s:.0f} s: {finished.setup_s:.0f} preparing, {finished.timed_s:.0f} recognizing, "
                f"{finished.read_s:.0f} reading files; the harness itself {100 * finished.overhead:.1f} %"
            )
        return finished

    def _block(self, round_: int, number: int, block: list[Reference]) -> None:
        """One block, every variant in its turn. Only the last of its lines says what was spent: then it is whole."""
        lines: list[dict[str, Any]] = []
        for key in rotated(list(self.ready), round_ + number):
            recognition = self.ready[key]
            audio = self._read(block, recognition.sample_rate_hz)
            with self.pinning.threads(recognition.variant.threads), quiet():
                found = [
                    line
                    for batch in batches(block, recognition.variant.batch)
                    for line in recognize_batch(recognition, batch, audio)
                ]
            self.timed_s += sum(line["features_s"] + line["model_s"] + line["decode_s"] for line in found)
            lines += [{"kind": "timed", "variant": key, "round": round_, "block": number, **line} for line in found]
        if lines:
            lines[-1]["spent"] = self._spent()
        self.journal.write(lines)
        self._forget_audio()

    def _blocks(self) -> list[list[Reference]]:
        size = max([_LEAST_BLOCK, *(4 * recognition.variant.batch for recognition in self.ready.values())])
        references = self.test_set.references
        return [list(references[start : start + size]) for start in range(0, len(references), size)]

    def _read(self, block: list[Reference], sample_rate_hz: int) -> dict[str, np.ndarray | str]:
        started = time.perf_counter()
        kept = self.audio.setdefault(sample_rate_hz, {})
        missing = [reference for reference in block if reference.id not in kept]
        if missing:
            kept.update(self.test_set.read(missing, sample_rate_hz))
        self.read_s += time.perf_counter() - started
        return kept

    def _forget_audio(self) -> None:
        if self.test_set.audio_s * len(self.audio) > _KEPT_AUDIO_S:
            self.audio.clear()

    def _warm_up_audio(self, sample_rate_hz: int) -> list[np.ndarray]:
        """Utterances to warm up with: the first ones that can be read, and the longest last."""
        readable = [reference for reference in self.test_set.references if reference.broken is None]
        longest = sorted(readable, key=lambda reference: -reference.duration_s)
        for candidates in (readable[: self.warmup], readable):
            audio = self._read(candidates, sample_rate_hz)
            samples = [audio[reference.id] for reference in candidates]
            heard = [waveform for waveform in samples if isinstance(waveform, np.ndarray)]
            if heard:
                break
        else:
            raise InputError(f"{self.test_set.name}: no utterance has audio that can be read")
        last = self._read(longest[:1], sample_rate_hz)[longest[0].id]
        return [*heard[: self.warmup], *([last] if isinstance(last, np.ndarray) else [])]

    def _tell_plan(self, prepared: dict[str, Prepared], tell: Callable[[str], None]) -> None:
        """How long it will take, by the warm-up."""
        minutes = self.rounds * sum(item.rtf for item in prepared.values()) * self.test_set.audio_s / 60
        tell(
            f"{len(self.ready)} of {len(prepared)} variants, {len(self.test_set.references)} utterances, "
            f"{self.test_set.audio_s / 3600:.2f} h of audio, {self.rounds} rounds: about {minutes:.1f} min"
        )

    def _spent(self) -> dict[str, float]:
        spent = {
            "wall_s": time.perf_counter() - self.started,
            "setup_s": self.setup_s,
            "timed_s": self.timed_s,
            "read_s": self.read_s,
        }
        return {name: seconds + self.earlier.get(name, 0.0) for name, seconds in spent.items()}


def recognize_batch(
    recognition: Recognition, batch: Sequence[Reference], audio: dict[str, np.ndarray | str]
) -> list[dict[str, Any]]:
    """Recognize utterances together; one dict each, the time of the whole shared out by duration.

    What fails, fails alone: it has no text and a reason, and counts as deletions.
    """
    heard = [(reference, samples) for reference in batch if isinstance(samples := audio[reference.id], np.ndarray)]
    unread = [(reference, reason) for reference in batch if isinstance(reason := audio[reference.id], str)]
    lines = [_failed(reference, reason) for reference, reason in unread]
    if not heard:
        return lines
    try:
        result = recognition.recognize([samples for _, samples in heard])
    except Exception as error:  # one bad utterance must not end the run; the reason is kept and counted
        if len(heard) == 1:
            return [*lines, _failed(heard[0][0], f"{type(error).__name__}: {error}")]
        return lines + [line for reference, _ in heard for line in recognize_batch(recognition, [reference], audio)]
    total = sum(len(samples) for _, samples in heard)
    for (reference, samples), text in zip(heard, result.texts, strict=True):
        share = len(samples) / total if total else 1 / len(heard)
        times = {name: round(seconds * share, 9) for name, seconds in asdict(result.times).items()}
        lines.append({"id": reference.id, "text": text, **times})
    return lines


def _failed(reference: Reference, reason: str) -> dict[str, Any]:
    return {"id": reference.id, "text": None, "failed": reason, "features_s": 0.0, "model_s": 0.0, "decode_s": 0.0}


def _audio_s(block: Sequence[Reference]) -> float:
    return sum(reference.duration_s for reference in block)
