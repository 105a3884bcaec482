"""Weight formats: how a matrix is stored. Size on disk, multiply-accumulates and speed all follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats.base import FloatFormat, IntegerFormat, Tensors, WeightFormat
from asr_compress.runtime.formats.dense import Float16, Float32, Int8
from asr_compress.runtime.formats.int4 import Int4

FORMATS: dict[str, type[WeightFormat]] = {
    format_class.kind: format_class for format_class in (Float32, Float16, Int8, Int4)
}

__all__ = [
    "FORMATS",
    "Float16",
    "Float32",
    "FloatFormat",
    "Int4",
    "Int8",
    "IntegerFormat",
    "Tensors",
    "WeightFormat",
    "decode",
]


def decode(kind: str, meta: Mapping[str, Any], tensors: Tensors) -> WeightFormat:
    """The format that `kind`, `meta()` and `tensors()` describe. Raises InputError for what does not fit."""
    if kind not in FORMATS:
        raise InputError(f"weight format {kind!r} is unknown; known are {', '.join(sorted(FORMATS))}")
    return FORMATS[kind].from_tensors(meta, tensors)
