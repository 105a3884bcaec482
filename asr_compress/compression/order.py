"""Which passes may follow which: traits that a model has, and what they rule out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from asr_compress.models.maps import constant_rows, directions_of, maps_of
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from asr_compress.compression.base import Pass

SPARSE = "weights left out singly or in tiles"
BLOCKS = "maps in blocks"
FACTORS = "factorized maps"
QUANTIZED = "quantized maps"
CONSTANT_GATES = "constant gates"


def traits_of(model: nn.Module) -> set[str]:
    """The traits of a model as it is."""
    traits: set[str] = set()
    for item in maps_of(model):
        units = {mask.unit for mask in item.masks()}
        traits |= {SPARSE} if units & {"weight", "tile"} else set()
        traits |= {BLOCKS} if "block" in units else set()
        traits |= {FACTORS} if item.factor else set()
        traits |= {QUANTIZED} if item.quantizer() is not None else set()
    if any(constant_rows(direction).any() for direction in directions_of(model).values()):
        traits.add(CONSTANT_GATES)
    return traits


def check_order(stages: Sequence[tuple[str, Sequence[Pass]]], traits: set[str], start: str) -> None:
    """Follow the passes of named stages through what each leaves behind.

    Args:
        traits: what the model has before the first stage.
        start: where it comes from, for the message.

    Raises:
        InputError: a pass cannot start from what is there, with the reason.
    """
    origin = dict.fromkeys(traits, start)
    for stage, passes in stages:
        for step in passes:
            for trait, reason in step.refused().items():
                if trait in origin:
                    raise InputError(f"stage {stage!r}: {step.name} cannot follow {origin[trait]} ({trait}): {reason}")
            origin |= dict.fromkeys(step.left(), step.name)
