"""Fake quantizers: the weight as its stored format means it, with gradients that reach the float weight behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.models.parametrizations import (
    Mask,
    as_matrix,
    from_matrix,
    kept,
    layout_of,
    stored_sections,
    tiling_of,
)
from asr_compress.models.storage import Layout, check_storage, store, store_int8
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import Codebook, Int4, Int4Float, WeightFormat
from asr_compress.runtime.formats.codebook import kmeans, nearest, pack_codes
from asr_compress.runtime.formats.int4 import encode_groups
from asr_compress.runtime.formats.nibbles import pack_nibbles

INT8_MAX = 127
INT4_LEAST, INT4_MOST = -8, 7
INT4_GROUP = 32
LEARNED = ("int8", "int4", "int4_float")  # numbers whose steps can be trained


class Quantizer(nn.Module):
    """What every quantizer knows.

    Attributes:
        numbers: what is stored (`storage.NUMBERS`).
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
        return self._store(stored_rows, keep, stored_sections(len(matrix), self.gates, self.live))

    def _store(self, matrix: np.ndarray, keep: np.ndarray | None, sections: tuple[int, ...]) -> WeightFormat:
        tiling = tiling_of(self.masks, sections, matrix.shape[1])
        return store(matrix, self.numbers, self.layout, keep, sections, self.input_scale, tiling)

    def extra_repr(self) -> str:
        return f"{self.numbers}, {self.layout}, input_scale={self.input_scale}"


class Quantized(Quantizer):
    """Scales from the weights as they are at each step; gradients pass straight through (Bengio et al. 2013)."""

    @torch.no_grad()
    def meaning(self, weight: Tensor) -> Tensor:
        if self.numbers == "float16" and self.layout != "blocks":
            largest = torch.finfo(torch.float16).max
            return weight.clamp(-largest, largest).to(torch.float16).to(weight.dtype)
        if self.numbers == "int8" and self.source is None:
            codes, scales = int8_codes(weight)
            return codes * scales
        return super().meaning(weight)


