"""How a trained weight is expressed: masked, factorized, quantized. Functions of a float master weight, installed
with `torch.nn.utils.parametrize`, so that a model trains in its compressed form and later passes keep what earlier
ones made. `models.encode` turns them into weight formats; their order on a weight is mask, then quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.models.storage import Layout, check_storage, store
from asr_compress.runtime.formats import WeightFormat

INT8_MAX = 127


class Mask(nn.Module):
    """The weight times a fixed 0/1 mask; gradients reach the kept weights only.

    Attributes:
        mask: bool, the weight's shape.
        final: bool scalar, whether the mask is no longer to change; saved with checkpoints.
        unit: what is kept or dropped together: "weight", "block" (16 x 4, see `formats.block_sparse`) or "row".
    """

    mask: Tensor
    final: Tensor

    def __init__(self, mask: Tensor, unit: str, final: bool = True) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())
        self.register_buffer("final", torch.tensor(final))
        self.unit = unit

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"unit={self.unit}, density={self.mask.float().mean():.3f}"


class LowRank(nn.Module):
    """The weight as `left (rows, rank) @ right (rank, cols)`, both trained.

    Starts from the truncated singular value decomposition of the weight, the singular values shared evenly between
    the factors; by the theorem of Eckart and Young (1936) no product of that rank is closer.

    Attributes:
        rank: inner dimension.
        shape: the weight's shape.
    """

    def __init__(self, rank: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.rank, self.shape = rank, tuple(shape)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return from_matrix(left @ right, self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return factors(as_matrix(weight), self.rank)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


@torch.no_grad()
def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The closest product of `rank` to `matrix (rows, cols)`: `(rows, rank)` and `(rank, cols)`.

    Beyond the smaller side of the matrix, what the rank has more is zero.
    """
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    left, right = matrix.new_zeros(len(matrix), rank), matrix.new_zeros(rank, matrix.shape[1])
    left[:, : len(root)] = (u[:, :rank] * root).to(matrix.dtype)
    right[: len(root)] = (root[:, None] * v[:rank]).to(matrix.dtype)
    return left, right


class Quantized(nn.Module):
    """The weight as its stored format means it; gradients pass straight through (Bengio et al. 2013).

    Attributes:
        numbers: "int8" (one scale a row), "int4" (two-level scales of groups), "float16", ... (`storage.NUMBERS`).
        masks: the masks that come before it on the same weight; they say what is stored.
        gates: gates that the rows are, 4 in an LSTM's maps; blocks do not cross them.
        input_scale: fixed scale of the activations that the map meets; None quantizes them by their own maximum.
        live: int64, rows that are stored at all, where an LSTM has constant gates; None when all are.
        source: the format that the weight was decoded from. It stands as long as the weight is what it means, so
            that integers do not drift each time a bundle is opened and saved.
    """

    def __init__(
        self,
        numbers: str,
        masks: Sequence[Mask] = (),
        gates: int = 1,
        input_scale: float | None = None,
        live: np.ndarray | None = None,
        source: WeightFormat | None = None,
    ) -> None:
        super().__init__()
        self.numbers, self.gates, self.input_scale, self.live = numbers, gates, input_scale, live
        self.masks = tuple(masks)  # a tuple registers no submodules: the weight's list of parametrizations owns them
        self.source = source
        check_storage(numbers, self.layout)

    @property
    def layout(self) -> Layout:
        return layout_of(self.masks)

    def forward(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.meaning(weight))

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    @torch.no_grad()
    def meaning(self, weight: Tensor) -> Tensor:
        """What the stored `weight` will mean; for float32 the format's `dense()` bit for bit."""
        if self.numbers == "float16":
            largest = torch.finfo(torch.float16).max
            return weight.clamp(-largest, largest).to(torch.float16).to(weight.dtype)
        if self.numbers == "int8" and self.source is None:
            codes, scales = int8_codes(weight)
            return codes * scales
        matrix = as_matrix(weight).cpu().float().numpy()
        dense = np.zeros_like(matrix)
        dense[slice(None) if self.live is None else self.live] = self.encode(matrix).dense()
        return from_matrix(torch.from_numpy(dense).to(weight), weight.shape)

    def encode(self, matrix: np.ndarray) -> WeightFormat:
        """float32 (rows, cols), masks applied, as it is stored."""
        keep, stored_rows = kept(self.masks), matrix
        if self.live is not None:
            stored_rows = np.ascontiguousarray(matrix[self.live])
            keep = None if keep is None else keep[self.live]
        if self.source is not None:
            if np.array_equal(self.source.dense(), stored_rows):
                return self.source
            self.source = None  # training has moved the weight
        sections = stored_sections(len(matrix), self.gates, self.live)
        return store(stored_rows, self.numbers, self.layout, keep, sections, self.input_scale)

    def extra_repr(self) -> str:
        return f"{self.numbers}, {self.layout}, input_scale={self.input_scale}"


def layout_of(masks: Sequence[Mask]) -> Layout:
    """What masks leave: blocks, single weights, or everything (rows left out are constant gates)."""
    units = {mask.unit for mask in masks}
    return "blocks" if "block" in units else "sparse" if "weight" in units else "dense"


def kept(masks: Sequence[Mask]) -> np.ndarray | None:
    """bool (rows, cols): the weights that all masks keep; None without masks of blocks or weights."""
    if layout_of(masks) == "dense":
        return None
    together = torch.stack([mask.mask for mask in masks]).all(dim=0)
    return np.ascontiguousarray(as_matrix(together).cpu().numpy())


def stored_sections(rows: int, gates: int, live: np.ndarray | None) -> tuple[int, ...]:
    """Stored rows of each gate, of `rows` in all."""
    if live is None:
        return (rows // gates,) * gates
    return tuple(np.bincount(live // (rows // gates), minlength=gates).tolist())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, meaning: Tensor) -> Tensor:
        return meaning.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(weight: Tensor, meaning: Tensor) -> Tensor:
    """The value of `meaning`, the gradient of `weight`."""
    # `weight + (meaning - weight).detach()` would round; the forward value must be the stored one to the last bit.
    return _StraightThrough.apply(weight, meaning)


def int8_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`formats.dense.Int8`'s rounding: integers as floats in the weight's shape, and scales that broadcast to it."""
    largest = weight.flatten(1).abs().amax(dim=1) if weight[0].numel() else weight.new_zeros(len(weight))
    scales = torch.where(largest > 0, largest / INT8_MAX, torch.ones_like(largest))
    scales = scales.view(-1, *[1] * (weight.dim() - 1))
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (weight / safe).round().clamp(-INT8_MAX, INT8_MAX), scales


def as_matrix(weight: Tensor) -> Tensor:
    """A weight in a `Network`'s shape (rows, cols): a convolution's patch runs over time, bins, channels."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1) if weight.dim() == 4 else weight.reshape(len(weight), -1)


def from_matrix(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `as_matrix` for a weight of `shape`."""
    if len(shape) != 4:
        return matrix.reshape(tuple(shape))
    rows, channels, time, bins = shape
    return matrix.reshape(rows, time, bins, channels).permute(0, 3, 1, 2).contiguous()
