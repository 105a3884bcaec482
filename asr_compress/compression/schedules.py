"""How far pruning has come at a step: pure functions, so that a resumed run goes on exactly."""

from __future__ import annotations

NARANG_RAMP = 1.5  # ratio of the second slope to the first (Narang et al. 2017, section 3.1)


def one_shot(step: int, begin: int) -> float:
    """Share of the final sparsity: nothing before update `begin`, everything from it on."""
    return 0.0 if step < begin else 1.0


def cubic(step: int, begin: int, end: int) -> float:
    """Share of the final sparsity: `1 - (1 - (step - begin) / (end - begin))**3` between `begin` and `end`.

    Fast at first, when there is much to spare, slow at last. Source: Zhu and Gupta 2017, "To prune, or not to prune",
    equation 1, from an initial sparsity of 0.
    """
    if end <= begin:
        return one_shot(step, begin)
    left = 1 - min(1.0, max(0.0, (step - begin) / (end - begin)))
    return 1 - left**3


def narang(step: int, begin: int, ramp: int, end: int, quantile: float) -> float:
    """Threshold on magnitudes: it rises with slope `theta` from `begin` to `ramp`, with `1.5 * theta` to `end`.

    `theta = 2 * quantile / (2 * (ramp - begin) + 3 * (end - ramp))`, where `quantile` is the magnitude below which
    the weights to be pruned lie before training. The threshold ends at `quantile`.

    Source: Narang et al. 2017, "Exploring sparsity in recurrent neural networks", equation 1 and algorithm 1, with a
    new threshold at every update.
    """
    if step < begin:
        return 0.0
    theta = 2 * quantile / max(1, 2 * (ramp - begin) + 3 * (end - ramp))
    first = theta * (min(step, ramp) - begin)
    return first + NARANG_RAMP * theta * max(0, min(step, end) - ramp)
