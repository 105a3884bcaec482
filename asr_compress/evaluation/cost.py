"""What a recognizer costs, for the table: the network's accounting, masks that save nothing, an estimate of energy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.cost import LayerCost as Account
from asr_compress.runtime.cost import MapCost, account
from asr_compress.runtime.formats import IntegerFormat, LowRank, WeightFormat
from asr_compress.runtime.network import walk

# Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9: 45 nm, 0.9 V.
# Picojoules of a multiplication and an addition, and of reading a byte.
_PJ_PER_MAC = {"float": 3.7 + 0.9, "integer": 0.2 + 0.1}
_PJ_PER_BYTE = {"cache": 100 / 8, "memory": 1300 / 8}  # a 1 MB SRAM; the low end of DRAM
_CACHE_BYTES = 2**20
ENERGY_ASSUMPTIONS = (
    "Horowitz (ISSCC 2014), 45 nm: a multiply-accumulate 4.6 pJ in float32 and 0.3 pJ in integers (8-bit products, "
    "32-bit sums); recurrent weights read at every frame, other maps once for every 16 frames; 12.5 pJ a byte where "
    "all maps fit in 1 MB, else 162.5 pJ. Arithmetic and weights only: no instructions, no leakage, no activations. "
    "Good for ratios between variants, not for batteries."
)
_FRAMES_PER_READ = 16  # what a blocked product of many frames reuses a weight for, at least
# Kinds that store every weight, so that a zero in them is a mask that saves nothing. In 4 bits and less zero is a code
# like others, which small weights round to.
_DENSE_KINDS = frozenset({"float32", "float16", "int8"})


@dataclass(frozen=True)
class LayerCost:
    """One layer.

    Attributes:
        name: its index in the network and its kind.
        shape: features in -> features out.
        formats: kinds of weight formats of its maps.
        parameters, nonzeros, nbytes, macs_per_s, dense_macs_per_s: as in `runtime.cost.Cost`.
        masked: how many of its weights are zero though their format stores zeros like any weight.
    """

    name: str
    shape: str
    formats: tuple[str, ...]
    parameters: int
    nonzeros: int
    nbytes: int
    macs_per_s: float
    dense_macs_per_s: float
    masked: int


@dataclass(frozen=True)
class Cost:
    """A whole recognizer.

    Attributes:
        file_bytes: the bundle as it lies on disk, its header, tokens, lexicon and history included.
        energy_mj_per_s: millijoules a second of audio; see `ENERGY_ASSUMPTIONS`.
        layers: one each; `runtime.cost` says what is counted.
    """

    file_bytes: int
    energy_mj_per_s: float
    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def macs_per_s(self) -> float:
        return sum(layer.macs_per_s for layer in self.layers)

    @property
    def dense_macs_per_s(self) -> float:
        return sum(layer.dense_macs_per_s for layer in self.layers)

    @property
    def masked(self) -> float:
        """Share of the parameters that are masked weights which no format has folded in."""
        return sum(layer.masked for layer in self.layers) / max(1, self.parameters)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cost:
        layers = tuple(LayerCost(**{**layer, "formats": tuple(layer["formats"])}) for layer in values["layers"])
        return cls(values["file_bytes"], values["energy_mj_per_s"], layers)


def measure(bundle: Bundle, file_bytes: int) -> Cost:
    """Cost of a bundle whose file has so many bytes."""
    frames_per_s = bundle.features.sample_rate_hz / bundle.features.shift
    accounts = account(bundle.network, frames_per_s).layers
    width = bundle.features.bins
    layers = []
    for layer, counted in zip(bundle.network, accounts, strict=True):
        inputs, width = width, layer.width(width)
        layers.append(_layer_cost(counted, f"{inputs} -> {width}"))
    return Cost(file_bytes, _energy_mj(accounts, dict(walk(bundle.network))), tuple(layers))


def _layer_cost(counted: Account, shape: str) -> LayerCost:
    dense = [part.cost for part in counted.maps if part.kind in _DENSE_KINDS]
    return LayerCost(
        name=f"{counted.index} {counted.type}",
        shape=shape,
        formats=tuple(sorted({part.kind for part in counted.maps})),
        parameters=counted.cost.parameters,
        nonzeros=counted.cost.nonzeros,
        nbytes=counted.cost.bytes,
        macs_per_s=counted.cost.macs_per_s,
        dense_macs_per_s=counted.cost.dense_macs_per_s,
        masked=sum(cost.parameters - cost.nonzeros for cost in dense),
    )


def _energy_mj(layers: tuple[Account, ...], maps: dict[str, WeightFormat]) -> float:
    parts = [(layer, part) for layer in layers for part in layer.maps]
    fits = sum(part.cost.bytes for _, part in parts) <= _CACHE_BYTES
    per_byte = _PJ_PER_BYTE["cache" if fits else "memory"]
    picojoules = 0.0
    for layer, part in parts:
        picojoules += part.cost.macs_per_s * _PJ_PER_MAC[_arithmetic(maps[part.name])]
        picojoules += part.cost.bytes * _reads_per_s(layer, part) * per_byte
    return picojoules / 1e9


def _reads_per_s(layer: Account, part: MapCost) -> float:
    recurrent = part.name.endswith(("recurrent_map", "projection"))
    return layer.frames_per_s / (1 if recurrent else _FRAMES_PER_READ)


def _arithmetic(map_: WeightFormat) -> str:
    """In what numbers a map's products are done: float16 weights are widened, 4-bit ones are multiplied as 8-bit."""
    factor = map_.left if isinstance(map_, LowRank) else map_
    return "integer" if isinstance(factor, IntegerFormat) else "float"
