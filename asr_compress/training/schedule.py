"""Learning-rate factors as pure functions of the step."""

from __future__ import annotations

import math


def warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup_steps at step 0 to 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def cosine(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """Linear warm-up, then half a cosine from 1 down to `final` at the last step (Loshchilov & Hutter 2017)."""
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def plateau(errors: list[float], factor: float, patience: int) -> float:
    """`factor` to the number of times that `patience` evaluations in a row brought no new lowest error."""
    best, waited, drops = math.inf, 0, 0
    for error in errors:
        if error < best:
            best, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            waited, drops = 0, drops + 1
    return factor**drops
