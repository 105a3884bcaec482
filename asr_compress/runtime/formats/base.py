"""What every weight format is: a (rows, cols) matrix that knows its bytes, its meaning and its arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from asr_compress.runtime import arithmetic
from asr_compress.runtime.arithmetic import QUANTIZED_MAX
from asr_compress.runtime.errors import InputError

Tensors = Mapping[str, np.ndarray]

# Sums of products of int8 activations must fit the int32 accumulators of the kernels.
_LARGEST_SUM = 2**31 - 1
# Up to here every integer is a float32, so a float32 matrix product of integers is exact in any order.
_FLOAT32_INTEGERS = 2**24


# Every format by its kind, as a file names it.
FORMATS: dict[str, type[WeightFormat]] = {}


class WeightFormat(ABC):
    """How one (rows, cols) matrix is stored and multiplied.

    A new format is a frozen dataclass with a `kind`, tensors and a `product`; if it should be fast, a kernel.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            FORMATS[cls.kind] = cls

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, cols): outputs and inputs of the map."""

    @abstractmethod
    def dense(self) -> np.ndarray:
        """The matrix that is meant: float32 (rows, cols)."""

    @abstractmethod
    def product(self, x: np.ndarray) -> np.ndarray:
        """Reference arithmetic of `x @ dense().T`: float32 (n, cols) -> float32 (n, rows).

        A row's result does not depend on the other rows.
        """

    def quantized_input(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """What the format meets of float32 (n, any width): int8 (n, width) and float32 (n,) scales; None: x itself."""
        return None

    def product_of_codes(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """`product` of rows that are quantized already: int8 (n, cols) and float32 (n,) scales -> float32 (n, rows).

        Only of formats whose `quantized_input` is not None.
        """
        raise TypeError(f"{self.kind} meets activations in float")

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """What a file stores, by name."""

    def meta(self) -> dict[str, Any]:
        """What a file's header says beside the tensors: plain JSON values."""
        return {}

    @classmethod
    @abstractmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        """The inverse of `meta()` and `tensors()`. Raises InputError for anything that does not fit."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in a file: values, scales, indices, codebooks."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates done for one input row."""
        rows, cols = self.shape
        return rows * cols

    @property
    def parameters(self) -> int:
        """Weights of the map, zeros included; a factorized map counts its factors."""
        rows, cols = self.shape
        return rows * cols

    @property
    def nonzeros(self) -> int:
        """How many of `parameters` are not zero."""
        return int(np.count_nonzero(self.dense()))

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"{type(self).__name__}({rows} x {cols}, {self.nbytes} bytes)"


def decode(kind: str, meta: Mapping[str, Any], tensors: Tensors) -> WeightFormat:
    """The format that `kind`, `meta()` and `tensors()` describe. Raises InputError for what does not fit."""
    if not isinstance(kind, str) or kind not in FORMATS:
        raise InputError(f"weight format {kind!r} is unknown; known are {', '.join(sorted(FORMATS))}")
    return FORMATS[kind].from_tensors(meta, tensors)


class FloatFormat(WeightFormat):
    """Formats whose product is the exact product, accumulated in float64 and rounded once to float32.

    Any kernel agrees with it to float32 accuracy, whatever its order of summation. In float64 the result
    is also the same however many rows are multiplied at a time, which streaming relies on.
    """

    @cached_property
    def _wide(self) -> np.ndarray:
        return np.ascontiguousarray(self.dense().T, dtype=np.float64)

    def product(self, x: np.ndarray) -> np.ndarray:
        x = checked_input(x, self.shape[1])
        return (x.astype(np.float64) @ self._wide).astype(np.float32)


