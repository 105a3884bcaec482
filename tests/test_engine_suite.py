"""The engine's benchmark, on a shape that takes no time: everything it prints is there, and bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from asr_compress import cli
from asr_compress.runtime.extension import instruction_sets

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native engine was not built here")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["benchmark", *arguments])
    return int(ended.value.code or 0)


def test_the_suite_measures_peers_roofline_lengths_and_shares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = pytest.importorskip("benchmarks.engine", reason="the source tree's benchmarks, with torch")
    from benchmarks import engine_checks, engine_roofline

    monkeypatch.setattr(engine, "PEERS", {"torch float32": engine.PEERS["torch float32"]})
    monkeypatch.setattr(engine_checks, "ZOO", ("lstm-tiny",))
    monkeypatch.setattr(engine_roofline, "_SLOT_S", 0.001)
    monkeypatch.setattr(engine_checks.lengths, "__defaults__", ((50, 100),))
    assert run("--suite", "engine", "--shape", "2xBiLSTM-32-p16", "--batch", "2", "--rounds", "1", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    (case,) = record["cases"]
    assert case["shape"] == {"hidden": 32, "layers": 2, "bidirectional": True, "projection": 16} and case["batch"] == 2
    names = {timing["name"] for timing in case["timings"] if timing["times_s"]}
    assert names >= {"torch float32", "asr_compress int8", "asr_compress 90 % blocks int8"}
    assert {check["check"] for check in record["checks"]} >= {"length", "shares"}
    assert record["roofline"][0]["hidden"] == 32


def test_only_peers_that_are_far_behind_take_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = pytest.importorskip("benchmarks.engine", reason="the source tree's benchmarks, with torch")
    usual = {"near": 1.0, "far": 9.0, f"{engine.OWN} int8": 9.0}
    first = dict.fromkeys(usual, 50.0)  # a bad moment decides nothing
    monkeypatch.setattr(engine, "_seconds", lambda name, x: first.pop(name, usual[name]))
    monkeypatch.setattr(engine, "_LEAST_S", 0.0)
    x = np.zeros(1, np.float32)
    times = engine._interleave({name: name for name in usual}, x, x, rounds=4)
    assert {name: len(taken) for name, taken in times.items()} == {"near": 4, "far": 1, f"{engine.OWN} int8": 4}


def test_names_of_shapes_are_read_back() -> None:
    shapes = pytest.importorskip("benchmarks.engine_shapes")
    for shape in (*shapes.FIXED, *shapes.drawn(3)):
        assert shapes.Shape.named(shape.name) == shape
    with pytest.raises(ValueError, match="no shape"):
        shapes.Shape.named("5xGRU-7")


def test_outside_of_the_source_tree_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asr_compress.cli.measure.__file__", str(tmp_path / "asr_compress" / "cli" / "measure.py"))
    assert run("--suite", "engine") == 2
    assert "clone the repository" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("--suite", "kernels"), ("m.safetensors", "--data", "x.jsonl.gz")])
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "engine" in capsys.readouterr().err


def test_what_structured_pruning_is_worth_on_every_engine(tmp_path: Path) -> None:
    structured = pytest.importorskip("benchmarks.structured", reason="the source tree's benchmarks, with torch")
    words = ["--models", "lstm-tiny", "--frames", "20", "--rounds", "1", "--json", str(tmp_path / "found.json")]
    structured.main(words)
    found = json.loads((tmp_path / "found.json").read_text())
    native = {row["variant"]: row for row in found["rows"] if row["engine"] == "native"}
    assert native["50 % of units"]["weights_bytes"] < 0.5 * native["whole"]["weights_bytes"]
    assert native["last LSTM layer"]["weights_bytes"] < native["whole"]["weights_bytes"]
    text = (tmp_path / "found.md").read_text()
    assert "| torch | 25 % of units |" in text and "--frames 20" in text
