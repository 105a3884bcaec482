"""Blocks of 16 rows by 4 columns, the rest zero: what one vector dot product takes in a single instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats.base import (
    FloatFormat,
    IntegerFormat,
    Tensors,
    check_sum,
    checked_scale,
    checked_size,
    checked_tensor,
    checked_weights,
    index_type,
    only,
    rounded,
    row_scales,
)
from asr_compress.runtime.formats.dense import INT8_LIMIT
from asr_compress.runtime.formats.int4 import LARGEST_MULTIPLIER, LEAST, ZERO, encode_groups
from asr_compress.runtime.formats.nibbles import pack_nibbles, unpack_nibbles

BLOCK_ROWS, BLOCK_COLS = 16, 4
GROUP_BLOCKS = 8  # neighbors in a strip that share an int4 multiplier: 32 columns, as in `Int4`


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """Where the blocks of a (rows, cols) matrix are.

    Rows are cut into strips of 16, anew at the start of each section; the last strip of a section may be
    shorter. `sections` are the rows of each gate of an LSTM map, so that a strip never spans two gates.

    counts: uint16 (strips,), blocks of each strip. columns: uint8, or uint16 beyond 256 * 4 columns, (blocks,):
    strip by strip, ascending within a strip, a block's first column divided by 4.
    """

    counts: np.ndarray
    columns: np.ndarray
    cols: int
    sections: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.sections, (tuple, list)) or not self.sections:
            raise InputError(f"sections is {self.sections!r}; it must list the rows of each section")
        sections = tuple(checked_size("sections", rows) for rows in self.sections)
        object.__setattr__(self, "sections", sections)
        across = -(-checked_size("cols", self.cols) // BLOCK_COLS)
        counts = checked_tensor("counts", self.counts, np.uint16, (len(strip_sizes(sections)),))
        total = int(counts.sum(dtype=np.int64))
        columns = checked_tensor("columns", self.columns, index_type(across), (total,))
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "columns", columns)
        places = self.strip_of_block.astype(np.int64) * across + columns
        if columns.max(initial=0) >= max(across, 1) or np.any(np.diff(places) <= 0):
            raise InputError(f"columns of blocks must ascend within each strip and lie below {across}")

    @classmethod
    def of(cls, keep: np.ndarray, cols: int, sections: Sequence[int]) -> Self:
        """From bool (strips, ceil(cols / 4)): which blocks are stored."""
        expected = (len(strip_sizes(sections)), -(-cols // BLOCK_COLS))
        if keep.shape != expected or keep.dtype != np.bool_:
            raise InputError(f"keep is {keep.dtype} {keep.shape}; it must be bool {expected} (strips, column blocks)")
        columns = np.nonzero(keep)[1].astype(index_type(expected[1]))
        return cls(keep.sum(axis=1).astype(np.uint16), columns, cols, tuple(sections))

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.sections), self.cols

    @property
    def blocks(self) -> int:
        return int(self.columns.shape[0])

    @cached_property
    def strip_of_block(self) -> np.ndarray:
        """int64 (blocks,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def macs(self) -> int:
        """Weights in blocks, without what sticks out over the edges of a section or of the matrix."""
        rows = strip_sizes(self.sections)[self.strip_of_block]
        cols = np.minimum(BLOCK_COLS, self.cols - self.columns.astype(np.int64) * BLOCK_COLS)
        return int((rows * cols).sum())

    @property
    def groups(self) -> np.ndarray:
        """int64 (strips,): groups of up to 8 neighboring blocks in each strip."""
        return -(-self.counts.astype(np.int64) // GROUP_BLOCKS)

    @cached_property
    def group_of_block(self) -> np.ndarray:
        """int64 (blocks,): groups are numbered through all strips."""
        ends = np.cumsum(self.counts, dtype=np.int64)
        within = np.arange(self.blocks) - np.repeat(ends - self.counts, self.counts)
        first = np.cumsum(self.groups) - self.groups
        return first[self.strip_of_block] + within // GROUP_BLOCKS

    def gather(self, matrix: np.ndarray) -> np.ndarray:
        """(rows, cols) -> (blocks, 16, 4), zeros beyond the edges."""
        return as_blocks(matrix, self.sections)[self.strip_of_block, :, self.columns.astype(np.int64)]

    def scatter(self, blocks: np.ndarray) -> np.ndarray:
        """The inverse: (blocks, 16, 4) -> (rows, cols), zeros elsewhere."""
        across = -(-self.cols // BLOCK_COLS)
        strips = np.zeros((len(self.counts), BLOCK_ROWS, across, BLOCK_COLS), blocks.dtype)
        strips[self.strip_of_block, :, self.columns.astype(np.int64)] = blocks
        rows = strips.reshape(len(self.counts) * BLOCK_ROWS, across * BLOCK_COLS)
        return rows[padded_rows(self.sections), : self.cols]

    def meta(self) -> dict[str, Any]:
        return {"cols": self.cols, "sections": list(self.sections)}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts, "columns": self.columns}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        return cls(tensors["counts"], tensors["columns"], meta["cols"], meta["sections"])


@dataclass(frozen=True, eq=False, repr=False)
class BlockSparseFloat32(FloatFormat):
    """blocks: float32 (blocks, 16, 4)."""

    kind = "block_sparse_float32"
    pattern: BlockPattern
    blocks: np.ndarray

    def __post_init__(self) -> None:
        shape = (self.pattern.blocks, BLOCK_ROWS, BLOCK_COLS)
        object.__setattr__(self, "blocks", checked_tensor("blocks", self.blocks, np.float32, shape))

    @classmethod
    def encode(cls, weights: np.ndarray, keep: np.ndarray | None = None, sections: Sequence[int] | None = None) -> Self:
        """(rows, cols); `keep` and `sections` as `block_pattern` takes them."""
        weights = checked_weights(weights)
        pattern = block_pattern(weights, keep, sections)
        return cls(pattern, pattern.gather(weights))

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.shape

    @property
    def macs(self) -> int:
        return self.pattern.macs

    def dense(self) -> np.ndarray:
        return self.pattern.scatter(self.blocks)

    def meta(self) -> dict[str, Any]:
        return self.pattern.meta()

    def tensors(self) -> dict[str, np.ndarray]:
        return {**self.pattern.tensors(), "blocks": self.blocks}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "sections"}, "settings")
        only(cls.kind, tensors, {"counts", "columns", "blocks"}, "tensors")
        return cls(BlockPattern.from_tensors(meta, tensors), tensors["blocks"])


