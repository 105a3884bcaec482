"""Weights left out, singly or in tiles. It saves bytes, not time: the engine multiplies such a map as a dense one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    index_type,
    only,
    rounded,
    row_scales,
)
from asr_compress.runtime.formats.dense import INT8_LIMIT
from asr_compress.runtime.formats.tiles import Tiling

BITMAP, CSR, TILES = "bitmap", "csr", "tiles"
_LARGEST_MATRIX = 2**31  # a small file may not ask for more memory than any real layer needs


@dataclass(frozen=True, eq=False)
class SparsePattern:
    """Which weights of a (rows, cols) matrix are stored, row by row: by a bitmap, compressed sparse rows, or tiles.

    index "bitmap": bits, uint8 (ceil(rows * cols / 8),), the first weight in the lowest bit.
    index "csr": counts, uint16 (rows,), weights of each row; columns, uint8 up to 256 columns, else uint16.
    index "tiles": bits, uint8 (ceil(tiles / 8),), one for each tile of `tiling`, strip by strip.
    """

    rows: int
    cols: int
    index: str
    arrays: dict[str, np.ndarray]
    tiling: Tiling | None = None
    keep: np.ndarray = field(init=False, repr=False)  # bool (rows, cols)

    def __post_init__(self) -> None:
        checked_size("rows", self.rows)
        checked_size("cols", self.cols)
        if self.rows * self.cols > _LARGEST_MATRIX:
            raise InputError(f"{self.rows} x {self.cols} weights are more than {_LARGEST_MATRIX}")
        if self.index not in (BITMAP, CSR, TILES):
            raise InputError(f"index is {self.index!r}; it must be {BITMAP!r}, {CSR!r} or {TILES!r}")
        readers = {BITMAP: self._keep_of_bitmap, CSR: self._keep_of_csr, TILES: self._keep_of_tiles}
        object.__setattr__(self, "keep", readers[self.index]())

    @classmethod
    def of(cls, keep: np.ndarray, tiling: Tiling | None = None) -> Self:
        """From bool (rows, cols); the index that takes fewer bytes.

        With `tiling`, whose tiles are each kept or left out, a bit for each tile.
        """
        rows, cols = keep.shape
        if tiling is not None:
            tiles = tiling.sums(keep.astype(np.int64)) > 0
            if np.array_equal(tiling.expand(tiles), keep):
                bits = np.packbits(tiles.reshape(-1), bitorder="little")
                return cls(rows, cols, TILES, {"bits": bits}, tiling)
        counts = keep.sum(axis=1)
        bitmap = np.packbits(keep.reshape(-1), bitorder="little")
        wide = cols > 2**8
        if cols >= 2**16 or rows * 2 + int(counts.sum()) * (1 + wide) >= bitmap.nbytes:
            return cls(rows, cols, BITMAP, {"bits": bitmap})
        columns = np.nonzero(keep)[1].astype(index_type(cols))
        return cls(rows, cols, CSR, {"counts": counts.astype(np.uint16), "columns": columns})

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.keep))

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """(count,) -> (rows, cols), zeros elsewhere."""
        matrix = np.zeros((self.rows, self.cols), values.dtype)
        matrix[self.keep] = values
        return matrix

    def meta(self) -> dict[str, Any]:
        tiled = {} if self.tiling is None else self.tiling.meta()
        return {"rows": self.rows, "cols": self.cols, "index": self.index, **tiled}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        tiling = None
        if meta["index"] == TILES:
            tiling = Tiling(meta["tile"], meta["sections"], checked_size("cols", meta["cols"]))
        return cls(meta["rows"], meta["cols"], meta["index"], index_tensors(meta, tensors), tiling)

    def _keep_of_bitmap(self) -> np.ndarray:
        return self._bits(self.rows * self.cols).reshape(self.rows, self.cols)

    def _keep_of_tiles(self) -> np.ndarray:
        tiling = self.tiling
        if tiling is None or (sum(tiling.sections), tiling.cols) != (self.rows, self.cols):
            cut = "nothing" if tiling is None else f"{sum(tiling.sections)} x {tiling.cols}"
            raise InputError(f"tiles are of {cut}; the matrix is {self.rows} x {self.cols}")
        strips, across = tiling.shape
        return tiling.expand(self._bits(strips * across).reshape(strips, across))

    def _bits(self, size: int) -> np.ndarray:
        """bool (size,)."""
        bits = checked_tensor("bits", self.arrays["bits"], np.uint8, (-(-size // 8),))
        unpacked = np.unpackbits(bits, bitorder="little")
        if unpacked[size:].any():
            raise InputError(f"bits beyond the {size} {'tiles' if self.index == TILES else 'weights'} are set")
        return unpacked[:size].astype(np.bool_)

    def _keep_of_csr(self) -> np.ndarray:
        counts = checked_tensor("counts", self.arrays["counts"], np.uint16, (self.rows,))
        total = int(counts.sum(dtype=np.int64))
        columns = checked_tensor("columns", self.arrays["columns"], index_type(self.cols), (total,))
        row_of_weight = np.repeat(np.arange(self.rows, dtype=np.int64), counts)
        if columns.max(initial=0) >= max(self.cols, 1) or np.any(np.diff(row_of_weight * self.cols + columns) <= 0):
            raise InputError(f"columns must ascend within each row and lie below {self.cols}")
        keep = np.zeros((self.rows, self.cols), np.bool_)
        keep[row_of_weight, columns] = True
        return keep


def index_tensors(meta: Mapping[str, Any], tensors: Tensors) -> dict[str, np.ndarray]:
    """Of a sparse format's tensors, those of its index. Raises InputError if they are missing."""
    names = ("counts", "columns") if meta["index"] == CSR else ("bits",)
    for name in names:
        if name not in tensors:
            raise InputError(f"tensor {name!r} is missing; index {meta['index']!r} needs it")
    return {name: tensors[name] for name in names}


