"""`threshold: auto`: the most that can be pruned before the dev error passes a ceiling."""

from __future__ import annotations

from collections.abc import Callable

HIGHEST = 3.0  # times the rms; nearly nothing lies above
TRIALS = 8


def largest_threshold(
    error_at: Callable[[float], float], limit: float, highest: float = HIGHEST
) -> tuple[float, list[dict[str, float]]]:
    """The largest threshold between 0 and `highest` whose error is at most `limit`, by bisection; 0 where none is.

    Args:
        error_at: prunes below a threshold and gives the dev error; what it did before is undone by the next call.
        limit: largest error allowed.

    Returns:
        The threshold, to within `highest` / 2**8; and what was tried, in order: `threshold` and `error`.
    """
    low, high, tried = 0.0, highest, []
    for _ in range(TRIALS):
        middle = (low + high) / 2
        error = error_at(middle)
        tried.append({"threshold": middle, "error": error})
        low, high = (middle, high) if error <= limit else (low, middle)
    return low, tried
