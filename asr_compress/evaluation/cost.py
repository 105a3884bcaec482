"""What a recognizer costs: parameters, bytes, multiply-accumulates, and an estimate of energy.

All of it follows from the network as data. Multiply-accumulates (MACs) are given a second of audio, so that models of
different frame rates compare. "Dense" counts every weight that the maps mean, "effective" the products that are done
when zeros and constant gates are skipped and factors multiplied one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.formats import IntegerFormat, LowRank, WeightFormat
from asr_compress.runtime.network import Bidirectional, Conv, Layer, LSTMLayer, time_stride

# Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9: 45 nm, 0.9 V.
# Picojoules of a multiplication and an addition, and of reading 8 bytes.
_PJ_PER_MAC = {"float": 3.7 + 0.9, "integer": 0.2 + 0.1}
_PJ_PER_BYTE = {"cache": 100 / 8, "memory": 1300 / 8}  # a 1 MB SRAM; the low end of DRAM
_CACHE_BYTES = 2**20
ENERGY_ASSUMPTIONS = (
    "Horowitz (ISSCC 2014), 45 nm: a multiply-accumulate 4.6 pJ in float32 and 0.3 pJ in integers (8-bit products, "
    "32-bit sums); recurrent weights read at every frame, other maps once for every 16 frames; 12.5 pJ a "
    "byte where all maps fit in 1 MB, else 162.5 pJ. Arithmetic and weights only: no instructions, no leakage, no "
    "activations. Good for ratios between variants, not for batteries."
)
_FRAMES_PER_READ = 16  # what a blocked product of many frames reuses a weight for, at least


@dataclass(frozen=True)
class LayerCost:
    """One layer.

    Attributes:
        name: its index in the network and its kind.
        shape: "inputs -> outputs", with what else tells.
        formats: kinds of weight formats of its maps.
        parameters, nonzeros: weights and biases; how many are not zero.
        nbytes: bytes of the tensors.
        dense_macs_per_s, macs_per_s: multiply-accumulates a second of audio, dense and effective.
        masked: share of its weights that are zero though stored as dense.
    """

    name: str
    shape: str
    formats: tuple[str, ...]
    parameters: int
    nonzeros: int
    nbytes: int
    dense_macs_per_s: float
    macs_per_s: float
    masked: float


@dataclass(frozen=True)
class Cost:
    """A whole recognizer.

    Attributes:
        file_bytes: the bundle as it lies on disk, its tokens, lexicon and history included.
        bytes_by_format: bytes of maps by kind of format; biases and norms under "vectors".
        energy_mj_per_s: millijoules a second of audio; see `ENERGY_ASSUMPTIONS`.
        layers: one each.
    """

    parameters: int
    nonzeros: int
    dense_macs_per_s: float
    macs_per_s: float
    file_bytes: int
    bytes_by_format: dict[str, int]
    energy_mj_per_s: float
    layers: tuple[LayerCost, ...]

    @property
    def masked(self) -> float:
        """Share of the stored weights that are zero though stored as dense: masks that no format has folded in."""
        weights = sum(layer.parameters for layer in self.layers)
        return sum(layer.masked * layer.parameters for layer in self.layers) / weights if weights else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        layers = tuple(LayerCost(**{**layer, "formats": tuple(layer["formats"])}) for layer in values["layers"])
        return cls(**{**values, "layers": layers})


# Kinds that store every weight, so that a zero in them is a mask that saves nothing. In 4 bits and less zero is a code
# like others, which small weights round to.
_DENSE_KINDS = frozenset({"float32", "float16", "int8"})


@dataclass(frozen=True)
class _MapUse:
    """A map and how often it is multiplied in a second of audio."""

    map: WeightFormat
    products_per_s: float
    dense_rows: int  # rows that the map would have without constant gates
    recurrent: bool


def measure(bundle: Bundle, file_bytes: int) -> Cost:
    """Cost of a bundle whose file has so many bytes."""
    frames_per_s = bundle.features.sample_rate_hz / bundle.features.shift
    width = bundle.features.bins
    layers: list[LayerCost] = []
    uses: list[_MapUse] = []
    by_format: dict[str, int] = {"vectors": 0}
    for index, layer in enumerate(bundle.network):
        frames_per_s /= time_stride(layer)
        used = list(_uses(layer, frames_per_s))
        outputs = layer.width(width)
        layers.append(_layer_cost(f"{index} {type(layer).__name__}", f"{width} -> {outputs}", layer, used))
        width = outputs
        uses += used
        for use in used:
            by_format[use.map.kind] = by_format.get(use.map.kind, 0) + use.map.nbytes
        by_format["vectors"] += sum(vector.nbytes for vector in _vectors(layer))
    return Cost(
        parameters=sum(layer.parameters for layer in layers),
        nonzeros=sum(layer.nonzeros for layer in layers),
        dense_macs_per_s=sum(layer.dense_macs_per_s for layer in layers),
        macs_per_s=sum(layer.macs_per_s for layer in layers),
        file_bytes=file_bytes,
        bytes_by_format=by_format,
        energy_mj_per_s=_energy_mj(uses),
        layers=tuple(layers),
    )


def _layer_cost(name: str, shape: str, layer: Layer, used: list[_MapUse]) -> LayerCost:
    vectors = _vectors(layer)
    stored = sum(use.map.parameters for use in used)
    hidden_zeros = sum(use.map.parameters - use.map.nonzeros for use in used if use.map.kind in _DENSE_KINDS)
    values = sum(vector.size for vector in vectors)
    return LayerCost(
        name=name,
        shape=shape,
        formats=tuple(sorted({use.map.kind for use in used})),
        parameters=stored + values,
        nonzeros=sum(use.map.nonzeros for use in used) + sum(int(np.count_nonzero(vector)) for vector in vectors),
        nbytes=sum(use.map.nbytes for use in used) + sum(vector.nbytes for vector in vectors),
        dense_macs_per_s=sum(use.dense_rows * use.map.shape[1] * use.products_per_s for use in used),
        macs_per_s=sum(use.map.macs * use.products_per_s for use in used),
        masked=hidden_zeros / (stored + values) if stored else 0.0,
    )


def _uses(layer: Layer, frames_per_s: float) -> Iterator[_MapUse]:
    """Every map of a layer; `frames_per_s` is the rate of the layer's output."""
    if isinstance(layer, Bidirectional):
        yield from _uses(layer.forward, frames_per_s)
        yield from _uses(layer.backward, frames_per_s)
    elif isinstance(layer, LSTMLayer):
        yield _MapUse(layer.input_map, frames_per_s, 4 * layer.hidden, recurrent=False)
        yield _MapUse(layer.recurrent_map, frames_per_s, 4 * layer.hidden, recurrent=True)
        if layer.projection is not None:
            yield _MapUse(layer.projection, frames_per_s, layer.projection.shape[0], recurrent=True)
    else:
        times = layer.out_bins if isinstance(layer, Conv) else 1
        for field in fields(layer):
            value = getattr(layer, field.name)
            if isinstance(value, WeightFormat):
                yield _MapUse(value, frames_per_s * times, value.shape[0], recurrent=False)