def index_settings(meta: Mapping[str, Any]) -> set[str]:
    """The settings that a sparse format has by its index."""
    return {"rows", "cols", "index"} | ({"tile", "sections"} if meta.get("index") == TILES else set())


@dataclass(frozen=True, eq=False, repr=False)
class SparseFloat(FloatFormat):
    """values: float32 or float16 (count,), row by row."""

    kind = "sparse_float"
    pattern: SparsePattern
    values: np.ndarray

    def __post_init__(self) -> None:
        dtype = np.float16 if self.values.dtype == np.float16 else np.float32
        object.__setattr__(self, "values", checked_tensor("values", self.values, dtype, (self.pattern.count,)))

    @classmethod
    def encode(
        cls,
        weights: np.ndarray,
        keep: np.ndarray | None = None,
        half: bool = False,
        tiling: Tiling | None = None,
    ) -> Self:
        """(rows, cols); `keep` and `tiling` as `sparse_pattern` takes them; `half` stores float16."""
        weights = checked_weights(weights)
        pattern = sparse_pattern(weights, keep, tiling)
        values = weights[pattern.keep]
        largest = np.finfo(np.float16).max
        return cls(pattern, np.clip(values, -largest, largest).astype(np.float16) if half else values)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.rows, self.pattern.cols

    def dense(self) -> np.ndarray:
        return self.pattern.scatter(self.values.astype(np.float32))

    def meta(self) -> dict[str, Any]:
        return self.pattern.meta()

    def tensors(self) -> dict[str, np.ndarray]:
        return {**self.pattern.arrays, "values": self.values}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, index_settings(meta), "settings")
        only(cls.kind, tensors, {*index_tensors(meta, tensors), "values"}, "tensors")
        return cls(SparsePattern.from_tensors(meta, tensors), tensors["values"])


@dataclass(frozen=True, eq=False, repr=False)
class SparseInt8(IntegerFormat):
    """codes: int8 (count,) within +-127, row by row; scales: float32 (rows,)."""

    kind = "sparse_int8"
    pattern: SparsePattern
    codes: np.ndarray
    scales: np.ndarray
    input_scale: float | None = None

    def __post_init__(self) -> None:
        codes = checked_tensor("codes", self.codes, np.int8, (self.pattern.count,))
        if codes.min(initial=0) < -INT8_LIMIT:
            raise InputError(f"codes contain {codes.min()}; the least is -{INT8_LIMIT}")
        check_sum(INT8_LIMIT * self.pattern.cols)
        object.__setattr__(self, "codes", codes)
        scales = checked_tensor("scales", self.scales, np.float32, (self.pattern.rows,))
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))

    @classmethod
    def encode(
        cls,
        weights: np.ndarray,
        keep: np.ndarray | None = None,
        input_scale: float | None = None,
        tiling: Tiling | None = None,
    ) -> Self:
        """(rows, cols), scales as in `Int8` but of what is kept; `keep` and `tiling` as in `sparse_pattern`."""
        weights = checked_weights(weights)
        pattern = sparse_pattern(weights, keep, tiling)
        kept = pattern.scatter(weights[pattern.keep])
        scales = row_scales(kept, INT8_LIMIT)
        return cls(pattern, rounded(kept, scales[:, None], INT8_LIMIT)[pattern.keep], scales, input_scale)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pattern.rows, self.pattern.cols

    def integers(self) -> np.ndarray:
        return self.pattern.scatter(self.codes.astype(np.int16))

    def meta(self) -> dict[str, Any]:
        return {**self.pattern.meta(), "input_scale": self.input_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {**self.pattern.arrays, "codes": self.codes, "scales": self.scales}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, index_settings(meta) | {"input_scale"}, "settings")
        only(cls.kind, tensors, {*index_tensors(meta, tensors), "codes", "scales"}, "tensors")
        pattern = SparsePattern.from_tensors(meta, tensors)
        return cls(pattern, tensors["codes"], tensors["scales"], meta["input_scale"])


def sparse_pattern(weights: np.ndarray, keep: np.ndarray | None, tiling: Tiling | None = None) -> SparsePattern:
    """Which weights of float32 (rows, cols) are stored.

    Args:
        keep: bool of the same shape; None keeps what is not zero.
        tiling: tiles that were kept or dropped whole, for a smaller index; one that does not fit `keep` is not used.
    """
    if keep is None:
        keep = weights != 0
    if keep.shape != weights.shape or keep.dtype != np.bool_:
        raise InputError(f"keep is {keep.dtype} {keep.shape}; it must be bool {weights.shape}")
    return SparsePattern.of(keep, tiling)
