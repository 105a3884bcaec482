"""Decoding weights tuned on a dev set: the acoustic model runs once, the search many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from asr_compress.evaluation.test_set import load_test_set
from asr_compress.runtime.beam import BeamDecoder
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.recognizer import Recognizer, make_decoder

LM_WEIGHTS = (0.3, 0.5, 0.7, 1.0, 1.4)
WORD_SCORES = (-1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Trial:
    """One pair of weights and its word error rate on the dev set."""

    lm_weight: float
    word_score: float
    wer: float


def tune_decoding(
    decoder: BeamDecoder,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    frame_s: float,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
    report: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Search the two weights in turn, each with the other at its best, until neither moves.

    Args:
        log_probs: float32 `(frames, tokens)` of each dev utterance.
        references: their normalized transcripts.
        frame_s: seconds from one frame to the next.
        report: called with each trial as it ends.

    Returns:
        All trials, the best first; of equals the one with weights nearest to zero.
    """
    trials: dict[tuple[float, float], Trial] = {}

    def measure(lm_weight: float, word_score: float) -> float:
        if (lm_weight, word_score) not in trials:
            search = decoder.with_config(lm_weight=lm_weight, word_score=word_score)
            texts = [search.decode(frames, frame_s).text for frames in log_probs]
            trial = Trial(lm_weight, word_score, jiwer.process_words(list(references), texts).wer)
            trials[lm_weight, word_score] = trial
            report(trial)
        return trials[lm_weight, word_score].wer

    lm_weight, word_score = lm_weights[len(lm_weights) // 2], min(word_scores, key=abs)
    while True:
        before = lm_weight, word_score
        lm_weight = min(lm_weights, key=lambda weight: measure(weight, word_score))
        word_score = min(word_scores, key=lambda score: measure(lm_weight, score))
        if (lm_weight, word_score) == before:
            break
    ranked = sorted(trials.values(), key=lambda trial: (trial.wer, abs(trial.lm_weight) + abs(trial.word_score)))
    return tuple(ranked)


def tune_bundle(
    bundle: Bundle,
    manifest: str | Path,
    lm: str | Path | None = None,
    limit: int | None = None,
    report: Callable[[Trial], None] = lambda trial: None,
    **widths: Any,
) -> dict[str, Any]:
    """The decoding values to store in `bundle`: tuned weights and the given widths of the search.

    Args:
        manifest: a dev set, never one that is reported.
        limit: take only so many of its utterances.
        widths: `beam_width`, `beam_threshold` and the like, over those that the bundle carries.

    Raises:
        InputError: no audio of the dev set can be read, or a value that the decoder does not take.
    """
    decoder = make_decoder(bundle, lm, widths)
    if not isinstance(decoder, BeamDecoder):
        raise InputError(f"{manifest}: nothing to tune: without a lexicon or a language model decoding has no weights")
    recognizer = Recognizer(bundle, decoder)
    test_set = load_test_set(manifest, limit)
    audio = test_set.read(test_set.references, bundle.features.sample_rate_hz)
    readable = [r for r in test_set.references if isinstance(audio[r.id], np.ndarray)]
    if not readable:
        raise InputError(f"{manifest}: no audio of it can be read")
    log_probs = [recognizer.log_probs(audio[r.id], bundle.features.sample_rate_hz) for r in readable]
    references = [reference.text for reference in readable]
    lm_weights = LM_WEIGHTS if lm is not None else (0.0,)
    best = tune_decoding(decoder, log_probs, references, recognizer.frame_s, lm_weights, report=report)[0]
    return {**bundle.decoding, **widths, "lm_weight": best.lm_weight, "word_score": best.word_score}
