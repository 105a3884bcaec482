"""Training towards sparsity: L1, and group lasso over hidden units, gate rows or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from asr_compress.compression.base import Context, Outputs, Params, Pass, Report
from asr_compress.compression.structured import ties_of
from asr_compress.models.maps import Map, directions_of, map_of, maps_of, unknown_parts
from asr_compress.models.parametrizations import as_matrix
from asr_compress.models.select import Site, sites_of
from asr_compress.runtime.formats.block_sparse import BLOCK_COLS, BLOCK_ROWS

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class RegularizationParams(Params):
    """Parameters of sparsity-inducing training."""

    group: Literal["weight", "block", "gate_row", "unit"] = Field(
        "weight", description="what is driven to zero together: L1 for weights, group lasso for the others"
    )
    strength: Annotated[float, Field(gt=0)] = Field(1e-4, description="weight of the penalty beside CTC, both a label")
    block: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (BLOCK_ROWS, BLOCK_COLS), description="rows and columns of a block"
    )
    include: tuple[str, ...] = Field(
        ("input", "recurrent", "projection"),
        description="maps by kind or name pattern; of gate rows and units, those with a map among them",
    )
    exclude: tuple[str, ...] = Field((), description="maps to leave alone")


class Regularization(Pass):
    """Add `strength` times the sum of the norms of all groups, each times the root of its size, to the loss.

    A group is a weight (L1), a block, a gate's row in both maps together, or everything that is tied to a hidden
    unit. The norms pull whole groups to zero; a pass of pruning then takes them out: `pruning` and `gate_pruning` by a
    threshold, `structured_pruning` by a share.

    Sources: Yuan and Lin 2006 (group lasso); Wen et al. 2018, "Learning intrinsic sparse structures within LSTM".
    """

    name = "regularization"
    family = "pruning"
    Params: ClassVar[type[Params]] = RegularizationParams
    trains = "always"

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: RegularizationParams = self.params
        self.model = model
        report = Report.of_unsupported(unknown_parts(model), params.exclude)
        self.maps = maps_of(model, params.include, params.exclude)
        names, chosen = [item.name for item in maps_of(model)], {item.name for item in self.maps}
        if params.group in ("gate_row", "unit"):
            directions = {item.name.rpartition(".")[0] for item in self.maps}
            parts = directions_of(model) if params.group == "gate_row" else [site.name for site in sites_of(model)]
            names, chosen = list(parts), directions & set(parts)
        self.chosen = [name for name in names if name in chosen]
        report.touched = {name: {} for name in self.chosen}
        report.skipped |= {name: "not chosen by include and exclude" for name in names if name not in chosen}
        return report.check(self.name, context.strict)

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        return {f"{self.params.group}_norms": self.params.strength * self.penalty()}

    def penalty(self) -> Tensor:
        """Sum over all groups."""
        group = self.params.group
        if group == "weight":
            return torch.stack([item.weight.abs().sum() for item in self.maps]).sum()
        if group == "block":
            return torch.stack([_block_norms(item, self.params.block) for item in self.maps]).sum()
        if group == "gate_row":
            return torch.stack([_gate_row_norms(self.model, name) for name in self.chosen]).sum()
        return _unit_norms([site for site in sites_of(self.model) if site.name in self.chosen])

    def finalize(self, model: nn.Module) -> Report:
        with torch.no_grad():
            return Report(figures={"penalty": self.penalty().item()})


def _norm(squares: Tensor) -> Tensor:
    # The root has no gradient at zero, where groups are meant to end up.
    return (squares + 1e-12).sqrt()


def _block_norms(item: Map, block: tuple[int, int]) -> Tensor:
    height, width = block
    total = item.weight.new_zeros(())
    for gate in as_matrix(item.weight).split(len(item.weight) // item.gates):
        rows, cols = gate.shape
        padded = functional.pad(gate, (0, -cols % width, 0, -rows % height)).square()
        strips = padded.unflatten(0, (-1, height)).unflatten(2, (-1, width))
        total = total + _norm(strips.sum(dim=(1, 3))).sum()
    return (height * width) ** 0.5 * total


def _gate_row_norms(model: nn.Module, name: str) -> Tensor:
    direction = directions_of(model)[name]
    weights = [map_of(direction, tensor).weight for tensor in ("weight_ih", "weight_hh")]
    size = sum(weight.shape[1] for weight in weights)
    return size**0.5 * _norm(torch.stack([weight.square().sum(dim=1) for weight in weights]).sum(dim=0)).sum()


def _unit_norms(sites: Sequence[Site]) -> Tensor:
    total = torch.zeros(())
    for site in sites:
        squares = site.direction.weight_hh.new_zeros(site.direction.hidden)
        size = 0
        for tie in ties_of(site, "hidden"):
            weight = as_matrix(tie.item.weight).square()
            sums = weight.sum(dim=1) if tie.dim == 0 else weight.view(len(weight), -1, len(tie.owners)).sum(dim=(0, 1))
            owned = (tie.owners >= 0).to(sums.device)
            squares = squares.index_add(0, tie.owners.to(sums.device)[owned], sums[owned])
            size += weight.numel() // len(squares)
        total = total.to(squares.device) + size**0.5 * _norm(squares).sum()
    return total