class _BlockSparseInteger(IntegerFormat):
    """What the two integer kinds share."""

    pattern: BlockPattern
    _tensor_names: ClassVar[set[str]]

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.shape

    @property
    def macs(self) -> int:
        return self.pattern.macs

    def meta(self) -> dict[str, Any]:
        return {**self.pattern.meta(), "input_scale": self.input_scale}

    def _check_scales(self) -> None:
        scales = checked_tensor("scales", self.scales, np.float32, (self.shape[0],))
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))


@dataclass(frozen=True, eq=False, repr=False)
class BlockSparseInt8(_BlockSparseInteger):
    """codes: int8 (blocks, 16, 4) within +-127; scales: float32 (rows,)."""

    kind = "block_sparse_int8"
    pattern: BlockPattern
    codes: np.ndarray
    scales: np.ndarray
    input_scale: float | None = None

    def __post_init__(self) -> None:
        shape = (self.pattern.blocks, BLOCK_ROWS, BLOCK_COLS)
        codes = checked_tensor("codes", self.codes, np.int8, shape)
        if codes.min(initial=0) < -INT8_LIMIT:
            raise InputError(f"codes contain {codes.min()}; the least is -{INT8_LIMIT}")
        check_sum(INT8_LIMIT * self.pattern.cols)
        object.__setattr__(self, "codes", codes)
        self._check_scales()

    @classmethod
    def encode(
        cls,
        weights: np.ndarray,
        keep: np.ndarray | None = None,
        sections: Sequence[int] | None = None,
        input_scale: float | None = None,
    ) -> Self:
        """(rows, cols), scales as in `Int8` but of what is kept; `keep` and `sections` as in `block_pattern`."""
        weights = checked_weights(weights)
        pattern = block_pattern(weights, keep, sections)
        kept = pattern.scatter(pattern.gather(weights))
        scales = row_scales(kept, INT8_LIMIT)
        codes = pattern.gather(rounded(kept, scales[:, None], INT8_LIMIT))
        return cls(pattern, codes, scales, input_scale)

    def integers(self) -> np.ndarray:
        return self.pattern.scatter(self.codes.astype(np.int16))

    def tensors(self) -> dict[str, np.ndarray]:
        return {**self.pattern.tensors(), "codes": self.codes, "scales": self.scales}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "sections", "input_scale"}, "settings")
        only(cls.kind, tensors, {"counts", "columns", "codes", "scales"}, "tensors")
        pattern = BlockPattern.from_tensors(meta, tensors)
        return cls(pattern, tensors["codes"], tensors["scales"], meta["input_scale"])


