"""Four bits a weight, with a scale for every few columns that is itself an integer."""

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
    row_scales,
)
from asr_compress.runtime.formats.nibbles import pack_nibbles, unpack_nibbles

# With groups up to 32 the sum of a group, at most 32 * 8 * 127 = 32512, fits int16: a kernel multiplies it by
# the group's multiplier and adds it to the total in one 16-bit multiply-add (vpdpwssd, vpmaddwd, smlal).
GROUPS = (8, 16, 32)
ZERO = 8  # the nibble of weight 0
LEAST, LARGEST = -8, 7
LARGEST_MULTIPLIER = 255
# Up to here a weight fits int8 (8 * 15 = 120), so a kernel for many rows can multiply it out once and then take the
# fastest product there is. It costs less than 0.1 dB of about 21 dB on trained LSTMs.
LARGEST_BYTE_MULTIPLIER = 15
_ROWS_AT_ONCE = 64
# Clipping a group's outlier often costs less than the coarser steps it would force on the rest.
_CLIPPINGS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Of the row's scale: which one serves its multipliers best, few and whole as they are.
_ROW_FACTORS = (1.0, 0.93, 0.87)


@dataclass(frozen=True, eq=False, repr=False)
class Int4(IntegerFormat):
    """A weight is (nibble - 8) * multiplier of its group * scale of its row.

    codes: uint8 (rows, ceil(cols / 2)), nibbles. multipliers: uint8 (rows, ceil(cols / group)); a group is
    `group` neighboring columns. scales: float32 (rows,). Because a multiplier is an integer, so is everything
    that is summed: the order of summation cannot matter and every kernel gives the same numbers. It also
    takes half the bytes of a float16 scale. (Two-level scales: Dai et al. 2021, VS-Quant,
    https://arxiv.org/abs/2102.04503. That weights times multipliers fit int8: Lin et al. 2024, QServe,
    https://arxiv.org/abs/2405.04532; what `encode` makes does, other files need not.)
    """

    kind = "int4"
    codes: np.ndarray
    multipliers: np.ndarray
    scales: np.ndarray
    cols: int
    group: int = 32
    input_scale: float | None = None

    def __post_init__(self) -> None:
        cols = checked_size("cols", self.cols)
        if self.group not in GROUPS:
            raise InputError(f"group is {self.group!r}; it must be one of {GROUPS}")
        codes = checked_tensor("codes", self.codes, np.uint8, (None, -(-cols // 2)))
        groups = -(-cols // self.group)
        multipliers = checked_tensor("multipliers", self.multipliers, np.uint8, (codes.shape[0], groups))
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "multipliers", multipliers)
        scales = checked_tensor("scales", self.scales, np.float32, (codes.shape[0],))
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "input_scale", checked_scale("input_scale", self.input_scale))
        check_sum(self.group * -LEAST * int(multipliers.sum(axis=1, dtype=np.int64).max(initial=0)))

    @classmethod
    def encode(cls, weights: np.ndarray, group: int = 32, input_scale: float | None = None) -> Self:
        """(rows, cols); steps of groups and rows are those with the least squared error of a few."""
        weights = checked_weights(weights)
        codes, multipliers, scales = encode_groups(weights, group)
        return cls(pack_nibbles(codes), multipliers, scales, weights.shape[1], group, input_scale)

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def integers(self) -> np.ndarray:
        codes = unpack_nibbles(self.codes, self.cols).astype(np.int16) - ZERO
        return codes * np.repeat(self.multipliers, self.group, axis=1)[:, : self.cols]

    def meta(self) -> dict[str, Any]:
        return {"cols": self.cols, "group": self.group, "input_scale": self.input_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "multipliers": self.multipliers, "scales": self.scales}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "group", "input_scale"}, "settings")
        only(cls.kind, tensors, {"codes", "multipliers", "scales"}, "tensors")
        return cls(
            tensors["codes"],
            tensors["multipliers"],
            tensors["scales"],
            meta["cols"],
            meta["group"],
            meta["input_scale"],
        )


