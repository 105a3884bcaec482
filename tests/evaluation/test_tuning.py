"""Tuning of decoding weights, on posteriors that one of the weights would mend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr_compress.evaluation.tuning import Trial, Weights, log_priors, tune_bundle, tune_decoding
from asr_compress.runtime.beam import BeamDecoder
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import Tokens
from tests.evaluation.bundles import bundle, noise_set
from tests.runtime.test_decoding import posteriors

PHONES = Tokens.phones()
LEXICON = Lexicon.from_text("AT\tAE T\nTEN\tT EH N\n")


def timid(path: str) -> np.ndarray:
    """Posteriors whose blank is a little too sure of itself at every frame."""
    log_probs = posteriors(path, PHONES, 0.5)
    log_probs[:, 0] = np.log(0.9)
    return log_probs


def test_priors_are_taken_from_a_model_that_prefers_blanks() -> None:
    frames = [timid("AE - T - - -"), timid("T EH N - - -")]
    best, *others = tune_decoding(BeamDecoder(PHONES, LEXICON), frames, ["AT", "TEN"], 0.04, (0.0,), (0.0,))
    assert best.wer == 0 and best.weights.prior_share > 0
    plain = next(trial for trial in others if trial.weights.prior_share == 0)
    assert plain.wer == 1


def test_nothing_moves_without_need() -> None:
    frames = [posteriors("AE T", PHONES, 0.99)]
    best = tune_decoding(BeamDecoder(PHONES, LEXICON), frames, ["AT"], 0.04, (0.0, 1.0))[0]
    assert best.wer == 0 and best.weights == Weights(0.0, 0.0, 0.0)


def test_priors_are_the_mean_of_probabilities() -> None:
    frames = [np.log(np.array([[0.5, 0.5], [0.9, 0.1]])), np.log(np.array([[0.1, 0.9]]))]
    np.testing.assert_allclose(np.exp(log_priors(frames)), [0.5, 0.5], atol=1e-6)


def test_weights_as_a_bundle_carries_them() -> None:
    assert Weights(1.0, 0.5, 0.0).decoding(np.zeros(3)) == {"lm_weight": 1.0, "word_score": 0.5}
    tuned = Weights(1.0, 0.5, 0.5).decoding(np.log([0.5, 0.25, 0.25]))
    assert tuned["token_scores"] == pytest.approx([0.3466, 0.6931, 0.6931])


def test_a_bundle_that_was_tuned_before_is_tuned_like_any_other(tmp_path: Path) -> None:
    """The scores that it carries are of the weights that it had."""
    lexicon = Lexicon.from_text("A\tA\nTEST\tT E S T\nOF\tO F\nNOISE\tN O I S E\nX\tX\nQ\tQ\n")
    fresh = replace(Bundle.load(bundle(tmp_path)), lexicon=lexicon)
    before = replace(fresh, decoding={"beam_width": 7, "token_scores": [50.0, *([0.0] * (len(fresh.tokens) - 1))]})
    found = []
    for start in (fresh, before):
        trials: list[Trial] = []
        tuned, weights = tune_bundle(start, noise_set(tmp_path), report=trials.append, beam_width=8)
        found.append((tuned.decoding, weights, trials))
    assert found[0] == found[1]
    assert len({trial.wer for trial in found[0][2]}) > 1  # or nothing would tell the scores apart
