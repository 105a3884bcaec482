"""Weights that share a few values: a table, and for each weight an index into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

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
    only,
    rounded,
    row_scales,
)
from asr_compress.runtime.formats.dense import INT8_LIMIT
from asr_compress.runtime.formats.nibbles import pack_nibbles, unpack_nibbles

NIBBLE_ENTRIES, LARGEST_TABLE = 16, 256
_ITERATIONS = 50


@dataclass(frozen=True, eq=False, repr=False)
class Codebook(FloatFormat):
    """codes: indices into the table, see `pack_codes`. table: float32 (entries,), 1 to 256 of them.

    Trained quantization by shared weights: Han et al. 2016, https://arxiv.org/abs/1510.00149.
    """

    kind = "codebook"
    codes: np.ndarray
    table: np.ndarray
    cols: int

    def __post_init__(self) -> None:
        table = checked_tensor("table", self.table, np.float32, (None,))
        codes = _checked_codes(self.codes, table.shape[0], self.cols)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "codes", codes)

    @classmethod
    def encode(cls, weights: np.ndarray, entries: int = NIBBLE_ENTRIES) -> Self:
        """(rows, cols); the table by k-means. Zeros, if there are any, stay exactly zero."""
        weights = checked_weights(weights)
        table = kmeans(weights, entries)
        return cls(pack_codes(nearest(weights, table), len(table)), table, weights.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def dense(self) -> np.ndarray:
        return self.table[_unpacked(self.codes, len(self.table), self.cols)]

    def meta(self) -> dict[str, Any]:
        return {"cols": self.cols}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "table": self.table}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols"}, "settings")
        only(cls.kind, tensors, {"codes", "table"}, "tensors")
        return cls(tensors["codes"], tensors["table"], meta["cols"])


@dataclass(frozen=True, eq=False, repr=False)
class CodebookInt8(IntegerFormat):
    """A table of integers, the same for all rows, times a scale for each: a weight is table[code] * scale.

    codes: as in `Codebook`. table: int8 (entries,) within +-127. scales: float32 (rows,). With up to 16 entries
    a kernel looks weights up with one byte shuffle and multiplies them as int8.
    """

    kind = "codebook_int8"
    codes: np.ndarray
    table: np.ndarray
    scales: np.ndarray
    cols: int
    input_scale: float | None = None

    def __post_init__(self) -> None:
        table = checked_tensor("table", self.table, np.int8, (None,))
        if table.min(initial=0) < -INT8_LIMIT:
            raise InputError(f"table contains {table.min()}; the least is -{INT8_LIMIT}")
        codes = _checked_codes(self.codes, table.shape[0], self.cols)
        check_sum(INT8_LIMIT * self.cols)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "scales", checked_tensor("scales", self.scales, np.float32, (codes.shape[0],)))
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))

    @classmethod
    def encode(cls, weights: np.ndarray, entries: int = NIBBLE_ENTRIES, input_scale: float | None = None) -> Self:
        """(rows, cols); rows are scaled to +-127, then as in `Codebook`, with the table rounded to integers."""
        weights = checked_weights(weights)
        scales = row_scales(weights, INT8_LIMIT)
        scaled = weights / np.where(scales > 0, scales, np.float32(1))[:, None]
        centers = kmeans(scaled, entries)
        table = np.unique(rounded(centers, np.ones_like(centers), INT8_LIMIT))
        codes = pack_codes(nearest(scaled, table.astype(np.float32)), len(table))
        return cls(codes, table, scales, weights.shape[1], input_scale)

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def integers(self) -> np.ndarray:
        return self.table.astype(np.int16)[_unpacked(self.codes, len(self.table), self.cols)]

    def meta(self) -> dict[str, Any]:
        return {"cols": self.cols, "input_scale": self.input_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "table": self.table, "scales": self.scales}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "input_scale"}, "settings")
        only(cls.kind, tensors, {"codes", "table", "scales"}, "tensors")
        return cls(tensors["codes"], tensors["table"], tensors["scales"], meta["cols"], meta["input_scale"])


def pack_codes(indices: np.ndarray, entries: int) -> np.ndarray:
    """Indices (rows, cols) as stored: uint8 (rows, ceil(cols / 2)) nibbles for up to 16 entries, else (rows, cols)."""
    return pack_nibbles(indices) if entries <= NIBBLE_ENTRIES else indices.astype(np.uint8)


def kmeans(weights: np.ndarray, entries: int) -> np.ndarray:
    """Ascending float32 centers, at most `entries`, of all values of `weights` (Lloyd 1982).

    Centers begin evenly between the least and the largest value, which keeps the rare large weights that matter
    most (Han et al. 2016, section 3.2). Where there are exact zeros, one center is zero and stays so.
    """
    if not 1 <= checked_size("entries", entries, 1) <= LARGEST_TABLE:
        raise InputError(f"entries is {entries}; it must be 1 to {LARGEST_TABLE}")
    values = np.sort(weights.reshape(-1).astype(np.float64))
    pinned = np.zeros(int((values == 0).any()))
    values = values[values != 0]
    free = min(entries - len(pinned), len(np.unique(values)))
    if free == 0:
        return (pinned if len(pinned) else np.zeros(1)).astype(np.float32)
    # Values are sorted, so a cluster is a range of them and its mean a difference of running sums.
    running = np.concatenate([[0.0], np.cumsum(values)])
    centers = np.linspace(values[0], values[-1], free)
    for _ in range(_ITERATIONS):
        middles = (centers[1:] + centers[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(values, middles), [len(values)]])
        counts = np.diff(bounds)
        means = np.diff(running[bounds]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return np.unique(np.concatenate([centers, pinned]).astype(np.float32))


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of an ascending table for each value; any shape, int64. Zero goes to zero."""
    indices = np.searchsorted((table[1:] + table[:-1]) / 2, values)
    zero = np.flatnonzero(table == 0)
    return np.where(values == 0, zero[0], indices) if len(zero) else indices


def _unpacked(codes: np.ndarray, entries: int, cols: int) -> np.ndarray:
    return unpack_nibbles(codes, cols) if entries <= NIBBLE_ENTRIES else codes


def _checked_codes(codes: np.ndarray, entries: int, cols: int) -> np.ndarray:
    checked_size("cols", cols)
    if not 1 <= entries <= LARGEST_TABLE:
        raise InputError(f"the table has {entries} entries; it must have 1 to {LARGEST_TABLE}")
    width = -(-cols // 2) if entries <= NIBBLE_ENTRIES else cols
    codes = checked_tensor("codes", codes, np.uint8, (None, width))
    if _unpacked(codes, entries, cols).max(initial=0) >= entries:
        raise InputError(f"codes point beyond the table's {entries} entries")
    return codes
