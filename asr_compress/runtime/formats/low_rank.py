"""A product of two thin matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats.base import Tensors, WeightFormat, checked_weights, decode, only
from asr_compress.runtime.formats.dense import Float32


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(WeightFormat):
    """left (rows, rank) times right (rank, cols), each in a format of its own.

    x meets `right` first, then `left`. Between them it is float32; an integer `left` quantizes it afresh.
    """

    kind = "low_rank"
    left: WeightFormat
    right: WeightFormat

    def __post_init__(self) -> None:
        for name, factor in (("left", self.left), ("right", self.right)):
            if not isinstance(factor, WeightFormat) or isinstance(factor, LowRank):
                raise InputError(f"{name} is {factor!r}; it must be a weight format other than low_rank")
        if self.left.shape[1] != self.right.shape[0]:
            raise InputError(f"left has rank {self.left.shape[1]}, right {self.right.shape[0]}; they must agree")

    @classmethod
    def encode(
        cls,
        weights: np.ndarray,
        rank: int,
        inner: Callable[[np.ndarray], WeightFormat] = Float32.encode,
    ) -> Self:
        """Truncated singular value decomposition of (rows, cols); `inner` encodes both factors.

        It is the closest matrix of that rank, off by the root of the sum of the dropped singular values'
        squares (Eckart and Young 1936). Each factor takes the square root of the singular values, which keeps
        the ranges of both moderate for quantization. Raises InputError for a rank outside 1 to min(rows, cols).
        """
        weights = checked_weights(weights)
        if not 1 <= rank <= min(weights.shape):
            raise InputError(f"rank is {rank}; for {weights.shape} it must be 1 to {min(weights.shape)}")
        u, s, vt = np.linalg.svd(weights, full_matrices=False)
        root = np.sqrt(s[:rank])
        return cls(inner(u[:, :rank] * root), inner(root[:, None] * vt[:rank]))

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    def dense(self) -> np.ndarray:
        return (self.left.dense().astype(np.float64) @ self.right.dense()).astype(np.float32)

    def product(self, x: np.ndarray) -> np.ndarray:
        return self.left.product(self.right.product(x))

    def quantized_input(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        return self.right.quantized_input(x)

    def product_of_codes(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return self.left.product(self.right.product_of_codes(codes, scales))

    @property
    def macs(self) -> int:
        return self.left.macs + self.right.macs

    @property
    def parameters(self) -> int:
        return self.left.parameters + self.right.parameters

    @property
    def nonzeros(self) -> int:
        return self.left.nonzeros + self.right.nonzeros

    def meta(self) -> dict[str, Any]:
        return {
            name: {"kind": factor.kind, **factor.meta()}
            for name, factor in (("left", self.left), ("right", self.right))
        }

    def tensors(self) -> dict[str, np.ndarray]:
        left = {f"left.{name}": tensor for name, tensor in self.left.tensors().items()}
        right = {f"right.{name}": tensor for name, tensor in self.right.tensors().items()}
        return {**left, **right}

    @classmethod
    def from_tensors(cls, meta: Mapping[str, Any], tensors: Tensors) -> Self:
        only(cls.kind, meta, {"left", "right"}, "settings")
        for name in tensors:
            if not name.startswith(("left.", "right.")):
                raise InputError(f"format {cls.kind!r} has tensor {name!r}; it must begin with left. or right.")
        return cls(_factor("left", meta, tensors), _factor("right", meta, tensors))


def _factor(name: str, meta: Mapping[str, Any], tensors: Tensors) -> WeightFormat:
    described = meta[name]
    if not isinstance(described, dict) or described.get("kind") == LowRank.kind:
        raise InputError(f"{name} is {described!r}; it must be an object with a kind other than low_rank")
    settings = {key: value for key, value in described.items() if key != "kind"}
    prefix = f"{name}."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return decode(described.get("kind", ""), settings, own)
