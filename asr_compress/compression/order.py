"""Which passes may follow which: traits that a model has, and what they rule out."""

from __future__ import annotations

from torch import nn

from asr_compress.models.maps import constant_rows, directions_of, maps_of

SPARSE = "single weights left out"
BLOCKS = "maps in blocks"
FACTORS = "factorized maps"
QUANTIZED = "quantized maps"
CONSTANT_GATES = "constant gates"


def traits_of(model: nn.Module) -> set[str]:
    """The traits of a model as it is."""
    traits: set[str] = set()
    for item in maps_of(model):
        units = {mask.unit for mask in item.masks()}
        traits |= {SPARSE} if "weight" in units else set()
        traits |= {BLOCKS} if "block" in units else set()
        traits |= {FACTORS} if item.factor else set()
        traits |= {QUANTIZED} if item.quantizer() is not None else set()
    if any(constant_rows(direction).any() for direction in directions_of(model).values()):
        traits.add(CONSTANT_GATES)
    return traits
