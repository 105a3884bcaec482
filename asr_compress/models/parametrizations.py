"""How a trained weight is expressed: masked, factorized, quantized. Functions of a float master weight, installed
with `torch.nn.utils.parametrize`, so that a model trains in its compressed form and later passes keep what earlier
ones made. `models.encode` turns them into weight formats; their order on a weight is mask, then quantizer
(`models.quantizers`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.models.spectrum import Spectrum
from asr_compress.models.storage import Layout
from asr_compress.runtime.formats import Tiling

INT8_MAX = 127


class Mask(nn.Module):
    """The weight times a fixed 0/1 mask; gradients reach the kept weights only.

    Attributes:
        mask: bool, the weight's shape.
        final: bool scalar, whether the mask is no longer to change; saved with checkpoints.
        unit: what is kept or dropped together: "weight", "block" (made of those of `formats.block_sparse`), "tile" (of
            any other size), "row" (of a gate that becomes constant) or "unit".
        tile: rows and columns of a tile; None for other units.
    """

    mask: Tensor
    final: Tensor

    def __init__(self, mask: Tensor, unit: str, final: bool = True, tile: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())
        self.register_buffer("final", torch.tensor(final))
        self.unit, self.tile = unit, tile

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"unit={self.unit}, density={self.mask.float().mean():.3f}"


class LowRank(nn.Module):
    """The weight as `left (rows, rank) @ right (rank, cols)`, both trained.

    Starts from the closest product of that rank (`Spectrum.factors`), or from factors that are there already.

    Attributes:
        rank: inner dimension.
        shape: the weight's shape.
        start: the factors to start from, until they are installed.
    """

    def __init__(self, rank: int, shape: Sequence[int], start: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.rank, self.shape, self.start = rank, tuple(shape), start

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return from_matrix(left @ right, self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        start, self.start = self.start, None
        if start is None:
            start = Spectrum.of(as_matrix(weight)).factors(self.rank)
        left, right = start
        return left.to(weight), right.to(weight)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


def layout_of(masks: Sequence[Mask]) -> Layout:
    """What masks leave: blocks, single weights and tiles, or everything (rows left out are constant gates)."""
    units = {mask.unit for mask in masks}
    return "blocks" if "block" in units else "sparse" if units & {"weight", "tile"} else "dense"


def tiling_of(masks: Sequence[Mask], sections: Sequence[int], cols: int) -> Tiling | None:
    """The tiles that masks keep or drop whole, of stored `sections` of rows; None if they do not all have the same."""
    tiles = {mask.tile for mask in masks if mask.unit in ("weight", "tile")}
    tile = tiles.pop() if len(tiles) == 1 else None
    return None if tile is None else Tiling(tile, tuple(sections), cols)


def kept(masks: Sequence[Mask]) -> np.ndarray | None:
    """bool (rows, cols): the weights that all masks keep; None without masks of blocks or weights."""
    if layout_of(masks) == "dense":
        return None
    together = torch.stack([mask.mask for mask in masks]).all(dim=0)
    return np.ascontiguousarray(as_matrix(together).cpu().numpy())


def stored_sections(rows: int, gates: int, live: np.ndarray | None) -> tuple[int, ...]:
    """Stored rows of each gate, of `rows` in all."""
    if live is None:
        return (rows // gates,) * gates
    return tuple(np.bincount(live // (rows // gates), minlength=gates).tolist())


def as_matrix(weight: Tensor) -> Tensor:
    """A weight in a `Network`'s shape (rows, cols): a convolution's patch runs over time, bins, channels."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1) if weight.dim() == 4 else weight.reshape(len(weight), -1)


def from_matrix(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `as_matrix` for a weight of `shape`."""
    if len(shape) != 4:
        return matrix.reshape(tuple(shape))
    rows, channels, time, bins = shape
    return matrix.reshape(rows, time, bins, channels).permute(0, 3, 1, 2).contiguous()