class IntegerFormat(WeightFormat):
    """Formats that are integers times one scale a row, multiplied with int8 activations.

    x is quantized row by row, dynamically, or with the fixed `input_scale` if there is one; the sums are
    exact and then scaled as `arithmetic.dequantize` states.
    """

    scales: np.ndarray
    input_scale: float | None

    @abstractmethod
    def integers(self) -> np.ndarray:
        """int16 (rows, cols): the integers that the activations meet."""

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.integers().shape
        return rows, cols

    def dense(self) -> np.ndarray:
        return self.integers().astype(np.float32) * self.scales[:, None]

    @cached_property
    def _exact(self) -> np.ndarray:
        # BLAS has no integers; floats wide enough to hold every partial sum give the same ones.
        integers = self.integers()
        return np.ascontiguousarray(integers.T, dtype=exact_dtype(integers))

    def sums(self, codes: np.ndarray) -> np.ndarray:
        """int8 (n, cols) activations -> int32 (n, rows) accumulators, exact."""
        return (codes.astype(self._exact.dtype) @ self._exact).astype(np.int32)

    def quantized_input(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.input_scale is None:
            return arithmetic.quantize_rows(x)
        return arithmetic.quantize_static(x, self.input_scale)

    def product(self, x: np.ndarray) -> np.ndarray:
        return self.product_of_codes(*self.quantized_input(checked_input(x, self.shape[1])))

    def product_of_codes(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return arithmetic.dequantize(self.sums(codes), scales, self.scales)


def exact_dtype(integers: np.ndarray) -> type[np.floating]:
    """The float type in which int8 activations times these integers sum exactly in any order."""
    largest = int(np.abs(integers).sum(axis=1, dtype=np.int64).max(initial=0))
    return np.float32 if QUANTIZED_MAX * largest < _FLOAT32_INTEGERS else np.float64


def check_sum(magnitude: int) -> None:
    """Raises InputError if a row whose integers sum to `magnitude`, signs aside, can overflow int32."""
    if QUANTIZED_MAX * magnitude > _LARGEST_SUM:
        raise InputError(
            f"a row of integer weights sums to {magnitude}, signs aside; times {QUANTIZED_MAX} that is more "
            f"than the {_LARGEST_SUM} of an int32 accumulator; use fewer columns or another format"
        )


def row_scales(weights: np.ndarray, limit: float) -> np.ndarray:
    """float32 (rows,) scales that bring each row's largest magnitude to `limit`; 1 for a row of zeros."""
    largest = np.abs(weights).max(axis=1, initial=0).astype(np.float32)
    return np.where(largest > 0, largest / np.float32(limit), np.float32(1)).astype(np.float32)


def rounded(weights: np.ndarray, scales: np.ndarray, limit: int) -> np.ndarray:
    """int8: weights / scales, rounded half to even, held within +-limit. `scales` broadcasts."""
    # A scale underflows to zero when the weights are subnormal; their quotient would then mean nothing.
    safe = np.where(scales > 0, scales, np.float32(1))
    return np.clip(np.rint(weights / safe), -limit, limit).astype(np.int8)


def checked_weights(weights: np.ndarray) -> np.ndarray:
    """The weights to encode as float32 (rows, cols). Raises InputError if they are no finite matrix."""
    weights = np.asarray(weights)
    if weights.ndim != 2:
        raise InputError(f"weights have shape {weights.shape}; a map is (rows, cols)")
    if not np.isfinite(weights).all():
        raise InputError("weights contain NaN or infinity; mend the model before storing it")
    return np.ascontiguousarray(weights, dtype=np.float32)


def checked_input(x: np.ndarray, cols: int) -> np.ndarray:
    """x as float32 (n, cols). Raises InputError for any other shape."""
    if x.ndim != 2 or x.shape[1] != cols:
        raise InputError(f"input has shape {x.shape}; this map takes (n, {cols})")
    return np.ascontiguousarray(x, dtype=np.float32)


def checked_tensor(name: str, tensor: np.ndarray, dtype: type[np.generic], shape: tuple[int | None, ...]) -> np.ndarray:
    """`tensor` as a read-only contiguous array. `None` in `shape` allows any size.

    Raises InputError if type or shape differ, or if a float is not finite.
    """
    allowed = np.dtype(dtype)
    if tensor.dtype != allowed:
        raise InputError(f"{name} has type {tensor.dtype}; it must be {allowed}")
    matches = len(tensor.shape) == len(shape) and all(
        want is None or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not matches:
        wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise InputError(f"{name} has shape {tensor.shape}; it must be {wanted}")
    if allowed.kind == "f" and not np.isfinite(tensor).all():
        raise InputError(f"{name} contains NaN or infinity")
    view = np.ascontiguousarray(tensor).view()
    view.flags.writeable = False
    return view


def checked_scale(name: str, value: Any) -> float | None:
    """A fixed activation scale: a positive float32 as a Python float, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
        raise InputError(f"{name} is {value!r}; it must be a positive number or null")
    scale = float(np.float32(value))
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"{name} is {value!r}; it must be a positive finite float32")
    return scale


def checked_size(name: str, value: Any, least: int = 0) -> int:
    """A whole number of at least `least`. Raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number, {least} or more")
    return int(value)


def index_type(count: int) -> type[np.unsignedinteger]:
    """The smallest type for indices below `count`. Raises InputError beyond 65536."""
    if count > 2**16:
        raise InputError(f"{count} columns are more than sparse formats can index (65536)")
    return np.uint8 if count <= 2**8 else np.uint16


def only(kind: str, given: Mapping[str, Any], allowed: set[str], what: str) -> None:
    """Raises InputError if the keys of `given` are not exactly `allowed`."""
    if set(given) != allowed:
        raise InputError(f"format {kind!r} has {what} {sorted(given)}; it must have {sorted(allowed)}")
