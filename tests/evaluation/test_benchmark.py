"""Benchmarks: batches, streams, and device paths without the device."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from asr_compress.evaluation import recognition as recognition_module
from asr_compress.evaluation.backends import BACKENDS
from asr_compress.evaluation.benchmark import Sweep, benchmark, padding, stream_once
from asr_compress.evaluation.benchmark_report import benchmark_tables
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.records import read_lines
from asr_compress.evaluation.stopwatch import ClockStopwatch, EventStopwatch, stopwatch
from asr_compress.evaluation.test_set import Reference
from asr_compress.evaluation.timing import Spread, ThreadPinning, percentiles, rotated
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.recognizer import Recognizer
from tests.evaluation import engines
from tests.evaluation.bundles import bundle, noise_set


@pytest.fixture(autouse=True)
def _quick_engine(monkeypatch):
    monkeypatch.setitem(BACKENDS, "quick", engines.quick(devices=("cpu", "cuda")))


def run(*arguments, **options):
    return benchmark(*arguments, progress=False, pin_cores=False, **options)


def test_throughput_sweeps_batches_and_orders(tmp_path, monkeypatch):
    class Limited(engines.Quick):
        def run(self, batch):
            if len(batch) > 4:
                raise MemoryError("too large a batch")
            return super().run(batch)

    monkeypatch.setitem(BACKENDS, "limited", engines.quick(model=Limited))
    monkeypatch.setitem(BACKENDS, "missing", engines.missing("no kernel"))
    out, path = tmp_path / "r.jsonl", bundle(tmp_path)
    variants = [Variant("a", path, "quick"), Variant("b", path, "limited"), Variant("c", path, "missing")]
    finished = run(variants, noise_set(tmp_path, broken=1), out, "throughput", rounds=2, sweep=Sweep(batches=(1, 8)))
    lines = [line for line in read_lines(out) if line["kind"] == "throughput"]
    assert len(lines) == 2 * 2 * 2 * 2
    by_case = {(line["variant"], line["batch"], line["order"]): line for line in lines}
    assert by_case["a", 1, "as given"]["padding"] == pytest.approx(0, abs=1e-9)
    assert 0 < by_case["a", 8, "bucketed"]["padding"] < by_case["a", 8, "as given"]["padding"]
    assert by_case["b", 8, "bucketed"]["failed"] == "MemoryError: too large a batch"
    assert finished.timed_s == pytest.approx(sum(line["seconds"] for line in lines))
    table = benchmark_tables([out])[0]
    assert len(table.rows) == 2 * 2 + 2
    notes = "\n".join(table.notes)
    assert "b, batch 8, bucketed: n/a, MemoryError" in notes and "c: n/a, no kernel" in notes
    assert table.markdown().count("\n| ") >= 6


def test_padding_is_the_share_of_frames_that_are_none():
    spoken = [Reference(str(i), "s", seconds, "") for i, seconds in enumerate((1.0, 3.0, 2.0, 2.0))]
    assert padding([spoken[:2], spoken[2:]]) == pytest.approx(1 - 8 / 10)
    assert padding([[s] for s in spoken]) == 0


def test_streaming_counts_chunks_and_says_the_same(tmp_path):
    out = tmp_path / "r.jsonl"
    one_way = bundle(tmp_path, "one_way", bidirectional=False, hidden=8)
    both_ways = bundle(tmp_path, "both_ways", hidden=8)
    variants = [
        Variant("one way", one_way, "reference"),
        Variant("both ways", both_ways, "reference"),
        Variant("peer", one_way, "quick"),
    ]
    sweep = Sweep(chunks_s=(0.1, 0.25), look_aheads_s=(0.2,))
    run(variants, noise_set(tmp_path, utterances=4), out, "streaming", sweep=sweep)
    lines = [line for line in read_lines(out) if line["kind"] == "stream"]
    assert len(lines) == 4 * 2 * 2
    for line in lines:
        assert len(line["chunks_s"]) == int(np.ceil(round(line["audio_s"] / line["chunk_s"], 6)))
        if line["variant"] == "one way":
            assert line["same_as_whole"] and line["look_ahead_s"] is None
    table = benchmark_tables([out])[0]
    assert [row["look-ahead ms"] for row in table.rows] == ["0", "200", "0", "200"]
    assert any("peer: n/a" in note and "state between chunks" in note for note in table.notes)
    with pytest.raises(InputError, match="no variant can be run: quick keeps no state"):
        run(variants[2:], tmp_path / "manifests" / "test.jsonl.gz", out, "streaming")


def test_stream_equals_transcribe(tmp_path):
    recognizer = Recognizer.load(bundle(tmp_path, bidirectional=False, hidden=8), backend="reference")
    samples = np.random.default_rng(1).normal(size=9000).astype(np.float32) * 0.1
    line = stream_once(recognizer, samples, 0.05, None)
    assert line["text"] == recognizer.transcribe(samples).text
    assert line["seconds"] == pytest.approx(sum(line["chunks_s"]) + line["finish_s"], abs=1e-4)


def test_latency_is_an_evaluation_and_benchmarks_join_the_report(tmp_path):
    out, path, manifest = tmp_path / "r.jsonl", bundle(tmp_path, hidden=8), noise_set(tmp_path)
    variants = [Variant("a", path, "quick")]
    run(variants, manifest, out, "latency", limit=5, rounds=2)
    run(variants, manifest, out, "throughput", limit=5, rounds=1, sweep=Sweep(batches=(2,)))
    report = compare([out], tmp_path / "report")
    assert report.rows[0].name == "a" and len(report.benchmarks) == 1
    assert "Throughput: 5 utterances" in report.files["md"].read_text()
    console = Console(width=120, record=True)
    report.show(console)
    assert "RTFx of the model" in console.export_text()


def test_bad_input(tmp_path):
    variants = [Variant("a", bundle(tmp_path), "quick")]
    with pytest.raises(InputError, match="mode is 'fast'; choose one of latency, throughput, streaming"):
        run(variants, noise_set(tmp_path), tmp_path / "r.jsonl", "fast")
    with pytest.raises(InputError, match="rounds is 0"):
        run(variants, tmp_path / "manifests" / "test.jsonl.gz", tmp_path / "r.jsonl", "throughput", rounds=0)


class Queue:
    """A device that finishes work later: events are passed when somebody waits."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.waited = 0

    def event(self):
        queue = self

        class Event:
            def record(self) -> None:
                self.at_ms = queue.now_ms

            def synchronize(self) -> None:
                queue.waited += 1

            def elapsed_time(self, end) -> float:
                return end.at_ms - self.at_ms

        return Event()


