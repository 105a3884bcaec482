"""A matrix cut into tiles, for what is kept or dropped tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats.base import checked_size


@dataclass(frozen=True)
class Tiling:
    """Tiles of `tile` (rows, columns) over a matrix of `sum(sections)` rows and `cols` columns.

    Rows are cut anew at the start of each section, such as the four gates of an LSTM map, so that no tile spans two.
    The last tile of a section and of a row is smaller where the tile does not divide it.

    Raises:
        InputError: a size that is no whole number, or a tile without rows or columns.
    """

    tile: tuple[int, int]
    sections: tuple[int, ...]
    cols: int

    def __post_init__(self) -> None:
        for name, value in (("tile", self.tile), ("sections", self.sections)):
            if not isinstance(value, (tuple, list)):
                raise InputError(f"{name} is {value!r}; it must be a list of whole numbers")
        if len(self.tile) != 2:
            raise InputError(f"tile is {self.tile!r}; it must be its rows and its columns")
        object.__setattr__(self, "tile", tuple(checked_size("tile", size, least=1) for size in self.tile))
        object.__setattr__(self, "sections", tuple(checked_size("sections", rows) for rows in self.sections))
        checked_size("cols", self.cols)

    @cached_property
    def heights(self) -> np.ndarray:
        """int64 (strips,): rows of each strip of tiles."""
        return _cut(self.sections, self.tile[0])

    @cached_property
    def widths(self) -> np.ndarray:
        """int64 (across,): columns of each tile of a strip."""
        return _cut([self.cols], self.tile[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Strips, and tiles of a strip."""
        rows, cols = self.tile
        return sum(-(-section // rows) for section in self.sections), -(-self.cols // cols)

    @property
    def sizes(self) -> np.ndarray:
        """int64, the shape of the tiling: weights of each tile."""
        return self.heights[:, None] * self.widths

    def sums(self, matrix: np.ndarray) -> np.ndarray:
        """(rows, cols) summed over each tile, in the matrix's type."""
        if not self.sizes.size:
            return np.zeros(self.shape, matrix.dtype)
        by_strip = np.add.reduceat(matrix, np.cumsum(self.heights) - self.heights, axis=0)
        return np.add.reduceat(by_strip, np.cumsum(self.widths) - self.widths, axis=1)

    def expand(self, values: np.ndarray) -> np.ndarray:
        """Each tile's value at all its weights: the shape of the tiling -> (rows, cols)."""
        return np.repeat(np.repeat(values, self.heights, axis=0), self.widths, axis=1)

    def meta(self) -> dict[str, Any]:
        """JSON values, beside the matrix's columns."""
        return {"tile": list(self.tile), "sections": list(self.sections)}


def _cut(lengths: Sequence[int], size: int) -> np.ndarray:
    pieces = [np.minimum(size, length - np.arange(0, length, size)) for length in lengths]
    return np.concatenate([np.zeros(0, np.int64), *pieces])
