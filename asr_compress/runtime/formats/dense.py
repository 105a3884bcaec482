"""Every weight stored: float32, float16, and int8 with one scale a row."""

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
    checked_tensor,
    checked_weights,
    only,
    rounded,
    row_scales,
)

INT8_LIMIT = 127  # -128 is left out, so that weights are symmetric and pair sums of kernels cannot overflow


@dataclass(frozen=True, eq=False, repr=False)
class Float32(FloatFormat):
    """weights: float32 (rows, cols)."""

    kind = "float32"
    weights: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_tensor("weights", self.weights, np.float32, (None, None)))

    @classmethod
    def encode(cls, weights: np.ndarray) -> Self:
        """(rows, cols) of any float type. Raises InputError if not finite."""
        return cls(checked_weights(weights))

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.weights.shape
        return rows, cols

    def dense(self) -> np.ndarray:
        return self.weights

    def tensors(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, set(), "settings")
        only(cls.kind, tensors, {"weights"}, "tensors")
        return cls(tensors["weights"])


@dataclass(frozen=True, eq=False, repr=False)
class Float16(FloatFormat):
    """weights: float16 (rows, cols), widened to float32 to be multiplied."""

    kind = "float16"
    weights: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_tensor("weights", self.weights, np.float16, (None, None)))

    @classmethod
    def encode(cls, weights: np.ndarray) -> Self:
        """(rows, cols), rounded half to even; magnitudes above 65504 are held there."""
        largest = np.finfo(np.float16).max
        return cls(np.clip(checked_weights(weights), -largest, largest).astype(np.float16))

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.weights.shape
        return rows, cols

    def dense(self) -> np.ndarray:
        return self.weights.astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, set(), "settings")
        only(cls.kind, tensors, {"weights"}, "tensors")
        return cls(tensors["weights"])


@dataclass(frozen=True, eq=False, repr=False)
class Int8(IntegerFormat):
    """codes: int8 (rows, cols) within +-127; scales: float32 (rows,). A weight is code * scale.

    One scale a row, symmetric: the four gates of an LSTM differ in range, and no zero point means that a zero
    weight stays exactly zero.
    """

    kind = "int8"
    codes: np.ndarray
    scales: np.ndarray
    input_scale: float | None = None

    def __post_init__(self) -> None:
        codes = checked_tensor("codes", self.codes, np.int8, (None, None))
        if codes.min(initial=0) < -INT8_LIMIT:
            raise InputError(f"codes contain {codes.min()}; the least is -{INT8_LIMIT}")
        check_sum(INT8_LIMIT * codes.shape[1])
        object.__setattr__(self, "codes", codes)
        scales = checked_tensor("scales", self.scales, np.float32, (codes.shape[0],))
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))

    @classmethod
    def encode(cls, weights: np.ndarray, input_scale: float | None = None) -> Self:
        """(rows, cols); scale = max|row| / 127, codes rounded half to even."""
        weights = checked_weights(weights)
        scales = row_scales(weights, INT8_LIMIT)
        return cls(rounded(weights, scales[:, None], INT8_LIMIT), scales, input_scale)

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def integers(self) -> np.ndarray:
        return self.codes.astype(np.int16)

    def meta(self) -> dict[str, Any]:
        return {"input_scale": self.input_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "scales": self.scales}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"input_scale"}, "settings")
        only(cls.kind, tensors, {"codes", "scales"}, "tensors")
        return cls(tensors["codes"], tensors["scales"], meta["input_scale"])