@dataclass(frozen=True, eq=False, repr=False)
class BlockSparseInt4(_BlockSparseInteger):
    """Blocks of `Int4` weights: (nibble - 8) * multiplier * scale of the row.

    codes: uint8 (blocks, 16, 2), nibbles. multipliers: uint8 (groups, 16), for each row of 8 neighboring blocks
    of a strip; groups in the order of blocks, anew at each strip. scales: float32 (rows,).
    """

    kind = "block_sparse_int4"
    pattern: BlockPattern
    codes: np.ndarray
    multipliers: np.ndarray
    scales: np.ndarray
    input_scale: float | None = None

    def __post_init__(self) -> None:
        shape = (self.pattern.blocks, BLOCK_ROWS, BLOCK_COLS // 2)
        object.__setattr__(self, "codes", checked_tensor("codes", self.codes, np.uint8, shape))
        groups = int(self.pattern.groups.sum())
        multipliers = checked_tensor("multipliers", self.multipliers, np.uint8, (groups, BLOCK_ROWS))
        check_sum(-LEAST * LARGEST_MULTIPLIER * int(self.pattern.counts.max(initial=0)) * BLOCK_COLS)
        object.__setattr__(self, "multipliers", multipliers)
        self._check_scales()

    @classmethod
    def encode(
        cls,
        weights: np.ndarray,
        keep: np.ndarray | None = None,
        sections: Sequence[int] | None = None,
        input_scale: float | None = None,
    ) -> Self:
        """(rows, cols), quantized as `Int4.encode` does; `keep` and `sections` as in `block_pattern`."""
        weights = checked_weights(weights)
        pattern = block_pattern(weights, keep, sections)
        blocks = pattern.gather(weights)
        codes = np.zeros(blocks.shape, np.uint8)
        multipliers = np.zeros((int(pattern.groups.sum()), BLOCK_ROWS), np.uint8)
        scales = np.ones((len(pattern.counts), BLOCK_ROWS), np.float32)
        block = group = 0
        for strip, (count, groups) in enumerate(zip(pattern.counts.tolist(), pattern.groups.tolist(), strict=True)):
            side_by_side = blocks[block : block + count].transpose(1, 0, 2).reshape(BLOCK_ROWS, count * BLOCK_COLS)
            nibbles, strip_multipliers, scales[strip] = encode_groups(side_by_side, GROUP_BLOCKS * BLOCK_COLS)
            codes[block : block + count] = nibbles.reshape(BLOCK_ROWS, count, BLOCK_COLS).transpose(1, 0, 2)
            multipliers[group : group + groups] = strip_multipliers.T
            block, group = block + count, group + groups
        row_scale = scales.reshape(-1)[padded_rows(pattern.sections)]
        return cls(pattern, pack_nibbles(codes), multipliers, row_scale, input_scale)

    def integers(self) -> np.ndarray:
        codes = unpack_nibbles(self.codes, BLOCK_COLS).astype(np.int16) - ZERO
        return self.pattern.scatter(codes * self.multipliers[self.pattern.group_of_block][:, :, None])

    def tensors(self) -> dict[str, np.ndarray]:
        own = {"codes": self.codes, "multipliers": self.multipliers, "scales": self.scales}
        return {**self.pattern.tensors(), **own}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "sections", "input_scale"}, "settings")
        only(cls.kind, tensors, {"counts", "columns", "codes", "multipliers", "scales"}, "tensors")
        pattern = BlockPattern.from_tensors(meta, tensors)
        return cls(pattern, tensors["codes"], tensors["multipliers"], tensors["scales"], meta["input_scale"])


BLOCK_SPARSE: dict[str, type[BlockSparseFloat32 | BlockSparseInt8 | BlockSparseInt4]] = {
    "float32": BlockSparseFloat32,
    "int8": BlockSparseInt8,
    "int4": BlockSparseInt4,
}


def block_pattern(
    weights: np.ndarray, keep: np.ndarray | None = None, sections: Sequence[int] | None = None
) -> BlockPattern:
    """Which blocks of float32 (rows, cols) are stored.

    Args:
        weights: the matrix.
        keep: bool (strips, ceil(cols / 4)); None keeps the blocks that hold a nonzero weight.
        sections: rows of each section, such as the four gates; None is one section.
    """
    sections = (weights.shape[0],) if sections is None else tuple(sections)
    if sum(sections) != weights.shape[0]:
        raise InputError(f"sections {sections} are {sum(sections)} rows; the matrix has {weights.shape[0]}")
    if keep is None:
        keep = np.any(as_blocks(weights, sections) != 0, axis=(1, 3))
    return BlockPattern.of(np.asarray(keep), weights.shape[1], sections)


def strip_sizes(sections: Sequence[int]) -> np.ndarray:
    """int64 (strips,): rows of each strip."""
    sizes = [min(BLOCK_ROWS, rows - first) for rows in sections for first in range(0, rows, BLOCK_ROWS)]
    return np.array(sizes, np.int64)


def padded_rows(sections: Sequence[int]) -> np.ndarray:
    """int64 (rows,): where each row stands once all strips are filled up to 16 rows."""
    sizes = strip_sizes(sections)
    within = np.arange(BLOCK_ROWS)[None, :] < sizes[:, None]
    return np.flatnonzero(within)


def as_blocks(matrix: np.ndarray, sections: Sequence[int]) -> np.ndarray:
    """(rows, cols) -> (strips, 16, ceil(cols / 4), 4), zeros beyond the edges."""
    cols = matrix.shape[1]
    strips, across = len(strip_sizes(sections)), -(-cols // BLOCK_COLS)
    padded = np.zeros((strips * BLOCK_ROWS, across * BLOCK_COLS), matrix.dtype)
    padded[padded_rows(sections), :cols] = matrix
    return padded.reshape(strips, BLOCK_ROWS, across, BLOCK_COLS)
