"""Schedules are pure functions; these are their values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.training import schedule
from asr_compress.training.objective import frames_needed


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.505), (100, 0.01), (500, 0.01)]
)
def test_cosine(step: int, factor: float) -> None:
    assert schedule.cosine(step, steps=101, warmup_steps=10, final=0.01) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("errors", "factor"),
    [
        ([], 1.0),
        ([5, 4, 3], 1.0),
        ([5, 6], 1.0),
        ([5, 6, 6], 0.5),
        ([5, 6, 6, 6], 0.5),
        ([5, 6, 6, 6, 6], 0.25),
        ([5, 6, 4, 6], 1.0),
    ],
)
def test_plateau(errors: list[float], factor: float) -> None:
    assert schedule.plateau(errors, factor=0.5, patience=2) == factor


@given(st.lists(st.integers(1, 3), max_size=12))
def test_frames_needed_is_the_shortest_ctc_path(labels: list[int]) -> None:
    path: list[int] = []
    for label in labels:
        if path and path[-1] == label:
            path.append(0)
        path.append(label)
    assert frames_needed(labels) == len(path)
