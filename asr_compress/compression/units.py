"""What pruning keeps or drops together, and how it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from asr_compress.runtime.formats import Tiling
from asr_compress.runtime.formats.block_sparse import BLOCK_COLS, BLOCK_ROWS


def in_strips(block: tuple[int, int]) -> bool:
    """Whether blocks of such rows and columns are made of those that the engine skips, and are stored as these."""
    return block[0] % BLOCK_ROWS == 0 and block[1] % BLOCK_COLS == 0


@dataclass(frozen=True)
class Units:
    """The units of one map.

    Attributes:
        unit: "weight" or "block".
        shape: (rows, cols) of the map.
        sections: rows of each gate, which blocks do not cross.
        block: rows and columns of a block.
    """

    unit: str
    shape: tuple[int, int]
    sections: tuple[int, ...]
    block: tuple[int, int] = (BLOCK_ROWS, BLOCK_COLS)

    @cached_property
    def tiling(self) -> Tiling:
        """The blocks; a weight is a block of one."""
        return Tiling(self.block if self.unit == "block" else (1, 1), self.sections, self.shape[1])

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Mean score of each unit: float (rows, cols) -> (rows, cols), or (strips, blocks of a strip)."""
        return scores if self.unit == "weight" else self.tiling.sums(scores) / self.sizes()

    def sizes(self) -> np.ndarray:
        """Weights of each unit; blocks at the edges have fewer."""
        return self.tiling.sizes

    def expand(self, keep: np.ndarray) -> np.ndarray:
        """bool over units -> bool (rows, cols)."""
        return keep if self.unit == "weight" else self.tiling.expand(keep)

    def groups(self, scope: str) -> np.ndarray:
        """Which units compete with each other, as int64 over units: those of a "strip", of a "gate", or of the "map".

        A strip is as many rows as a block has, and one row for weights.
        """
        rows, cols = self.tiling.shape
        if scope == "strip":
            of_row = np.arange(rows)
        elif scope == "gate":
            height = self.tiling.tile[0]
            of_row = np.repeat(np.arange(len(self.sections)), [-(-size // height) for size in self.sections])
        else:
            of_row = np.zeros(rows, np.int64)
        return np.broadcast_to(of_row[:, None], (rows, cols))


def keep_best(scores: np.ndarray, drop: int) -> np.ndarray:
    """bool, the shape of `scores`: all but the `drop` lowest. Of equals, those that come first are dropped."""
    flat = scores.reshape(-1)
    keep = np.ones(flat.shape, np.bool_)
    if drop >= flat.size:
        return ~keep.reshape(scores.shape)
    if drop > 0:
        limit = np.partition(flat, drop - 1)[drop - 1]
        keep[flat < limit] = False
        keep[np.flatnonzero(flat == limit)[: drop - int((~keep).sum())]] = False
    return keep.reshape(scores.shape)


def keep_in_groups(scores: np.ndarray, groups: np.ndarray, sparsity: np.ndarray | float) -> np.ndarray:
    """The best of each group.

    Args:
        scores: float, one a unit.
        groups: int64 from 0, the same shape.
        sparsity: share to drop, for all groups or one number for each; counts are rounded to the nearest.
    """
    found = members(groups, np.size(sparsity))
    shares = np.broadcast_to(np.asarray(sparsity, float), (len(found),))
    flat, keep = scores.reshape(-1), np.ones(scores.size, np.bool_)
    for places, share in zip(found, shares.tolist(), strict=True):
        keep[places] = keep_best(flat[places], round(share * len(places)))
    return keep.reshape(scores.shape)


def members(groups: np.ndarray, count: int = 0) -> list[np.ndarray]:
    """The units of each group, of `count` at least: int64, ascending, as they lie in the flat array."""
    flat = groups.reshape(-1)
    ends = np.cumsum(np.bincount(flat, minlength=count))[:-1]
    return np.split(np.argsort(flat, kind="stable"), ends)  # one pass where groups ascend, as those of `Units` do


def keep_globally(scores: Sequence[np.ndarray], sparsity: float, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All maps in one competition: the lowest units go until `sparsity` of all weights is gone.

    Args:
        scores: one array of unit scores a map.
        weights: int64, weights of each unit, in the same shapes.
    """
    flat = np.concatenate([part.reshape(-1) for part in scores])
    sizes = np.concatenate([part.reshape(-1) for part in weights])
    limit = sparsity * sizes.sum() + 1e-9
    if sizes.size and sizes.min() == sizes.max():  # sorting 40 M weights takes a quarter of a minute
        keep = keep_best(flat, int(limit // sizes[0]))
    else:
        order = np.argsort(flat, kind="stable")
        keep = np.ones(flat.shape, np.bool_)
        keep[order[np.cumsum(sizes[order]) <= limit]] = False
    ends = np.cumsum([part.size for part in scores])[:-1]
    return [part.reshape(like.shape) for part, like in zip(np.split(keep, ends), scores, strict=True)]
