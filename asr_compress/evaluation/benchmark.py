"""Speed beyond one utterance at a time: batches on a server, streams on a device.

Throughput: all utterances in batches of growing size, in the order they come or bucketed by length, which saves
padding. Streaming: each utterance in chunks as a microphone gives them; what matters is the time a chunk takes and how
long after the last one the text is final.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from asr_compress.evaluation.environment import environment
from asr_compress.evaluation.evaluate import Finished, evaluate, opening, run_key
from asr_compress.evaluation.prepare import prepare, quiet
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.records import Journal
from asr_compress.evaluation.test_set import Reference, TestSet, batches, load_test_set
from asr_compress.evaluation.timing import ThreadPinning, rotated
from asr_compress.evaluation.variants import Variant, check_unique
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import is_streaming
from asr_compress.runtime.recognizer import Recognizer
from asr_compress.runtime.transcript import Timings

Mode = Literal["latency", "throughput", "streaming"]
MODES: tuple[Mode, ...] = ("latency", "throughput", "streaming")
ORDERS = ("as given", "bucketed")
_console = Console(stderr=True)


@dataclass(frozen=True)
class Sweep:
    """What a benchmark tries.

    Attributes:
        batches: batch sizes of throughput.
        chunks_s: lengths of the pieces of streaming.
        look_aheads_s: further audio that a piece of a model that reads backwards sees; other models need none.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    chunks_s: tuple[float, ...] = (0.1, 0.32)
    look_aheads_s: tuple[float, ...] = (0.32,)


def benchmark(
    variants: Sequence[Variant],
    manifest: str | Path,
    out: str | Path,
    mode: Mode = "latency",
    limit: int | None = 200,
    rounds: int = 3,
    sweep: Sweep | None = None,
    pin_cores: bool = True,
    progress: bool = True,
) -> Finished:
    """Time variants side by side on a part of a test set and append to a results file.

    Args:
        mode: "latency" is `evaluate` on that part; see the module for the others.
        limit: utterances, the first of the shuffled order; None for all.

    Raises:
        InputError: as `evaluate`; an unknown mode; nothing that can stream.
    """
    if mode not in MODES:
        raise InputError(f"benchmark mode is {mode!r}; choose one of {', '.join(MODES)}")
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; it must be 1 or more")
    if mode == "latency":
        return evaluate(variants, manifest, out, rounds, limit, pin_cores=pin_cores, progress=progress)
    check_unique(variants)
    bench = _Bench(variants, load_test_set(manifest, limit), rounds, sweep or Sweep(), pin_cores, progress)
    return bench.run(mode, Path(out))


