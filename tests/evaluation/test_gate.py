"""The gate must let through only what is surely within the margin."""

from __future__ import annotations

import random

import pytest

from asr_compress.evaluation.gate import gate
from asr_compress.runtime.errors import InputError
from tests.evaluation.results_files import Made, Spoken, write

WORDS = [f"W{chr(65 + i)}" for i in range(26)]


def spoken(utterances: int) -> list[Spoken]:
    chance = random.Random(0)
    return [Spoken(f"u{i}", " ".join(chance.choices(WORDS, k=8)), f"s{i % 40}") for i in range(utterances)]


def noisy(texts: dict[str, str], rate: float, seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    return {id: " ".join("X" if chance.random() < rate else w for w in text.split()) for id, text in texts.items()}


def results(folder, utterances: int, rates: dict[str, float], teacher_rate: float = 0.3):
    said = spoken(utterances)
    teacher = noisy({s.id: s.text for s in said}, teacher_rate, 1)
    made = [Made("fp32", teacher, (0.1,))]
    made += [Made(name, noisy(teacher, rate, 2 + i), (0.1,)) for i, (name, rate) in enumerate(rates.items())]
    made.append(Made("absent", {}, (), extra={"unavailable": "no kernel"}))
    return write(folder / "results.jsonl", said, made, normalizer="spaces")


def test_gate_passes_the_same_and_fails_the_worse(tmp_path):
    path = results(tmp_path, 500, {"same": 0.0, "slightly": 0.001, "worse": 0.1})
    tested = gate([path], margin=0.02)
    found = {verdict.name: verdict for verdict in tested.verdicts}
    assert found["same"].passed and found["slightly"].passed
    assert not found["worse"].passed and "beyond 2 %" in found["worse"].reason
    assert not found["absent"].passed and "no kernel" in found["absent"].reason
    assert str(found["same"]) == "PASS  same: difference is +0.00 to +0.00 %, within 2 %"
    assert not tested.passed and tested.exit_code == 1
    chosen = gate([path], margin=0.02, candidates=["same"])
    assert chosen.passed and chosen.exit_code == 0


def test_small_test_sets_pass_nothing_by_luck(tmp_path):
    said = spoken(20)
    teacher = noisy({s.id: s.text for s in said}, 0.3, 1)
    lucky = {**teacher, "u0": said[0].text, "u1": said[1].text, "u2": said[2].text}
    path = write(
        tmp_path / "r.jsonl", said, [Made("fp32", teacher, (0.1,)), Made("lucky", lucky, (0.1,))], normalizer="spaces"
    )
    verdict = gate([path], margin=0.01).verdicts[0]
    assert verdict.difference.point < 0 and verdict.difference.high >= 0
    assert not verdict.passed


def test_absolute_margin_for_low_error_rates(tmp_path):
    path = results(tmp_path, 400, {"same": 0.001}, teacher_rate=0.005)
    relative, absolute = gate([path], 0.01, candidates=["same"]), gate([path], 0.005, False, candidates=["same"])
    assert not relative.passed and absolute.passed
    assert "points" in absolute.verdicts[0].reason


def test_baseline_without_errors_needs_an_absolute_margin(tmp_path):
    path = results(tmp_path, 100, {"same": 0.0}, teacher_rate=0.0)
    verdict = gate([path], candidates=["same"]).verdicts[0]
    assert not verdict.passed and "use an absolute margin" in verdict.reason


def test_bad_input(tmp_path):
    path = results(tmp_path, 10, {"same": 0.0})
    with pytest.raises(InputError, match="margin is 1; it must"):
        gate([path], margin=1)
    with pytest.raises(InputError, match="candidate 'nobody'"):
        gate([path], candidates=["nobody"])
    made = Made("fp32", {s.id: s.text for s in spoken(3)}, (0.1,))
    alone = write(tmp_path / "alone.jsonl", spoken(3), [made], "spaces")
    with pytest.raises(InputError, match="nothing to test"):
        gate([alone])
