"""Weights and widths of the beam search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.errors import InputError

Array = NDArray[np.float32]


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
        token_scores: added to every frame's log probabilities, one for each token, or none. Minus a share of the log
            priors makes scaled likelihoods of a model's posteriors, and so takes the preference for the blank out of
            them (Miao et al. 2015, "EESEN", section 3.3).

    Raises:
        InputError: a value out of range.
    """

    beam_width: int = 200
    beam_threshold: float = 20.0
    beam_tokens: int = 12
    lm_weight: float = 0.5
    word_score: float = 0.0
    token_scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        limits = {"beam_width": 1, "beam_tokens": 1, "beam_threshold": 0, "lm_weight": 0}
        object.__setattr__(self, "token_scores", tuple(self.token_scores))  # JSON has lists
        scores = {f"token_scores[{index}]": score for index, score in enumerate(self.token_scores)}
        widths = {name: value for name, value in asdict(self).items() if name != "token_scores"}
        for name, value in (widths | scores).items():
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

    def scored(self, log_probs: Array) -> Array:
        """What is searched: `log_probs (frames, tokens)` with the scores of the tokens added, float32.

        Raises:
            InputError: scores for another number of tokens.
        """
        if not self.token_scores:
            return log_probs
        if len(self.token_scores) != log_probs.shape[1]:
            raise InputError(
                f"decoding: token_scores has {len(self.token_scores)} values for {log_probs.shape[1]} tokens; "
                "give one for each token of the model, or none"
            )
        return log_probs + np.array(self.token_scores, np.float32)
