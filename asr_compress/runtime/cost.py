"""What a network costs: parameters, bytes, and multiply-accumulates for each second of audio."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from asr_compress.runtime.formats import WeightFormat
from asr_compress.runtime.network import Bidirectional, Conv, Layer, LSTMLayer, Network, time_stride, walk
from asr_compress.runtime.serialize import describe


@dataclass(frozen=True)
class Cost:
    """Sums over a map, a layer or a network.

    Attributes:
        parameters: numbers that training chose: weights (of both factors where a map is factorized), biases,
            norms, the values of constant gates. Zeros are among them.
        nonzeros: how many of them are not zero.
        bytes: what they take in a file, with scales, indices and codebooks.
        macs_per_s: multiply-accumulates that the engine does for a second of audio: blocks, factors and gates
            that are left out do not count, scattered zeros do, because no kernel skips them.
        dense_macs_per_s: the same for a model of this shape with dense maps and all gates.
    """

    parameters: int = 0
    nonzeros: int = 0
    bytes: int = 0
    macs_per_s: float = 0.0
    dense_macs_per_s: float = 0.0

    def __add__(self, other: Self) -> Self:
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return type(self)(*(a + b for a, b in zip(mine, others, strict=True)))


@dataclass(frozen=True)
class MapCost:
    """One map: its name as in `network.walk`, the kind of its format, its shape (rows, cols)."""

    name: str
    kind: str
    shape: tuple[int, int]
    cost: Cost


@dataclass(frozen=True)
class LayerCost:
    """One layer: its place, its type, its frames for a second of audio, its maps, and the cost of all of it."""

    index: int
    type: str
    frames_per_s: float
    maps: tuple[MapCost, ...]
    cost: Cost


@dataclass(frozen=True)
class NetworkCost:
    """All layers and their sum."""

    layers: tuple[LayerCost, ...]
    total: Cost


def account(network: Network, frames_per_s: float) -> NetworkCost:
    """Count a network that gets `frames_per_s` feature frames for each second of audio (1000 / frame shift in ms).

    `total.bytes` is what the layers take in a bundle's file, to the byte; the file has a header, and maybe a
    lexicon, besides. Elementwise work (gates, norms, activations) is not counted, as is usual.
    """
    layers: list[LayerCost] = []
    for index, layer in enumerate(network):
        frames_per_s /= time_stride(layer)
        layers.append(_layer_cost(index, layer, frames_per_s))
    return NetworkCost(tuple(layers), sum((layer.cost for layer in layers), Cost()))


def _layer_cost(index: int, layer: Layer, frames_per_s: float) -> LayerCost:
    # A convolution multiplies its map once for every bin that it gives.
    products_per_s = frames_per_s * (layer.out_bins if isinstance(layer, Conv) else 1)
    maps = tuple(
        MapCost(f"{index}{name[1:]}", weights.kind, weights.shape, _map_cost(weights, products_per_s))
        for name, weights in walk((layer,))
    )
    arrays = _arrays(layer)
    tensors = describe((layer,))[1]
    cost = sum((part.cost for part in maps), Cost()) + Cost(
        parameters=sum(array.size for array in arrays),
        nonzeros=sum(int(np.count_nonzero(array)) for array in arrays),
        bytes=sum(tensor.nbytes for tensor in tensors.values()) - sum(part.cost.bytes for part in maps),
        dense_macs_per_s=_constant_gate_macs(layer) * frames_per_s,
    )
    return LayerCost(index, type(layer).__name__, frames_per_s, maps, cost)


def _map_cost(weights: WeightFormat, products_per_s: float) -> Cost:
    rows, cols = weights.shape
    return Cost(
        weights.parameters,
        weights.nonzeros,
        weights.nbytes,
        weights.macs * products_per_s,
        rows * cols * products_per_s,
    )


def _arrays(part: Any) -> list[np.ndarray]:
    """The float arrays of a layer outside its maps."""
    arrays: list[np.ndarray] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            arrays.append(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, WeightFormat):
            arrays += _arrays(value)
    return arrays


def _constant_gate_macs(layer: Layer) -> int:
    """What the rows of constant gates would take in each frame if they were computed."""
    if isinstance(layer, Bidirectional):
        return _constant_gate_macs(layer.forward) + _constant_gate_macs(layer.backward)
    if not isinstance(layer, LSTMLayer) or layer.constant_gates is None:
        return 0
    return layer.constant_gates.count * (layer.input_map.shape[1] + layer.recurrent_map.shape[1])