class LearnedStep(Quantizer):
    """Quantization steps that are trained with the weights: learned step size quantization (Esser et al. 2020).

    int8 has a step a row. int4 has one a row times the integer multipliers of its groups, which stay as they begin.
    What is trained are factors of the steps: optimizers like Adam move every number by about as much, and steps are
    far smaller than weights.

    Attributes:
        factors: `(rows,)`, trained; one at first.
        first_steps: `(rows,)`.
        multipliers: float `(rows, cols)`, integers from 1 to 15; all ones for int8.
    """

    first_steps: Tensor
    multipliers: Tensor

    def __init__(self, weight: Tensor, numbers: str, **details: Any) -> None:
        """
        Args:
            weight: what the steps begin from.
            numbers: one of `LEARNED`; int4 must not be in blocks.
        """
        super().__init__(numbers, **details)
        if numbers not in LEARNED or (numbers != "int8" and self.layout == "blocks"):
            raise InputError(
                f"steps of {numbers} ({self.layout}) cannot be learned; those of int8 can, and of int4 not in blocks"
            )
        matrix = as_matrix(weight.detach()).cpu().float()
        multipliers = torch.ones_like(matrix)
        if numbers == "int8":
            steps = int8_codes(matrix)[1][:, 0]
        else:
            _, groups, scales = encode_groups(matrix.numpy(), INT4_GROUP)
            repeated = np.repeat(np.maximum(groups, 1), INT4_GROUP, axis=1)[:, : matrix.shape[1]]
            multipliers, steps = torch.from_numpy(repeated.astype(np.float32)), torch.from_numpy(scales)
        self.factors = nn.Parameter(torch.ones_like(steps.to(weight)))
        self.register_buffer("first_steps", steps.to(weight))
        self.register_buffer("multipliers", multipliers.to(weight))
        self.least, self.most = (-INT8_MAX, INT8_MAX) if numbers == "int8" else (INT4_LEAST, INT4_MOST)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        # The gradient of a factor gathers those of all its weights; scaled as in the paper (section 2.2), it does not
        # outweigh theirs where gradients are clipped together.
        rate = 1.0 / (matrix.shape[1] * self.most) ** 0.5
        factors = self.factors * rate + (self.factors - self.factors * rate).detach()
        steps = (self.first_steps * factors).abs().clamp_min(1e-12)[:, None]
        scaled = (matrix / (steps * self.multipliers)).clamp(self.least, self.most)
        codes = scaled + (self._codes(matrix) - scaled).detach()
        trained = codes * self.multipliers * steps
        return from_matrix(straight_through(trained, self._meaning(matrix)), weight.shape)

    @torch.no_grad()
    def _codes(self, matrix: Tensor) -> Tensor:
        return (matrix / (self.steps()[:, None] * self.multipliers)).round().clamp(self.least, self.most)

    @torch.no_grad()
    def _meaning(self, matrix: Tensor) -> Tensor:
        return (self._codes(matrix) * self.multipliers) * self.steps()[:, None]

    @torch.no_grad()
    def steps(self) -> Tensor:
        """The steps as they are, `(rows,)`."""
        return (self.first_steps * self.factors).abs().clamp_min(1e-12)

    def encode(self, matrix: np.ndarray) -> WeightFormat:
        rows = slice(None) if self.live is None else self.live
        codes = self._codes(torch.from_numpy(matrix).to(self.first_steps)).cpu().numpy()[rows]
        steps, multipliers = self.steps().cpu().float().numpy()[rows], self.multipliers.cpu().numpy()[rows]
        if self.numbers != "int8":
            groups = np.ascontiguousarray(multipliers[:, ::INT4_GROUP].astype(np.uint8))
            nibbles = pack_nibbles((codes - INT4_LEAST).astype(np.uint8))
            stored = Int4(nibbles, groups, np.ascontiguousarray(steps), matrix.shape[1], INT4_GROUP, self.input_scale)
            return stored if self.numbers == "int4" else Int4Float(stored)
        keep = kept(self.masks)
        sections = stored_sections(len(matrix), self.gates, self.live)
        keep = None if keep is None else keep[rows]
        tiling = tiling_of(self.masks, sections, matrix.shape[1])
        return store_int8(codes, np.ascontiguousarray(steps), self.layout, keep, sections, self.input_scale, tiling)


class SharedWeights(Quantizer):
    """Each weight is one of a few values of a table, which is trained (Han et al. 2016, "Deep compression").

    Attributes:
        table: `(entries,)`, trained but for an exact zero, which stays.
        indices: int64, the weight's shape.
    """

    indices: Tensor
    pinned: Tensor

    def __init__(self, weight: Tensor, entries: int, stored: Codebook | None = None, **details: Any) -> None:
        """
        Args:
            weight: what is clustered by k-means, unless `stored` says how.
            entries: 2 to 256.
        """
        super().__init__("codebook", **details)
        matrix = as_matrix(weight.detach()).cpu().float().numpy()
        table = kmeans(matrix, entries) if stored is None else stored.table.copy()
        order = np.argsort(table)
        self.table = nn.Parameter(torch.from_numpy(table[order]).to(weight))
        indices = torch.from_numpy(nearest(matrix, table[order]).astype(np.int64))
        self.register_buffer("indices", from_matrix(indices, weight.shape).to(weight.device))
        self.register_buffer("pinned", self.table.detach() == 0)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.pinned, torch.zeros_like(self.table), self.table)[self.indices]

    def encode(self, matrix: np.ndarray) -> WeightFormat:
        table = torch.where(self.pinned, 0.0, self.table.detach()).cpu().float().numpy()
        indices = as_matrix(self.indices).cpu().numpy()
        indices = indices if self.live is None else indices[self.live]
        return Codebook(pack_codes(indices.astype(np.uint8), len(table)), table, matrix.shape[1])


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
