"""Whole layers go; what is left computes what the model computed with that layer skipped."""

from __future__ import annotations

import copy

import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.layer_removal import LayerRemoval, LayerRemovalParams
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import Dropout, LayerNorm, Linear, Recurrent
from asr_compress.models.zoo import Size, blstm, lstm
from asr_compress.runtime.errors import InputError
from tests.compression.speech import measure_by
from tests.models.small import BINS, LENGTHS, TOKENS, assert_close, engine_logits, frames, logits
from tests.models.test_select import randomize


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
    assert report.skipped == {
        "layers.2": "its input and output differ in width",
        "LSTM layer 1": "not chosen by layers",
        "LSTM layer 3": "not chosen by layers",
    }
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
    second = next(name for name in report.touched if name != "LSTM layer 3")
    kept = ({"LSTM layer 1", "LSTM layer 2"} - {second}).pop()
    assert report.skipped == {
        "layers.2": "its input and output differ in width",
        kept: f"kept: dev error without it 0.4, without {second} 0.4",
    }
    with torch.no_grad():
        assert model(frames(), LENGTHS)[0].shape[-1] == TOKENS


def bare(bidirectional: bool, projection: int = 0) -> AcousticModel:
    """Without layer norms, its first layer as wide as the features."""
    width = BINS // 2 if bidirectional else BINS
    hidden = width + 3 if projection else width
    layers = [Recurrent(BINS, hidden, bidirectional, width if projection else 0) for _ in range(3)]
    return AcousticModel([*layers, Linear(BINS, TOKENS)])


MODELS = {
    "lstm": lambda: lstm(Size(4, 9), TOKENS, BINS),
    "blstm": lambda: blstm(Size(4, 9), TOKENS, BINS),
    "lstmp": lambda: lstm(Size(4, 9, projection=5), TOKENS, BINS),
    "first as wide": lambda: lstm(Size(3, 4 * BINS), TOKENS, BINS),
    "bare lstm": lambda: bare(False),
    "bare blstm": lambda: bare(True),
    "bare lstmp": lambda: bare(False, projection=1),
    "bare blstmp": lambda: bare(True, projection=1),
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in MODELS for number in range(4 if name in ("lstm", "blstm", "lstmp") else 3)],
)
def test_what_is_left_is_the_original_with_that_layer_skipped(name: str, number: int) -> None:
    """To the last bit: the layer, and the norm behind it, hand on what they get."""
    torch.manual_seed(number)
    model = MODELS[name]().eval()
    randomize(model)
    places = [index for index, layer in enumerate(model.layers) if isinstance(layer, Recurrent)]
    original = copy.deepcopy(model)
    whole = logits(original)
    step = LayerRemoval(LayerRemovalParams(layers=(number,)))
    if original.layers[places[number]].outputs != original.layers[places[number]].directions[0].inputs:
        with pytest.raises(InputError, match="differ in width"):
            step.prepare(model, Context())
        assert_close(logits(model), whole, 0)
        return
    step.prepare(model, Context())
    assert len(recurrent(model)) == len(places) - 1
    end = places[number] + 1
    while isinstance(original.layers[end], LayerNorm | Dropout):
        end += 1
    for layer in original.layers[places[number] : end]:
        layer.register_forward_hook(lambda layer, arguments, result: arguments)
    skipped = logits(original)
    assert_close(logits(model), skipped, 0)
    assert any(abs(one - other).max() > 1e-3 for one, other in zip(skipped, whole, strict=True))
    assert_close(engine_logits(to_network(model)), skipped, 1e-5)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="LSTM layer 0 is not supported: there is none, or its input"):
        LayerRemoval(LayerRemovalParams(layers=(0,))).prepare(deep(), Context())
    with pytest.raises(InputError, match="no further layer"):
        LayerRemoval(LayerRemovalParams(count=4)).prepare(deep(), Context(measure=measure_by(lambda model: 0.5)))
    with pytest.raises(InputError, match="is no list of layers"):
        LayerRemoval(LayerRemovalParams(count=1)).prepare(torch.nn.LSTM(3, 4), Context())
