"""Intervals must contain the truth as often as they say, and paired ones must be paired."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.evaluation import bootstrap
from asr_compress.runtime.errors import InputError


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "interval_coverage.py"
    specification = importlib.util.spec_from_file_location("interval_coverage", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def share(tally) -> float:
    return tally.hits / tally.sets


def test_intervals_cover_the_truth_with_speaker_effects(coverage):
    # 120 sets: a true 95 % coverage gives 0.88 or more with probability 0.999. The full table is in docs/evaluation.md.
    tallies = coverage.speaker_coverage(20, 10, deviation=0.12, spread=0.02, sets=120, resamples=400)
    for name in ("rate", "difference", "relative difference"):
        assert share(tallies[name]) >= 0.88, name
    assert share(tallies["rate, speakers ignored"]) < 0.8


def test_intervals_are_not_wasteful_without_speaker_effects(coverage):
    tallies = coverage.speaker_coverage(40, 10, deviation=0.0, spread=0.0, sets=60, resamples=400)
    assert share(tallies["rate"]) >= 0.85
    # Plain two-stage resampling would be wider by sqrt(2).
    assert tallies["rate"].width < 1.15 * tallies["rate, speakers ignored"].width


def test_takes_used_in_several_strings_are_resampled_as_takes(coverage):
    tallies = coverage.take_coverage(5, 50, uses=5, deviation=0.15, sets=120, resamples=400)
    assert share(tallies["takes resampled"]) >= 0.88
    assert share(tallies["strings resampled"]) < 0.85


def test_draws_keep_speakers_whole():
    speakers = ["b", "a", "b", "c", "c", "c"]
    draws = bootstrap.draw(speakers, resamples=500)
    per_speaker = np.stack([draws.counts[:, draws.owner == i].sum(axis=1) for i in range(3)])
    sizes = np.array([[1], [2], [3]])
    assert (per_speaker % sizes == 0).all()  # a speaker drawn k times gives k times as many units
    assert ((per_speaker / sizes).sum(axis=0) == 3).all()
    fixed = bootstrap.draw(speakers, resamples=500, speakers_fixed=True)
    assert all((fixed.counts[:, fixed.owner == i].sum(axis=1) == size).all() for i, size in enumerate((1, 2, 3)))


def test_draws_are_uniform():
    draws = bootstrap.draw(["a"] * 5 + ["b"] * 5, resamples=20_000)
    assert np.allclose(draws.counts.mean(axis=0), 1, atol=0.05)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.sampled_from("abc")), min_size=3, max_size=30))
def test_interval_contains_its_point_and_is_reproducible(units):
    errors, words, speakers = ([unit[i] for unit in units] for i in range(3))
    first = bootstrap.rate(errors, words, bootstrap.draw(speakers, resamples=200))
    second = bootstrap.rate(errors, words, bootstrap.draw(speakers, resamples=200))
    assert first == second
    assert first.point == pytest.approx(sum(errors) / sum(words))
    assert first.low <= first.high


def test_a_system_does_not_differ_from_itself():
    errors, words, speakers = [1, 0, 3, 2], [4, 5, 6, 3], ["a", "a", "b", "c"]
    draws = bootstrap.draw(speakers, resamples=300)
    for relative in (False, True):
        same = bootstrap.difference(errors, errors, words, draws, relative)
        assert (same.point, same.low, same.high) == (0, 0, 0)


def test_pairing_removes_what_systems_share():
    chance = np.random.default_rng(5)
    errors = chance.binomial(10, 0.4, size=400)
    fewer = np.maximum(errors - (chance.random(400) < 0.1), 0)
    words, speakers = np.full(400, 10), [str(i // 20) for i in range(400)]
    draws = bootstrap.draw(speakers, resamples=1000)
    paired = bootstrap.difference(fewer, errors, words, draws, relative=False)
    assert paired.high < 0  # 10 % fewer errors, seen although
    assert paired.width < 0.3 * bootstrap.rate(errors, words, draws).width


def test_normal_theory_agrees_where_it_holds():
    chance = np.random.default_rng(1)
    errors = chance.binomial(10, 0.3, size=3000)
    draws = bootstrap.draw([str(i) for i in range(3000)], resamples=3000)
    interval = bootstrap.rate(errors, np.full(3000, 10), draws)
    expected = 2 * 1.96 * (errors / 10).std() / math.sqrt(3000)
    assert interval.width == pytest.approx(expected, rel=0.06)


def test_few_speakers_widen_the_interval():
    chance = np.random.default_rng(2)
    rates = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 40)
    errors, words = chance.binomial(10, rates), np.full(200, 10)
    speakers = [str(i // 40) for i in range(200)]
    whole = bootstrap.rate(errors, words, bootstrap.draw(speakers))
    # Student's t with 4 degrees of freedom on the five speakers' means.
    assert whole.width > 0.8 * 2 * 2.776 * np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1) / math.sqrt(5)


def test_one_speaker_is_named_as_such():
    draws = bootstrap.draw(["a"] * 30, resamples=100)
    assert draws.speakers_fixed and draws.independent == 30
    assert "nothing about other speakers" in draws.describe()


def test_no_interval_is_nan_not_a_number_made_up():
    single = bootstrap.rate([1], [2], bootstrap.draw(["a"], resamples=50))
    assert single.point == 0.5 and math.isnan(single.low) and math.isnan(single.high)
    empty = bootstrap.rate([1, 2], [0, 0], bootstrap.draw(["a", "b"], resamples=50))
    assert math.isnan(empty.point)
    draws = bootstrap.draw(["a", "b"], resamples=50)
    assert math.isnan(bootstrap.difference([1, 0], [0, 0], [3, 3], draws, relative=True).point)
    with pytest.raises(InputError, match="no utterances"):
        bootstrap.draw([])
