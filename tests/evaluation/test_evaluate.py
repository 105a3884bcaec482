"""A run must time what it says, survive what fails, and go on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from asr_compress.evaluation.backends import BACKENDS
from asr_compress.evaluation.evaluate import evaluate
from asr_compress.evaluation.records import Journal, read_lines
from asr_compress.evaluation.test_set import load_test_set
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.errors import InputError
from tests.evaluation import engines
from tests.evaluation.bundles import bundle, noise_set


@pytest.fixture(autouse=True)
def _quick_engine(monkeypatch):
    monkeypatch.setitem(BACKENDS, "quick", engines.quick())


def lines(path: Path, kind: str) -> list[dict]:
    return [line for line in read_lines(path) if line["kind"] == kind]


def run(variants, manifest, out, **options):
    return evaluate(variants, manifest, out, progress=False, footprints=False, pin_cores=False, **options)


def test_known_sleep_comes_out_as_its_real_time_factor(tmp_path, monkeypatch):
    made: list[engines.Sleeper] = []
    monkeypatch.setitem(BACKENDS, "sleep", engines.sleeper(0.2, made))
    out = tmp_path / "results.jsonl"
    path = bundle(tmp_path)
    finished = run([Variant("a", path, "sleep"), Variant("b", path, "sleep")], noise_set(tmp_path), out, rounds=2)
    timed = lines(out, "timed")
    audio_s = 2 * load_test_set(tmp_path / "manifests" / "test.jsonl.gz").audio_s
    for key, model in zip("ab", made, strict=True):
        recorded = [line["model_s"] for line in timed if line["variant"] == key]
        # The engine's own clock: on a busy machine a sleep takes longer than it was asked for. Warm-up came before.
        slept_s = sum(model.calls_s[-len(recorded) :])
        assert slept_s >= 0.2 * 0.9 * audio_s
        assert sum(recorded) / audio_s == pytest.approx(slept_s / audio_s, rel=0.02)
    in_stages = sum(line["features_s"] + line["model_s"] + line["decode_s"] for line in timed)
    assert finished.timed_s == pytest.approx(in_stages, rel=1e-6)


def test_stage_times_follow_the_clock_exactly(tmp_path, monkeypatch):
    """The 2 % of the real-time factor on a clock that does not depend on the machine: here it is exact."""
    from asr_compress.evaluation.recognition import Recognition
    from asr_compress.evaluation.stopwatch import ClockStopwatch

    now = [0.0]

    class Slow:
        def run(self, batch):
            now[0] += 0.3 * sum(len(x) for x in batch) * 0.01
            return [np.zeros((2, 29), np.float32) for _ in batch]

    recognition = Recognition(Variant("a", bundle(tmp_path), "quick"), ClockStopwatch(lambda: now[0]))
    recognition.model = Slow()
    samples = np.random.default_rng(0).normal(size=160240).astype(np.float32)  # 1000 frames
    stages = recognition.recognize([samples]).times
    assert stages.model_s == pytest.approx(0.3 * 10)
    assert stages.total_s == pytest.approx(stages.model_s)
    assert stages.total_s / (len(samples) / 16000) == pytest.approx(0.3, rel=0.02)


def test_variants_take_turns_and_texts_are_those_timed(tmp_path):
    out = tmp_path / "results.jsonl"
    paths = [bundle(tmp_path, "one", seed=1), bundle(tmp_path, "two", seed=2)]
    run([Variant(p.stem, p, "quick") for p in paths], noise_set(tmp_path, utterances=30), out, rounds=2)
    timed = lines(out, "timed")
    order = [(line["round"], line["block"], line["variant"]) for line in timed]
    turns = [turn for i, turn in enumerate(order) if i == 0 or order[i - 1] != turn]
    assert turns == [
        (0, 0, "one"), (0, 0, "two"), (0, 1, "two"), (0, 1, "one"),
        (1, 0, "two"), (1, 0, "one"), (1, 1, "one"), (1, 1, "two"),
    ]  # fmt: skip
    assert len(timed) == 30 * 2 * 2
    texts = {(line["variant"], line["id"]): set() for line in timed}
    for line in timed:
        texts[line["variant"], line["id"]].add(line["text"])
    assert all(len(said) == 1 for said in texts.values())  # every round says the same
    assert len({next(iter(said)) for said in texts.values()}) > 2


def test_broken_files_and_failing_utterances_are_kept_with_their_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "failing", engines.failing(50))
    out = tmp_path / "results.jsonl"
    path = bundle(tmp_path)
    variants = [Variant("good", path, "quick"), Variant("bad", path, "failing", batch=4)]
    run(variants, noise_set(tmp_path, utterances=10, broken=2), out, rounds=1, warmup=1)
    timed = {(line["variant"], line["id"]): line for line in lines(out, "timed")}
    assert len(timed) == 20
    unread = [timed[variant, utterance] for variant in ("good", "bad") for utterance in ("u008", "u009")]
    assert all(line["text"] is None and "not a readable" in line["failed"] for line in unread)
    failed = [line for (v, u), line in timed.items() if v == "bad" and u < "u008" and line["text"] is None]
    assert 0 < len(failed) < 8  # those too long, and no others of their batch
    assert all(line["failed"] == "RuntimeError: out of memory" for line in failed)


def test_unavailable_engine_is_recorded_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "missing", engines.missing("no kernel for it"))
    monkeypatch.setitem(BACKENDS, "wrong", engines.wrong())
    out = tmp_path / "results.jsonl"
    path = bundle(tmp_path)
    variants = [Variant("good", path, "quick"), Variant("none", path, "missing"), Variant("wrong", path, "wrong")]
    run(variants, noise_set(tmp_path), out, rounds=1)
    records = {line["key"]: line for line in lines(out, "variant")}
    assert records["none"]["unavailable"] == "no kernel for it"
    assert "differ from the reference" in records["wrong"]["unavailable"]
    assert "unavailable" not in records["good"]
    assert {line["variant"] for line in lines(out, "timed")} == {"good"}


def test_interrupted_run_is_gone_on_with(tmp_path, monkeypatch):
    out = tmp_path / "results.jsonl"
    manifest = noise_set(tmp_path, utterances=60)
    variants = [Variant("a", bundle(tmp_path), "quick")]
    written = Journal.write
    count = [0]

    def interrupted(self, what):
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        written(self, what)

    monkeypatch.setattr(Journal, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(variants, manifest, out, rounds=2)
    monkeypatch.setattr(Journal, "write", written)
    before = lines(out, "timed")
    assert 0 < len(before) < 120
    with out.open("a") as file:
        file.write('{"kind": "timed", "variant": "a", "ro')  # what a kill in the middle of writing leaves
    finished = run(variants, manifest, out, rounds=2)
    timed = lines(out, "timed")
    assert timed[: len(before)] == before
    assert len(timed) == len({(line["round"], line["id"]) for line in timed}) == 120
    assert len({line["run"] for line in read_lines(out)}) == 1
    second = sum(line["features_s"] + line["model_s"] + line["decode_s"] for line in timed[len(before) :])
    assert finished.timed_s > second  # the first session's time counts too
    size = out.stat().st_size
    again = run(variants, manifest, out, rounds=2)
    assert out.stat().st_size == size and again == finished  # complete runs are not repeated
    run(variants, manifest, out, rounds=1)
    assert len({line["run"] for line in read_lines(out)}) == 2  # another request is another run


def test_overhead_outside_timed_parts_is_small(tmp_path, monkeypatch):
    made: list[engines.Sleeper] = []
    monkeypatch.setitem(BACKENDS, "sleep", engines.sleeper(0.05, made))  # 0.3 to 0.8 s: 15 to 40 ms an utterance
    path = bundle(tmp_path)
    manifest = noise_set(tmp_path, utterances=60)
    finished = run([Variant("a", path, "sleep")], manifest, tmp_path / "results.jsonl", rounds=2)
    assert finished.overhead < 0.1


def test_records_name_no_paths(tmp_path):
    out = tmp_path / "results.jsonl"
    run([Variant("a", bundle(tmp_path), "quick")], noise_set(tmp_path), out, rounds=1)
    assert str(tmp_path) not in out.read_text()
    first = json.loads(out.read_text().split("\n")[0])
    assert first["kind"] == "run" and first["environment"]["cpu"] and first["test_set"]["normalizer"] == "upper"


def test_bad_input(tmp_path):
    manifest = noise_set(tmp_path, utterances=3, broken=3)
    with pytest.raises(InputError, match="no utterance has audio"):
        run([Variant("a", bundle(tmp_path), "quick")], manifest, tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="rounds and warmup"):
        run([Variant("a", bundle(tmp_path), "quick")], manifest, tmp_path / "r.jsonl", rounds=0)
    other = tmp_path / "notes.txt"
    other.write_text("hello\nworld\n")
    with pytest.raises(InputError, match=r"notes.txt:1: not JSON"):
        list(read_lines(other))
    with pytest.raises(InputError, match="no such results file"):
        list(read_lines(tmp_path / "none.jsonl"))