def _vectors(layer: Layer) -> list[np.ndarray]:
    """Biases, norms, statistics and constant gates."""
    if isinstance(layer, Bidirectional):
        return _vectors(layer.forward) + _vectors(layer.backward)
    values = [getattr(layer, field.name) for field in fields(layer)]
    found = [value for value in values if isinstance(value, np.ndarray)]
    if isinstance(layer, LSTMLayer) and layer.constant_gates is not None:
        found.append(layer.constant_gates.values)
    return found


def _energy_mj(uses: list[_MapUse]) -> float:
    total_bytes = sum(use.map.nbytes for use in uses)
    per_byte = _PJ_PER_BYTE["cache" if total_bytes <= _CACHE_BYTES else "memory"]
    picojoules = 0.0
    for use in uses:
        reads_per_s = use.products_per_s / (1 if use.recurrent else _FRAMES_PER_READ)
        picojoules += use.map.macs * use.products_per_s * _PJ_PER_MAC[_arithmetic(use.map)]
        picojoules += use.map.nbytes * reads_per_s * per_byte
    return picojoules / 1e9


def _arithmetic(map_: WeightFormat) -> str:
    """In what numbers a map's products are done: float16 weights are widened, 4-bit ones are multiplied as 8-bit."""
    factor = map_.left if isinstance(map_, LowRank) else map_
    return "integer" if isinstance(factor, IntegerFormat) else "float"
