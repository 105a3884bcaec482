"""A trained matrix into its weight format: by kind of number and by layout of what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import (
    Binary,
    BlockSparseFloat32,
    BlockSparseInt4,
    BlockSparseInt8,
    Codebook,
    CodebookInt8,
    Float16,
    Float32,
    Int4,
    Int4Float,
    Int8,
    SparseFloat,
    SparseInt8,
    Ternary,
    Tiling,
    WeightFormat,
)
from asr_compress.runtime.formats.block_sparse import as_blocks, block_pattern
from asr_compress.runtime.formats.sparse import sparse_pattern

Layout = Literal["dense", "blocks", "sparse"]
# What each layout can hold. Four bits and less have no sparse form of their own: zeros are codes like others there.
NUMBERS: dict[str, tuple[str, ...]] = {
    "dense": ("float32", "float16", "int8", "int4", "int4_float", "ternary", "binary", "codebook", "codebook_int8"),
    "blocks": ("float32", "int8", "int4"),
    "sparse": ("float32", "float16", "int8", "int4", "int4_float", "ternary", "codebook", "codebook_int8"),
}


def check_storage(numbers: str, layout: Layout) -> None:
    """Raises InputError if no format holds such `numbers` in such a layout."""
    if numbers not in NUMBERS[layout]:
        held = {"dense": "an unmasked map", "blocks": "a map in blocks", "sparse": "a map with weights left out"}
        raise InputError(f"{held[layout]} cannot be stored as {numbers}; it can as {', '.join(NUMBERS[layout])}")


def store(
    matrix: np.ndarray,
    numbers: str = "float32",
    layout: Layout = "dense",
    keep: np.ndarray | None = None,
    sections: Sequence[int] | None = None,
    input_scale: float | None = None,
    tiling: Tiling | None = None,
) -> WeightFormat:
    """float32 (rows, cols) in the format for `numbers` and `layout`.

    Args:
        keep: bool (rows, cols), the weights that a layout of blocks or single weights stores; what is not zero if None.
        sections: rows of each gate, which blocks do not cross.
        input_scale: fixed scale of the activations, for integers.
        tiling: tiles in which weights were left out, for a layout of single weights.
    """
    check_storage(numbers, layout)
    if layout == "blocks":
        blocks = kept_blocks(keep, sections)
        if numbers == "float32":
            return BlockSparseFloat32.encode(matrix, blocks, sections)
        return (BlockSparseInt8 if numbers == "int8" else BlockSparseInt4).encode(matrix, blocks, sections, input_scale)
    dense = _store_dense(matrix, numbers, input_scale)
    if layout == "dense" or numbers not in ("float32", "float16", "int8"):
        return dense
    sparse: WeightFormat
    if numbers == "int8":
        sparse = SparseInt8.encode(matrix, keep, input_scale, tiling)
    else:
        sparse = SparseFloat.encode(matrix, keep, half=numbers == "float16", tiling=tiling)
    return sparse if sparse.nbytes < dense.nbytes else dense


def kept_blocks(keep: np.ndarray | None, sections: Sequence[int] | None) -> np.ndarray | None:
    """bool (strips, column blocks) of which blocks hold a kept weight, from bool (rows, cols)."""
    return None if keep is None else np.asarray(as_blocks(keep, sections or (len(keep),)).any(axis=(1, 3)))


def _store_dense(matrix: np.ndarray, numbers: str, input_scale: float | None) -> WeightFormat:
    if numbers == "float32":
        return Float32.encode(matrix)
    if numbers == "float16":
        return Float16.encode(matrix)
    if numbers == "codebook":
        return Codebook.encode(matrix)
    if numbers == "codebook_int8":
        return CodebookInt8.encode(matrix, input_scale=input_scale)
    if numbers == "int8":
        return Int8.encode(matrix, input_scale)
    if numbers == "int4":
        return Int4.encode(matrix, input_scale=input_scale)
    if numbers == "int4_float":
        return Int4Float.encode(matrix)
    return (Ternary if numbers == "ternary" else Binary).encode(matrix, input_scale)


def store_int8(
    codes: np.ndarray,
    scales: np.ndarray,
    layout: Layout = "dense",
    keep: np.ndarray | None = None,
    sections: Sequence[int] | None = None,
    input_scale: float | None = None,
    tiling: Tiling | None = None,
) -> WeightFormat:
    """Integers (rows, cols) within +-127 with given (learned) scales float32 (rows,)."""
    codes = codes.astype(np.int8)
    dense = Int8(codes, scales, input_scale)
    if layout == "blocks":
        pattern = block_pattern(codes.astype(np.float32), kept_blocks(keep, sections), sections)
        return BlockSparseInt8(pattern, pattern.gather(codes), scales, input_scale)
    if layout == "dense":
        return dense
    places = sparse_pattern(codes.astype(np.float32), keep, tiling)
    sparse = SparseInt8(places, codes[places.keep], scales, input_scale)
    return sparse if sparse.nbytes < dense.nbytes else dense
