"""Weights of two bits or one: a sign and, for ternary weights, zero, times one scale a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats.base import (
    IntegerFormat,
    Tensors,
    checked_scale,
    checked_size,
    checked_tensor,
    checked_weights,
    only,
)

# A weight becomes zero below this share of its row's mean magnitude: the best for normally distributed weights.
TERNARY_THRESHOLD = 0.7


class _PackedSigns(IntegerFormat):
    """What the two kinds share: codes packed within each row, and one scale a row."""

    codes: np.ndarray
    cols: int

    def _check(self, per_byte: int) -> None:
        width = -(-checked_size("cols", self.cols) // per_byte)
        codes = checked_tensor("codes", self.codes, np.uint8, (None, width))
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "scales", checked_tensor("scales", self.scales, np.float32, (codes.shape[0],)))
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def meta(self) -> dict[str, Any]:
        return {"cols": self.cols, "input_scale": self.input_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "scales": self.scales}


@dataclass(frozen=True, eq=False, repr=False)
class Ternary(_PackedSigns):
    """codes: uint8 (rows, ceil(cols / 4)), two bits a weight, the first lowest: 0 is -1, 1 is 0, 2 is 1.

    scales: float32 (rows,). Li et al. 2016, https://arxiv.org/abs/1605.04711.
    """

    kind = "ternary"
    codes: np.ndarray
    scales: np.ndarray
    cols: int
    input_scale: float | None = None

    def __post_init__(self) -> None:
        self._check(per_byte=4)
        if (self._unpacked() > 2).any():
            raise InputError("codes contain 3; a ternary weight is 0, 1 or 2")

    @classmethod
    def encode(cls, weights: np.ndarray, input_scale: float | None = None) -> Self:
        """(rows, cols); zero below 0.7 of the row's mean magnitude, the scale is the mean of the others'."""
        weights = checked_weights(weights)
        magnitudes = np.abs(weights)
        # An empty row has no mean; its scale is not used.
        mean = magnitudes.sum(axis=1) / max(weights.shape[1], 1)
        keep = magnitudes > (TERNARY_THRESHOLD * mean)[:, None]
        scales = (magnitudes * keep).sum(axis=1) / np.maximum(keep.sum(axis=1), 1)
        signs = (np.sign(weights) * keep).astype(np.int8)
        return cls.pack(signs, np.where(keep.any(axis=1), scales, 1).astype(np.float32), input_scale)

    @classmethod
    def pack(cls, signs: np.ndarray, scales: np.ndarray, input_scale: float | None = None) -> Self:
        """From int8 (rows, cols) of -1, 0 and 1, and float32 (rows,) scales."""
        rows, cols = signs.shape
        padded = np.ones((rows, -(-cols // 4) * 4), np.uint8)
        padded[:, :cols] = signs + 1
        quads = padded.reshape(rows, -(-cols // 4), 4) << np.array([0, 2, 4, 6], np.uint8)
        return cls(quads.sum(axis=2, dtype=np.uint8), scales, cols, input_scale)

    def integers(self) -> np.ndarray:
        return self._unpacked()[:, : self.cols].astype(np.int16) - 1

    def _unpacked(self) -> np.ndarray:
        quads = (self.codes[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
        return quads.reshape(self.codes.shape[0], self.codes.shape[1] * 4)

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "input_scale"}, "settings")
        only(cls.kind, tensors, {"codes", "scales"}, "tensors")
        return cls(tensors["codes"], tensors["scales"], meta["cols"], meta["input_scale"])


@dataclass(frozen=True, eq=False, repr=False)
class Binary(_PackedSigns):
    """codes: uint8 (rows, ceil(cols / 8)), one bit a weight, the first lowest: 0 is -1, 1 is 1.

    scales: float32 (rows,). Rastegari et al. 2016, https://arxiv.org/abs/1603.05279.
    """

    kind = "binary"
    codes: np.ndarray
    scales: np.ndarray
    cols: int
    input_scale: float | None = None

    def __post_init__(self) -> None:
        self._check(per_byte=8)

    @classmethod
    def encode(cls, weights: np.ndarray, input_scale: float | None = None) -> Self:
        """(rows, cols); the sign, zero counting as positive, and the mean magnitude of each row."""
        weights = checked_weights(weights)
        scales = np.abs(weights).sum(axis=1) / np.float32(max(weights.shape[1], 1))
        codes = np.packbits(weights >= 0, axis=1, bitorder="little")
        return cls(codes, scales.astype(np.float32), weights.shape[1], input_scale)

    def integers(self) -> np.ndarray:
        bits = np.unpackbits(self.codes, axis=1, count=self.cols, bitorder="little")
        return bits.astype(np.int16) * 2 - 1

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "input_scale"}, "settings")
        only(cls.kind, tensors, {"codes", "scales"}, "tensors")
        return cls(tensors["codes"], tensors["scales"], meta["cols"], meta["input_scale"])
