"""Weights and widths of the beam search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class DecodingConfig:
    """Weights and widths of the search. The weights want tuning on a dev set; a bundle carries the tuned ones.

    Measured with 37,000 words, a trigram model and an early phone model (1.3 M parameters): widths 50, 100, 200, 300
    and 800 gave 76, 70, 67, 63 and 60 % WER on read English at 4, 9, 18, 24 and 69 ms a second of speech; 12 tokens
    gave what 20 and 40 did in half the time, and `sure_blank` 0.99 what 0.999 did in three quarters.

    Attributes:
        beam_width: hypotheses kept after each frame. A better model needs fewer.
        beam_threshold: how far below the best a hypothesis may be, natural log. The width bites first.
        beam_tokens: tokens considered at each frame, the most probable ones.
        lm_weight: weight of the language model's natural log probability. CTC is overconfident, so below one.
        word_score: added for each word; positive makes for more words. Tune it with lm_weight.

    Raises:
        InputError: a value out of range.
    """

    beam_width: int = 200
    beam_threshold: float = 20.0
    beam_tokens: int = 12
    lm_weight: float = 0.5
    word_score: float = 0.0

    def __post_init__(self) -> None:
        limits = {"beam_width": 1, "beam_tokens": 1, "beam_threshold": 0, "lm_weight": 0}
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"decoding: {name} is {value!r}; it must be a number")
            if value < limits.get(name, -math.inf):
                raise InputError(f"decoding: {name} is {value}; it must be at least {limits[name]}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read weights as a bundle carries them; what is not given keeps its default.

        Raises:
            InputError: an unknown key, or a value out of range.
        """
        allowed = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - allowed)
        if unknown:
            raise InputError(f"decoding: unknown {', '.join(unknown)}; allowed: {', '.join(sorted(allowed))}")
        return cls(**values)