class _Bench:
    """One run of a benchmark."""

    def __init__(
        self,
        variants: Sequence[Variant],
        test_set: TestSet,
        rounds: int,
        sweep: Sweep,
        pin_cores: bool,
        progress: bool,
    ) -> None:
        self.variants, self.test_set, self.rounds = variants, test_set, rounds
        self.sweep, self.pin_cores, self.progress = sweep, pin_cores, progress
        self.audio: dict[int, dict[str, np.ndarray]] = {}
        self.read_s = 0.0

    def run(self, mode: Mode, path: Path) -> Finished:
        """Prepare, time, write."""
        started = perf_counter()
        settings = {"rounds": self.rounds, "pin_cores": self.pin_cores, "scope": "e2e"}
        surroundings = environment(uses_gpu=any(variant.device.startswith("cuda") for variant in self.variants))
        key = run_key(mode, self.variants, self.test_set, settings, surroundings)
        prepared = prepare(self.variants, self._warm_up, False, _console.print if self.progress else lambda _: None)
        ready = {name: item.recognition for name, item in prepared.items() if item.recognition is not None}
        records = [item.record for item in prepared.values()]
        streams = self._streams(ready, records) if mode == "streaming" else {}
        if not (streams if mode == "streaming" else ready):
            raise InputError(f"no variant can be run: {'; '.join(str(r.get('unavailable')) for r in records)}")
        pinning = ThreadPinning(self.pin_cores)
        journal = Journal(path, uuid.uuid4().hex[:12])
        setup_s = perf_counter() - started
        timed_s = 0.0
        try:
            journal.write(opening(journal.run, key, mode, self.test_set, settings, surroundings))
            journal.write(records)
            lines = self._throughput(ready, pinning) if mode == "throughput" else self._streaming(streams, pinning)
            for line in lines:
                journal.write([line])
                timed_s += line["seconds"]
            wall_s = perf_counter() - started
            spent = {"wall_s": wall_s, "setup_s": setup_s, "timed_s": timed_s, "read_s": self.read_s}
            journal.write([{"kind": "done", **spent}])
        finally:
            journal.close()
        return Finished(path, journal.run, **spent)

    # Throughput

    def _throughput(self, ready: dict[str, Recognition], pinning: ThreadPinning) -> Iterator[dict[str, Any]]:
        cases = [(key, size, order) for size in self.sweep.batches for order in ORDERS for key in ready]
        plan = [(round_, case) for round_ in range(self.rounds) for case in rotated(cases, round_)]
        for round_, (key, size, order) in track(
            plan, "throughput", console=_console, disable=not self.progress, auto_refresh=False
        ):
            recognition = ready[key]
            audio = self._audio(recognition.sample_rate_hz)
            heard = [reference for reference in self.test_set.references if reference.id in audio]
            parts = _in_batches(heard, size, order)
            case = {"kind": "throughput", "variant": key, "batch": size, "order": order, "round": round_}
            try:
                with pinning.threads(recognition.variant.threads), quiet():
                    times = [recognition.recognize([audio[r.id] for r in batch]).times for batch in parts]
            except Exception as error:  # a batch may be too large for a device; smaller ones go on
                yield {**case, "seconds": 0.0, "failed": f"{type(error).__name__}: {error}"}
                continue
            total = sum(times, Timings())
            yield {
                **case,
                "audio_s": sum(reference.duration_s for reference in heard),
                "seconds": total.total_s,
                **asdict(total),
                "padding": padding(parts),
            }

    # Streaming

    def _streams(self, ready: dict[str, Recognition], records: list[dict[str, Any]]) -> dict[str, Recognizer]:
        """The variants that can stream; the others get their reason."""
        streams = {}
        for record in records:
            recognition = ready.get(record["key"])
            if recognition is None:
                continue
            backend = recognition.variant.backend
            if backend not in ("native", "reference"):
                record["unavailable"] = f"{backend} keeps no state between chunks; streams run on the native engine"
                continue
            streams[record["key"]] = Recognizer(
                recognition.bundle, recognition.decoder, backend, recognition.variant.threads
            )
        return streams

    def _streaming(self, streams: dict[str, Recognizer], pinning: ThreadPinning) -> Iterator[dict[str, Any]]:
        whole: dict[tuple[str, str], str] = {}
        plan = [
            (reference, key, chunk_s, look_ahead_s)
            for reference in self.test_set.references
            for chunk_s in self.sweep.chunks_s
            for key, recognizer in streams.items()
            for look_ahead_s in ([None] if is_streaming(recognizer.bundle.network) else self.sweep.look_aheads_s)
        ]
        for reference, key, chunk_s, look_ahead_s in track(
            plan, "streaming", console=_console, disable=not self.progress, auto_refresh=False
        ):
            recognizer = streams[key]
            samples = self._audio(recognizer.bundle.features.sample_rate_hz).get(reference.id)
            if samples is None:
                continue
            if (key, reference.id) not in whole:
                whole[key, reference.id] = recognizer.transcribe(
                    samples, recognizer.bundle.features.sample_rate_hz
                ).text
            with pinning.threads(1), quiet():
                line = stream_once(recognizer, samples, chunk_s, look_ahead_s)
            same = line["text"] == whole[key, reference.id]
            yield {"kind": "stream", "variant": key, "id": reference.id, **line, "same_as_whole": same}

    # Audio

    def _audio(self, sample_rate_hz: int) -> dict[str, np.ndarray]:
        if sample_rate_hz not in self.audio:
            started = perf_counter()
            read = self.test_set.read(self.test_set.references, sample_rate_hz)
            self.audio[sample_rate_hz] = {id: found for id, found in read.items() if isinstance(found, np.ndarray)}
            self.read_s += perf_counter() - started
        return self.audio[sample_rate_hz]

    def _warm_up(self, sample_rate_hz: int) -> list[np.ndarray]:
        audio = sorted(self._audio(sample_rate_hz).values(), key=len)
        if not audio:
            raise InputError(f"{self.test_set.name}: no utterance has audio that can be read")
        return [audio[len(audio) // 2], audio[-1]]


def stream_once(
    recognizer: Recognizer, samples: np.ndarray, chunk_s: float, look_ahead_s: float | None
) -> dict[str, Any]:
    """Stream one utterance as fast as it goes.

    Args:
        look_ahead_s: for a model that reads backwards; None for others.

    Returns:
        text; chunks_s, the time that each chunk took, its partial text included; finish_s, from the end of the last
        chunk's work to the final text; wait_s, the longest that the model itself waits for later sound.
    """
    rate_hz = recognizer.bundle.features.sample_rate_hz
    live = recognizer.stream(chunk_s=None if look_ahead_s is None else chunk_s, look_ahead_s=look_ahead_s)
    step = max(1, round(chunk_s * rate_hz))
    chunks_s = []
    for start in range(0, len(samples), step):
        before = perf_counter()
        live.push(samples[start : start + step])
        live.partial()
        chunks_s.append(perf_counter() - before)
    before = perf_counter()
    text = live.finish()[-1].text
    finish_s = perf_counter() - before
    return {
        "chunk_s": chunk_s,
        "look_ahead_s": look_ahead_s,
        "text": text,
        "audio_s": len(samples) / rate_hz,
        "chunks_s": [round(seconds, 7) for seconds in chunks_s],
        "finish_s": finish_s,
        "wait_s": live.latency_s,
        "seconds": sum(chunks_s) + finish_s,
    }


def padding(parts: Sequence[Sequence[Reference]]) -> float:
    """Share of a padded batch that is padding, over all batches, by duration."""
    spoken = sum(reference.duration_s for batch in parts for reference in batch)
    padded = sum(len(batch) * max(reference.duration_s for reference in batch) for batch in parts)
    return 1 - spoken / padded if padded else 0.0


def _in_batches(references: Sequence[Reference], size: int, order: str) -> list[list[Reference]]:
    if order == "bucketed":
        return batches(references, size)
    return [list(references[start : start + size]) for start in range(0, len(references), size)]
