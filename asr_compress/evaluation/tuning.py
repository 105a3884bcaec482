"""Decoding weights tuned on a dev set: the acoustic model runs once, the search many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from asr_compress.evaluation.test_set import load_test_set
from asr_compress.runtime.beam import BeamDecoder
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.recognizer import Recognizer, make_decoder

LM_WEIGHTS = (0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
WORD_SCORES = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
PRIOR_SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)


@dataclass(frozen=True)
class Weights:
    """What is tuned. prior_share: the share of the log priors of tokens that is taken from their log probabilities."""

    lm_weight: float
    word_score: float
    prior_share: float

    def decoding(self, log_priors: np.ndarray) -> dict[str, Any]:
        """These weights as a bundle carries them. log_priors: `(tokens,)`, of the model itself."""
        values: dict[str, Any] = {"lm_weight": self.lm_weight, "word_score": self.word_score}
        if self.prior_share:
            values["token_scores"] = [round(float(-self.prior_share * prior), 4) for prior in log_priors]
        return values


@dataclass(frozen=True)
class Trial:
    """One set of weights and its word error rate on the dev set."""

    weights: Weights
    wer: float


def tune_decoding(
    decoder: BeamDecoder,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    frame_s: float,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
    prior_shares: Sequence[float] = PRIOR_SHARES,
    report: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Search the weights in turn, each with the others at their best, until none moves.

    Args:
        log_probs: float32 `(frames, tokens)` of each dev utterance.
        references: their normalized transcripts.
        frame_s: seconds from one frame to the next.
        report: called with each trial as it ends.

    Returns:
        All trials, the best first; of equals the one with weights nearest to zero.
    """
    priors = log_priors(log_probs)
    grid = {"prior_share": prior_shares, "lm_weight": lm_weights, "word_score": word_scores}
    trials: dict[Weights, Trial] = {}

    def measure(weights: Weights) -> float:
        if weights not in trials:
            search = decoder.with_config(**weights.decoding(priors))
            texts = [search.decode(frames, frame_s).text for frames in log_probs]
            trials[weights] = Trial(weights, jiwer.process_words(list(references), texts).wer)
            report(trials[weights])
        return trials[weights].wer

    middle = lm_weights[len(lm_weights) // 2]
    best = Weights(middle, min(word_scores, key=abs), min(prior_shares, key=abs))
    before = None
    while best != before:
        before = best
        for name, values in grid.items():
            best = min((replace(best, **{name: value}) for value in values), key=measure)
    return tuple(sorted(trials.values(), key=lambda trial: (trial.wer, sum(map(abs, astuple(trial.weights))))))


def log_priors(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Natural log of each token's mean probability over all frames, float64 `(tokens,)`."""
    frames = np.concatenate(log_probs).astype(np.float64)
    return np.log(np.exp(frames).mean(axis=0) + 1e-10)


def tune_bundle(
    bundle: Bundle,
    manifest: str | Path,
    lm: str | Path | None = None,
    limit: int | None = None,
    weights: Weights | None = None,
    report: Callable[[Trial], None] = lambda trial: None,
    **widths: Any,
) -> tuple[Bundle, Weights]:
    """`bundle` with tuned weights and the given widths of the search, and the weights.

    Args:
        manifest: a dev set, never one that is reported.
        limit: take only so many of its utterances.
        weights: take these, tuned for another variant of the model; only the priors are then this one's.
        widths: `beam_width`, `beam_threshold` and the like, over those that the bundle carries.

    Raises:
        InputError: no audio of the dev set can be read, or a value that the decoder does not take.
    """
    # Scores of an earlier tuning would stand in for those of a share of zero, and win where they are good.
    kept = {key: value for key, value in bundle.decoding.items() if key != "token_scores"}
    decoder = make_decoder(replace(bundle, decoding=kept), lm, widths)
    if not isinstance(decoder, BeamDecoder):
        raise InputError(f"{manifest}: nothing to tune: without a lexicon or a language model decoding has no weights")
    recognizer = Recognizer(bundle, decoder)
    test_set = load_test_set(manifest, limit)
    audio = test_set.read(test_set.references, bundle.features.sample_rate_hz)
    readable = [r for r in test_set.references if isinstance(audio[r.id], np.ndarray)]
    if not readable:
        raise InputError(f"{manifest}: no audio of it can be read")
    log_probs = [recognizer.log_probs(audio[r.id], bundle.features.sample_rate_hz) for r in readable]
    if weights is None:
        references = [reference.text for reference in readable]
        lm_weights = LM_WEIGHTS if lm is not None else (0.0,)
        trials = tune_decoding(decoder, log_probs, references, recognizer.frame_s, lm_weights, report=report)
        weights = trials[0].weights
    decoding = {**kept, **widths, **weights.decoding(log_priors(log_probs))}
    return replace(bundle, decoding=decoding), weights