@dataclass(frozen=True, eq=False, repr=False)
class Int4Float(FloatFormat):
    """Weights of an `Int4` that are met by activations in float: weight-only quantization.

    It takes the bytes of `Int4` and loses nothing in activations. No kernel reads its nibbles: an engine unpacks it
    once and multiplies in float32, so it saves space in the file, not memory or time.
    """

    kind = "int4_float"
    weights: Int4

    def __post_init__(self) -> None:
        if self.weights.input_scale is not None:
            raise InputError(f"input_scale is {self.weights.input_scale}; activations in float have none")

    @classmethod
    def encode(cls, weights: np.ndarray, group: int = 32) -> Self:
        """(rows, cols), quantized as `Int4.encode` does."""
        return cls(Int4.encode(weights, group))

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights.shape

    def dense(self) -> np.ndarray:
        return self.weights.dense()

    def meta(self) -> dict[str, Any]:
        return {"cols": self.weights.cols, "group": self.weights.group}

    def tensors(self) -> dict[str, np.ndarray]:
        return self.weights.tensors()

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"cols", "group"}, "settings")
        only(cls.kind, tensors, {"codes", "multipliers", "scales"}, "tensors")
        return cls(Int4.from_tensors({**meta, "input_scale": None}, tensors))


def encode_groups(weights: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-level quantization of float32 (rows, cols) in groups of columns.

    Returns nibbles uint8 (rows, cols), multipliers uint8 (rows, ceil(cols / group)), scales float32 (rows,).
    """
    if group not in GROUPS:
        raise InputError(f"group is {group!r}; it must be one of {GROUPS}")
    rows, cols = weights.shape
    nibbles = np.empty((rows, cols), np.uint8)
    multipliers = np.empty((rows, -(-cols // group)), np.uint8)
    scales = np.empty(rows, np.float32)
    # A few rows at a time stay in the cache.
    for first in range(0, rows, _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        nibbles[some], multipliers[some], scales[some] = _encode_rows(weights[some], group)
    return nibbles, multipliers, scales


def _encode_rows(weights: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, cols = weights.shape
    groups = -(-cols // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :cols] = weights
    scales = row_scales(weights, LARGEST * LARGEST_BYTE_MULTIPLIER)
    scales = np.where(scales > 0, scales, np.float32(1))
    # In units of the row's scale, so that squares neither overflow nor vanish.
    grouped = padded.reshape(rows, groups, group) / scales[:, None, None]
    steps = np.abs(grouped).max(axis=2, initial=0) / np.float32(LARGEST)

    best_error = np.full(rows, np.inf, np.float32)
    codes = np.zeros(grouped.shape, np.int8)
    multipliers = np.zeros((rows, groups), np.uint8)
    factors = np.ones(rows, np.float32)
    for factor in map(np.float32, _ROW_FACTORS):
        tried_codes, tried = _encode_grouped(grouped / factor, steps / factor)
        meant = tried_codes * tried[:, :, None].astype(np.float32)
        fitted = _fitted(grouped, meant, factor)
        error = np.square(grouped - meant * fitted[:, None, None]).sum(axis=(1, 2))
        better = error < best_error
        best_error = np.where(better, error, best_error)
        codes = np.where(better[:, None, None], tried_codes, codes)
        multipliers = np.where(better[:, None], tried, multipliers)
        factors = np.where(better, fitted, factors)
    nibbles = (codes.reshape(rows, -1)[:, :cols] + ZERO).astype(np.uint8)
    return nibbles, multipliers, scales * factors


def _encode_grouped(grouped: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 (rows, groups, group) and multipliers uint8 (rows, groups), for a row's scale of one."""
    best_error = np.full(steps.shape, np.inf, np.float32)
    codes = np.zeros(grouped.shape, np.int8)
    multipliers = np.zeros(steps.shape, np.uint8)
    for clipping in _CLIPPINGS:
        # A group far below its row's largest still gets the smallest step rather than none.
        tried = np.clip(np.rint(steps * np.float32(clipping)), 1, LARGEST_BYTE_MULTIPLIER)
        step = tried[:, :, None]
        tried_codes = np.clip(np.rint(grouped / step), LEAST, LARGEST)
        error = np.square(grouped - tried_codes * step).sum(axis=2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        codes = np.where(better[:, :, None], tried_codes, codes).astype(np.int8)
        multipliers = np.where(better, tried, multipliers).astype(np.uint8)
    return codes, multipliers


def _fitted(grouped: np.ndarray, meant: np.ndarray, factor: np.float32) -> np.ndarray:
    """The scale of each row, float32 (rows,), with which `meant` is nearest; `factor` where all is zero."""
    squares = np.square(meant).sum(axis=(1, 2))
    products = (grouped * meant).sum(axis=(1, 2))
    return np.where(squares > 0, products / np.where(squares > 0, squares, np.float32(1)), factor)
