"""Weight formats: how a matrix is stored. Size on disk, multiply-accumulates and speed all follow from it."""

from __future__ import annotations

from asr_compress.runtime.formats.base import (
    FORMATS,
    FloatFormat,
    IntegerFormat,
    Tensors,
    WeightFormat,
    decode,
)
from asr_compress.runtime.formats.block_sparse import (
    BLOCK_SPARSE,
    BlockPattern,
    BlockSparseFloat32,
    BlockSparseInt4,
    BlockSparseInt8,
)
from asr_compress.runtime.formats.codebook import Codebook, CodebookInt8
from asr_compress.runtime.formats.dense import Float16, Float32, Int8
from asr_compress.runtime.formats.int4 import Int4, Int4Float
from asr_compress.runtime.formats.low_rank import LowRank
from asr_compress.runtime.formats.sparse import SparseFloat, SparseInt8, SparsePattern
from asr_compress.runtime.formats.ternary import Binary, Ternary
from asr_compress.runtime.formats.tiles import Tiling

__all__ = [
    "BLOCK_SPARSE",
    "FORMATS",
    "Binary",
    "BlockPattern",
    "BlockSparseFloat32",
    "BlockSparseInt4",
    "BlockSparseInt8",
    "Codebook",
    "CodebookInt8",
    "Float16",
    "Float32",
    "FloatFormat",
    "Int4",
    "Int4Float",
    "Int8",
    "IntegerFormat",
    "LowRank",
    "SparseFloat",
    "SparseInt8",
    "SparsePattern",
    "Tensors",
    "Ternary",
    "Tiling",
    "WeightFormat",
    "decode",
]
