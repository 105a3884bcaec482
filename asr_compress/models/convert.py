"""The one way out of torch and back in: `AcousticModel` <-> `Network`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.models import layers
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.encode import decode_into, encode
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.maps import Map, constant_rows, make_constant, map_of
from asr_compress.runtime import network
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import Network


def to_network(model: AcousticModel) -> Network:
    """The layers of `model` as plain data, each map in the format that its parametrizations say.

    Raises:
        InputError: a layer that a network does not have, or weights that are not finite.
    """
    converted = []
    for index, layer in enumerate(model.layers):
        if isinstance(layer, layers.Dropout):
            continue
        try:
            converted.append(_to_layer(layer))
        except InputError as error:
            raise InputError(f"layers.{index} ({type(layer).__name__}): {error}") from None
    return tuple(converted)


def from_network(source: Network, dropout: float = 0.0) -> AcousticModel:
    """A model that computes what `source` means. Maps keep their form in training: masks, factors, quantizers.

    Args:
        source: any network.
        dropout: rate after each LSTM layer, its layer norm included; 0 puts in none. (A network has no dropout.)
    """
    built: list[layers.Layer] = []
    stored = list(source)
    for index, layer in enumerate(stored):
        built.append(_from_layer(layer))
        following = stored[index + 1] if index + 1 < len(stored) else None
        recurrent = isinstance(layer, network.LSTMLayer | network.Bidirectional)
        if isinstance(layer, network.LayerNorm) and index:
            recurrent = isinstance(stored[index - 1], network.LSTMLayer | network.Bidirectional)
        if dropout and recurrent and not isinstance(following, network.LayerNorm):
            built.append(layers.Dropout(dropout))
    return AcousticModel(built)


def _to_layer(layer: nn.Module) -> network.Layer:
    match layer:
        case layers.Normalize():
            return network.Normalize(_array(layer.mean), _array(layer.scale))
        case layers.FrameStack():
            return network.FrameStack(layer.stack, layer.stride)
        case layers.Conv():
            map_ = encode(Map("map", layer, "weight", "conv"))
            sizes = (layer.kernel, layer.stride, layer.dilation, layer.in_channels, layer.bins)
            return network.Conv(map_, _array(layer.bias), *sizes)
        case layers.Activation():
            return network.Activation(layer.kind)
        case layers.Recurrent():
            return to_recurrent_layer([to_lstm_layer(direction) for direction in layer.directions])
        case layers.LayerNorm():
            return network.LayerNorm(_array(layer.weight), _array(layer.bias), layer.eps)
        case layers.Linear():
            return network.Linear(encode(Map("map", layer, "weight", "linear")), _array(layer.bias))
    raise InputError("a network has no such layer")


def to_recurrent_layer(directions: list[network.LSTMLayer]) -> network.Layer:
    return directions[0] if len(directions) == 1 else network.Bidirectional(*directions)


def to_lstm_layer(direction: nn.Module) -> network.LSTMLayer:
    assert isinstance(direction, LSTMDirection)
    bias = np.zeros(4 * direction.hidden, np.float32)
    if direction.bias_ih is not None and direction.bias_hh is not None:
        bias = _array(direction.bias_ih + direction.bias_hh)
    constant = constant_rows(direction)
    gates = None
    if constant.any():
        gates = network.ConstantGates(np.flatnonzero(constant).astype(np.uint32), bias[constant])
        bias = bias[~constant]
    projection = None if direction.weight_hr is None else encode(map_of(direction, "weight_hr"))
    input_map, recurrent_map = encode(map_of(direction, "weight_ih")), encode(map_of(direction, "weight_hh"))
    return network.LSTMLayer(input_map, recurrent_map, bias, projection, gates, direction.reverse)


def _from_layer(layer: network.Layer) -> layers.Layer:
    match layer:
        case network.Normalize():
            return layers.Normalize(_tensor(layer.mean), _tensor(layer.scale))
        case network.FrameStack():
            return layers.FrameStack(layer.stack, layer.stride)
        case network.Conv():
            conv = layers.Conv(
                layer.in_channels, layer.map.shape[0], layer.kernel, layer.stride, layer.dilation, layer.bins
            )
            _fill(conv.bias, layer.bias)
            decode_into(Map("conv", conv, "weight", "conv"), layer.map)
            return conv
        case network.Activation():
            return layers.Activation(layer.kind)
        case network.LSTMLayer():
            return _recurrent([layer])
        case network.Bidirectional():
            return _recurrent([layer.forward, layer.backward])
        case network.LayerNorm():
            norm = layers.LayerNorm(len(layer.weight), layer.eps)
            _fill(norm.weight, layer.weight)
            _fill(norm.bias, layer.bias)
            return norm
        case network.Linear():
            linear = layers.Linear(layer.map.shape[1], layer.map.shape[0])
            _fill(linear.bias, layer.bias)
            decode_into(Map("linear", linear, "weight", "linear"), layer.map)
            return linear


def _recurrent(stored: list[network.LSTMLayer]) -> layers.Recurrent:
    first = stored[0]
    projection = 0 if first.projection is None else first.outputs
    recurrent = layers.Recurrent(first.input_map.shape[1], first.hidden, len(stored) == 2, projection)
    recurrent.directions = nn.ModuleList(_from_lstm(direction) for direction in stored)
    return recurrent


def _from_lstm(stored: network.LSTMLayer) -> LSTMDirection:
    projection = 0 if stored.projection is None else stored.outputs
    direction = LSTMDirection(stored.input_map.shape[1], stored.hidden, projection, reverse=stored.reverse)
    bias = np.zeros(4 * stored.hidden, np.float32)
    bias[stored.live_rows] = stored.bias
    if stored.constant_gates is not None:
        bias[stored.constant_gates.rows] = stored.constant_gates.values
        keep = torch.zeros(4 * stored.hidden, dtype=torch.bool)
        keep[torch.from_numpy(stored.live_rows)] = True
        make_constant(direction, keep)
    assert direction.bias_ih is not None and direction.bias_hh is not None
    _fill(direction.bias_ih, bias)
    _fill(direction.bias_hh, np.zeros_like(bias))
    decode_into(map_of(direction, "weight_ih"), stored.input_map)
    decode_into(map_of(direction, "weight_hh"), stored.recurrent_map)
    if stored.projection is not None:
        decode_into(map_of(direction, "weight_hr"), stored.projection)
    return direction


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy().copy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())


def _fill(parameter: Tensor, values: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(_tensor(values))
