"""Schedules against values worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.compression.schedules import cubic, narang, one_shot


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (9, 0.0), (10, 1.0), (11, 1.0)])
def test_one_shot(step: int, share: float) -> None:
    assert one_shot(step, 10) == share


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.0), (100, 0.0), (125, 1 - 0.75**3), (150, 0.875), (175, 1 - 0.25**3), (200, 1.0), (999, 1.0)],
)
def test_cubic(step: int, share: float) -> None:
    assert cubic(step, 100, 200) == pytest.approx(share, abs=1e-12)


def test_cubic_without_a_ramp_is_one_shot() -> None:
    assert [cubic(step, 5, 5) for step in (4, 5, 6)] == [0.0, 1.0, 1.0]


# begin 100, ramp 200, end 400, quantile 0.8: theta = 1.6 / (200 + 600) = 0.002.
@pytest.mark.parametrize(
    ("step", "threshold"), [(0, 0.0), (99, 0.0), (100, 0.0), (150, 0.1), (200, 0.2), (300, 0.5), (400, 0.8), (500, 0.8)]
)
def test_narang(step: int, threshold: float) -> None:
    assert narang(step, 100, 200, 400, 0.8) == pytest.approx(threshold, abs=1e-12)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0, 10))
def test_rise_and_end_at_the_target(begin: int, first: int, second: int, quantile: float) -> None:
    ramp, end = begin + first, begin + first + second
    steps = range(end + 3)
    for values in (
        [cubic(step, begin, end) for step in steps],
        [narang(step, begin, ramp, end, quantile) for step in steps],
    ):
        assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert cubic(end, begin, end) == 1.0
    if end > begin:
        assert narang(end, begin, ramp, end, quantile) == pytest.approx(quantile)
