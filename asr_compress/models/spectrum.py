"""A matrix's singular values and its closest products of two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """The singular value decomposition of a matrix, as far as low rank needs it.

    It comes from the eigenvectors of the matrix times its transpose on the smaller side, in float64, which takes a
    quarter of the time of a decomposition of the matrix itself. Squaring halves the digits of the small singular
    values: they are right to about 1e-8 of the largest, below what float32 weights resolve.

    Attributes:
        matrix: float64 `(rows, cols)`.
        values: float64 `(min(rows, cols),)`, descending.
        basis: float64, orthonormal columns in the order of `values`: `(cols, cols)` of right singular vectors, or
            `(rows, rows)` of left ones where the matrix has fewer rows than columns.
    """

    matrix: Tensor
    values: Tensor
    basis: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, matrix: Tensor) -> Spectrum:
        """Of float `(rows, cols)`."""
        wide = matrix.double()
        squares, basis = torch.linalg.eigh(wide @ wide.T if _is_wide(wide) else wide.T @ wide)
        return cls(wide, squares.flip(0).clamp_min(0).sqrt(), basis.flip(1))

    @torch.no_grad()
    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """The closest product of `rank`: float32 `(rows, rank)` and `(rank, cols)`.

        By the theorem of Eckart and Young (1936) it misses the matrix by the singular values that are left out. The
        others are shared evenly between the factors. Beyond the smaller side of the matrix, what the rank has more is
        zero.
        """
        rows, cols = self.matrix.shape
        basis = self.basis[:, :rank]
        # The projection on the basis is exact whatever the values are; they only balance the factors.
        projected = basis.T @ self.matrix if _is_wide(self.matrix) else self.matrix @ basis
        lengths = projected.norm(dim=1 if _is_wide(self.matrix) else 0)
        root = lengths.sqrt()
        inverse = torch.where(lengths > 0, 1 / root, 0.0)
        left, right = self.matrix.new_zeros(rows, rank), self.matrix.new_zeros(rank, cols)
        found = basis.shape[1]
        if _is_wide(self.matrix):
            left[:, :found], right[:found] = basis * root, projected * inverse[:, None]
        else:
            left[:, :found], right[:found] = projected * inverse, root[:, None] * basis.T
        return left.float(), right.float()


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] < matrix.shape[1]
