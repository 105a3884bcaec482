"""A network as data: shapes are checked when it is made, maps have stable names."""

from __future__ import annotations

import numpy as np
import pytest

from asr_compress.runtime import arithmetic
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import Float32, Int8
from asr_compress.runtime.network import (
    Activation,
    Bidirectional,
    ConstantGates,
    Conv,
    FrameStack,
    LayerNorm,
    Linear,
    LSTMLayer,
    Normalize,
    is_streaming,
    output_length,
    output_width,
    replace_maps,
    walk,
)


def weights(rows: int, cols: int) -> Float32:
    return Float32.encode(np.random.default_rng(rows * 1000 + cols).normal(size=(rows, cols)))


def vector(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=size).astype(np.float32)


def lstm(features: int, hidden: int, projection: int | None = None, reverse: bool = False) -> LSTMLayer:
    outputs = projection or hidden
    return LSTMLayer(
        weights(4 * hidden, features),
        weights(4 * hidden, outputs),
        vector(4 * hidden),
        weights(projection, hidden) if projection else None,
        reverse=reverse,
    )


def network():
    conv = Conv(weights(5, 3 * 3 * 1), vector(5), (3, 3), (2, 2), (1, 1), in_channels=1, bins=7)
    return (
        Normalize(vector(7), vector(7)),
        conv,
        Activation("clipped_relu"),
        FrameStack(2, 2),
        Bidirectional(lstm(40, 6), lstm(40, 6, projection=3, reverse=True)),
        LayerNorm(vector(9), vector(9)),
        Linear(weights(11, 9), vector(11)),
    )


def test_names_of_maps_are_layer_part_and_field():
    assert [name for name, _ in walk(network())] == [
        "1.map",
        "4.forward.input_map",
        "4.forward.recurrent_map",
        "4.backward.input_map",
        "4.backward.recurrent_map",
        "4.backward.projection",
        "6.map",
    ]


def test_replace_maps_changes_only_the_named_ones():
    before = network()
    changed = {name: Int8.encode(map_.dense()) for name, map_ in walk(before) if "recurrent" in name}
    after = dict(walk(replace_maps(before, changed)))
    for name, map_ in walk(before):
        assert after[name] is changed.get(name, map_)


def test_replace_maps_refuses_unknown_names_and_other_shapes():
    with pytest.raises(InputError, match="7.map"):
        replace_maps(network(), {"7.map": weights(2, 2)})
    with pytest.raises(InputError, match="recurrent_map has shape"):
        replace_maps(network(), {"4.forward.recurrent_map": weights(24, 7)})


def test_widths_and_lengths_follow_the_layers():
    assert output_width(network(), 7) == 11
    assert [output_length(network(), frames) for frames in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_the_layer_that_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"layer 5 \(LayerNorm\).*gets 9"):
        output_width((*network()[:5], LayerNorm(vector(8), vector(8))), 7)
    with pytest.raises(InputError, match="layer 0"):
        output_width(network(), 8)


def test_streaming_networks_have_no_backward_direction():
    assert is_streaming((lstm(3, 4),))
    assert not is_streaming((lstm(3, 4, reverse=True),))
    assert not is_streaming(network())


def test_constant_gates_take_rows_away():
    gates = ConstantGates(np.array([0, 5, 7], np.uint32), vector(3))
    layer = LSTMLayer(weights(9, 2), weights(9, 3), vector(9), constant_gates=gates)
    assert layer.hidden == 3
    assert layer.live_rows.tolist() == [1, 2, 3, 4, 6, 8, 9, 10, 11]
    assert layer.gate_sizes == (2, 2, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMLayer(weights(8, 3), weights(8, 3), vector(8)), r"recurrent_map has shape \(8, 3\)"),
        (lambda: LSTMLayer(weights(8, 3), weights(8, 2), vector(7)), "bias has shape"),
        (lambda: LSTMLayer(weights(7, 3), weights(7, 2), vector(7)), "four equal gates"),
        (
            lambda: LSTMLayer(
                weights(7, 3),
                weights(7, 2),
                vector(7),
                constant_gates=ConstantGates(np.array([8], np.uint32), vector(1)),
            ),
            "beyond the 8",
        ),
        (lambda: ConstantGates(np.array([2, 1], np.uint32), vector(2)), "ascend"),
        (lambda: Bidirectional(lstm(3, 2), lstm(3, 2)), "backward"),
        (lambda: Bidirectional(lstm(3, 2), lstm(4, 2, reverse=True)), "forward takes 3"),
        (lambda: Conv(weights(2, 3), vector(2), (2, 1), (1, 1), (1, 1), 1, 1), "map has shape"),
        (lambda: FrameStack(0, 1), "stack"),
        (lambda: Activation("gelu"), "relu"),
        (lambda: Linear(np.zeros((2, 2)), vector(2)), "weight format"),
        (lambda: Normalize(np.array([np.nan], np.float32), vector(1)), "NaN"),
        (lambda: LayerNorm(vector(2), vector(2), 0.0), "eps"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_constant_gates_take_the_values_they_were_made_of():
    rows = np.array([0, 1, 3, 4, 5, 6])  # of two units: i, i, f, g, g, o
    gates = np.array([0.25, 1.0, 0.5, -0.75, 1.0, 0.0])
    made = ConstantGates.of_gates(rows, gates, hidden=2)
    sigmoid, tanh = arithmetic.sigmoid(made.values), arithmetic.tanh(made.values)
    got = np.where((made.rows == 4) | (made.rows == 5), tanh, sigmoid)
    np.testing.assert_allclose(got, gates, atol=1e-6)
    assert np.isfinite(made.values).all()
