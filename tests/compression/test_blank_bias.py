"""A model that says blank too often is mended by a constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.blank_bias import BlankBias, BlankBiasParams
from asr_compress.compression.dev_errors import Utterance, dev_errors, utterances
from asr_compress.models.convert import to_network
from asr_compress.runtime.errors import InputError
from tests.compression.speech import batches
from tests.compression.test_distillation import SYMBOLS
from tests.models.small import assert_close, engine_logits, logits, small


def test_errors_by_kind() -> None:
    """P1 P2 said; the best path says P1 P3, then with more blank nothing."""
    log_probs = np.log(np.array([[0.3, 0.6, 0.05, 0.05], [0.8, 0.1, 0.05, 0.05], [0.3, 0.1, 0.1, 0.5]], np.float32))
    item = Utterance(log_probs, (1, 2))
    found = dev_errors([item], SYMBOLS)
    assert (found.counts.substitutions, found.counts.deletions, found.counts.insertions) == (1, 0, 0)
    assert found.error == 0.5 and found.blank_rate == pytest.approx(1 / 3)
    silent = dev_errors([item], SYMBOLS, blank_bias=2.0)
    assert silent.counts.deletions == 2 and silent.blank_rate == 1
    assert dev_errors([item], SYMBOLS, blank_bias=-9.0).blank_rate == 0


def test_finds_the_bias_that_was_put_in() -> None:
    """Labels that the model itself says; then its blank is raised, which deletes some; the pass takes that back."""
    model = small("blstm")
    with torch.no_grad():
        model.layers[-1].weight.mul_(8)
    said = []
    for batch in batches():
        logits_, lengths = model(batch.features, batch.feature_lengths)
        rows = [torch.unique_consecutive(row[:n]) for row, n in zip(logits_.argmax(-1), lengths.tolist(), strict=True)]
        rows = [row[row != 0] for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        said.append(replace(batch, targets=padded, target_lengths=torch.tensor([len(row) for row in rows])))
    with torch.no_grad():
        model.layers[-1].bias[0] += 1.5
    context = Context(dev=lambda: iter(said), tokens=SYMBOLS)
    damaged = dev_errors(utterances(model, said), SYMBOLS)
    step = BlankBias(BlankBiasParams())
    step.prepare(model, context)
    report = step.finalize(model)
    assert damaged.counts.deletions > 0
    assert report.figures["dev_before"] == damaged.to_json()
    assert report.figures["dev_after"]["error"] == 0 == dev_errors(utterances(model, said), SYMBOLS).error
    assert -2.5 < report.figures["blank_bias"] < -0.2
    assert_close(engine_logits(to_network(model)), logits(model), 1e-4)


def test_leaves_a_good_model_as_it_is() -> None:
    model = small("lstm")
    before = model.layers[-1].bias.detach().clone()
    step = BlankBias(BlankBiasParams(lowest=0.0, highest=0.0))
    step.prepare(model, Context(dev=batches, tokens=SYMBOLS))
    assert step.finalize(model).figures["blank_bias"] == pytest.approx(0, abs=0.2)
    assert (model.layers[-1].bias - before)[1:].abs().max() == 0


def test_needs_a_dev_set() -> None:
    with pytest.raises(InputError, match="blank_bias: needs a dev set"):
        BlankBias(BlankBiasParams()).prepare(small(), Context())
