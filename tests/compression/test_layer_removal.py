"""Whole layers go; what is left computes what the model computed with that layer skipped."""

from __future__ import annotations

import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.layer_removal import LayerRemoval, LayerRemovalParams
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import Recurrent
from asr_compress.models.zoo import Size, blstm
from asr_compress.runtime.errors import InputError
from tests.compression.speech import measure_by
from tests.models.small import BINS, LENGTHS, TOKENS, assert_close, engine_logits, frames, logits


def deep() -> AcousticModel:
    torch.manual_seed(0)
    return blstm(Size(4, 9, dropout=0.0), TOKENS, BINS).eval()


def recurrent(model: AcousticModel) -> list[Recurrent]:
    return [layer for layer in model.layers if isinstance(layer, Recurrent)]


def test_by_number() -> None:
    model = deep()
    first, second, _, fourth = recurrent(model)
    report = LayerRemoval(LayerRemovalParams(layers=(2,))).prepare(model, Context())
    assert [id(layer) for layer in recurrent(model)] == [id(first), id(second), id(fourth)]
    assert report.touched == {"LSTM layer 2": {"removed": True}}
    assert report.skipped == {"layers.2": "its input and output differ in width"}
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


def test_the_one_that_is_missed_least_goes() -> None:
    """A layer that repeats its input is found by measuring."""
    model = deep()
    harmless = recurrent(model)[3]

    def error(candidate: AcousticModel) -> float:
        weights = {float(layer.directions[0].weight_ih.sum()) for layer in recurrent(candidate)}
        return (
            0.3
            + 0.1 * (len(recurrent(model)) - len(weights))
            + (0.2 if float(harmless.directions[0].weight_ih.sum()) in weights else 0.0)
        )

    step = LayerRemoval(LayerRemovalParams(count=2))
    report = step.prepare(model, Context(measure=measure_by(error)))
    assert next(iter(report.touched)) == "LSTM layer 3" and len(report.touched) == 2
    assert len(recurrent(model)) == 2
    tried = report.touched["LSTM layer 3"]["dev_error_without"]
    assert (
        tried.keys() == {"LSTM layer 1", "LSTM layer 2", "LSTM layer 3"} and min(tried, key=tried.get) == "LSTM layer 3"
    )
    with torch.no_grad():
        assert model(frames(), LENGTHS)[0].shape[-1] == TOKENS


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="LSTM layer 0 is not supported: there is none, or its input"):
        LayerRemoval(LayerRemovalParams(layers=(0,))).prepare(deep(), Context())
    with pytest.raises(InputError, match="no further layer"):
        LayerRemoval(LayerRemovalParams(count=4)).prepare(deep(), Context(measure=measure_by(lambda model: 0.5)))
    with pytest.raises(InputError, match="is no list of layers"):
        LayerRemoval(LayerRemovalParams(count=1)).prepare(torch.nn.LSTM(3, 4), Context())