def test_device_path_times_by_events(tmp_path, monkeypatch):
    queue = Queue()

    class OnDevice(engines.Quick):
        def run(self, batch):
            queue.now_ms += 7.0
            return super().run(batch)

    monkeypatch.setitem(BACKENDS, "gpu", engines.quick(model=OnDevice, devices=("cpu", "cuda")))
    monkeypatch.setattr(recognition_module, "stopwatch", lambda device: EventStopwatch(queue.event))
    out = tmp_path / "r.jsonl"
    path = bundle(tmp_path)
    variants = [Variant("on the device", path, "gpu", "cuda"), Variant("on the CPU", path, "gpu")]
    evaluate(variants, noise_set(tmp_path), out, rounds=1, progress=False, footprints=False)
    timed = [line for line in read_lines(out) if line["kind"] == "timed"]
    assert all((line["features_s"], line["model_s"], line["decode_s"]) == (0.0, 0.007, 0.0) for line in timed)
    assert queue.waited > 0
    rows = compare([out]).rows
    assert rows[0].gpu_rtfx == rows[1].gpu_rtfx == pytest.approx(rows[0].speed.rtfx.median)


def test_stopwatches():
    assert isinstance(stopwatch("cpu"), ClockStopwatch)
    with pytest.raises(InputError, match="device 'tpu' is unknown"):
        stopwatch("tpu")
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            stopwatch("cuda")


def test_torch_features_equal_the_definition(tmp_path):
    path = bundle(tmp_path)
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1
    ours = Recognition(Variant("a", path, "torch"))
    theirs = Recognition(Variant("b", path, "torch", features="torch"))
    for one, other in zip(ours.features([noise, noise[:100]]), theirs.features([noise, noise[:100]]), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-3)
    assert ours.recognize([noise, noise[:4000]]).texts == theirs.recognize([noise, noise[:4000]]).texts
    with pytest.raises(InputError, match="features by torch need a torch engine"):
        Variant("c", path, "native", features="torch")


def test_statistics_of_times():
    spread = Spread.of([0.2, 0.1, 0.4])
    assert (spread.median, spread.minimum, spread.maximum, spread.count) == (0.2, 0.1, 0.4, 3)
    assert spread.inverse() == Spread(5.0, 2.5, 10.0, 3)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])
    assert percentiles([1.0, 2.0, 3.0]) == {50: 2.0, 90: pytest.approx(2.8)}
    assert set(percentiles(list(range(1000)))) == {50, 90, 99}
    assert percentiles([]) == {}
    turns = [rotated("abc", turn) for turn in range(4)]
    assert turns == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_pinning_is_undone(tmp_path):
    import os

    import torch

    before = os.sched_getaffinity(0), torch.get_num_threads()
    with ThreadPinning().threads(1):
        assert len(os.sched_getaffinity(0)) == 1 and torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before
