"""The fused operation and the exponential that the engine's numbers rest on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.runtime.arithmetic import exp, multiply_add

near_one = st.floats(0.5, 2, width=32)
added = st.one_of(st.floats(-2, 2, width=32), st.sampled_from([2.0**-80, -(2.0**-80), 2.0**-30, -(2.0**-24)]))


def rounded(value: Fraction) -> np.float32:
    """To the nearest float32, half to even, by comparing distances; for values of normal size."""
    guess = np.float32(float(value))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(near, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.int32)) & 1))


@given(st.lists(st.tuples(near_one, near_one), min_size=1, max_size=8), added)
def test_multiply_add_rounds_once(pairs: list[tuple[float, float]], c: float) -> None:
    a, b = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    got = multiply_add(a, b, np.float32(c))
    exact = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(np.float32(c))) for x, y in zip(a, b, strict=True)
    ]
    for value, result in zip(exact, got, strict=True):
        assert abs(value) < 2.0**-100 or result == rounded(value)


def test_multiply_add_where_two_roundings_differ_from_one() -> None:
    a = np.array([1 + 2.0**-12], np.float32)  # its square lies half way between two floats
    low, high = np.float32(1 + 2.0**-11), np.float32(1 + 2.0**-11 + 2.0**-23)
    for c, wanted in ((2.0**-80, high), (0.0, low), (-(2.0**-80), low)):
        assert multiply_add(a, a, np.float32(c))[0] == wanted
        assert multiply_add(-a, a, np.float32(-c))[0] == -wanted
    twice = (a.astype(np.float64) * a + 2.0**-80).astype(np.float32)
    assert twice[0] == low  # so the correction is what made the difference


def test_exp_is_as_close_as_it_says() -> None:
    x = np.linspace(-29, 29, 200_001).astype(np.float32)
    error = np.abs(exp(x).astype(np.float64) / np.exp(x.astype(np.float64)) - 1)
    assert error.max() < 2e-6 and error[np.abs(x) < 1].max() < 3e-7
    assert np.array_equal(exp(np.array([-1e30, 1e30], np.float32)), exp(np.array([-29, 29], np.float32)))
