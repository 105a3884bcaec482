"""Low rank: each map as the product of two thin ones, by truncated singular value decomposition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.map_inputs import watch_inputs
from asr_compress.compression.order import BLOCKS, CONSTANT_GATES, FACTORS, QUANTIZED, SPARSE
from asr_compress.models.maps import Map, factors_of, maps_of, unknown_parts
from asr_compress.models.parametrizations import LowRank, Mask
from asr_compress.models.spectrum import Spectrum
from asr_compress.runtime.errors import InputError

# Of the mean second moment of a map's inputs, added to each: what speech never showed still counts a little.
_LEAST_MOMENT = 1e-4
REFUSES = {
    SPARSE: "the product of two factors fills the zeros again; factorize first, then prune the factors",
    BLOCKS: "the product of two factors fills the zeros again; factorize first, then prune blocks of the factors",
    CONSTANT_GATES: "the rows of constant gates would count in the decomposition; factorize without them",
    QUANTIZED: "the decomposition is of float weights; factorize first, then quantize the factors",
    FACTORS: "the maps are factorized already",
}


class RankParams(Params):
    """How a rank is chosen; one of the three."""

    rank: Annotated[int, Field(ge=1)] | None = Field(None, description="inner dimension of every factorized map")
    energy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="the least rank that keeps this share of the squared singular values"
    )
    ratio: Annotated[float, Field(ge=1)] | None = Field(None, description="how many times fewer weights a map has then")
    multiple: Annotated[int, Field(ge=1)] = Field(4, description="ranks are rounded up to a multiple of this")

    @model_validator(mode="after")
    def _check_rank(self) -> RankParams:
        if sum(target is not None for target in (self.rank, self.energy, self.ratio)) != 1:
            raise ValueError("give one of `rank`, `energy` and `ratio`")
        return self


class LowRankParams(RankParams):
    """Parameters of low rank."""

    include: tuple[str, ...] = Field(("input", "recurrent"), description="maps, by kind or name pattern")
    exclude: tuple[str, ...] = Field((), description="maps to leave whole, by kind or name pattern")
    per_gate: bool = Field(False, description="decompose the rows of each gate by themselves")
    closest: Literal["weights", "outputs"] = Field(
        "weights", description="what the product comes closest to: the map itself, or its outputs on training speech"
    )
    scope: Literal["map", "global"] = Field(
        "map", description="`ratio` and `energy` hold for each map, or for all together: ranks go where they gain most"
    )

    @model_validator(mode="after")
    def _check_scope(self) -> LowRankParams:
        if self.scope == "global" and self.rank is not None:
            raise ValueError("`scope: global` spreads a `ratio` or an `energy` over the maps; a `rank` is every map's")
        return self


class SVD(Pass):
    """Replace maps by the product of two factors, the closest of their rank; training then goes on with the factors.

    With `per_gate`, the left factor is block-diagonal over the four gates and stored in blocks. A map that would not
    become smaller is left whole.

    With `closest: outputs` the product A B minimizes the mean of |W x - A B x|**2 over the inputs x that the map W
    meets on training speech: with E[x x'] = L L', it is the truncated decomposition of W L, times the inverse of L.

    With `scope: global` the maps share one budget of weights: what is kept are the squared singular values that are
    largest for the weights that they cost. Those of `closest: outputs` are errors before a gate's nonlinearity in every
    LSTM, and so of one unit.

    Sources: Xue et al. 2013, "Restructuring of deep neural network acoustic models with singular value decomposition";
    Chen et al. 2021, "DRONE: data-aware low-rank compression for large NLP models".
    """

    name = "low_rank"
    family = "low rank"
    Params: ClassVar[type[Params]] = LowRankParams
    leaves = frozenset({FACTORS})
    refuses: ClassVar[dict[str, str]] = REFUSES

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: LowRankParams = self.params
        report = Report.of_unsupported(unknown_parts(model), params.exclude)
        chosen = maps_of(model, params.include, params.exclude)
        names = {item.name for item in chosen}
        report.skipped |= {m.name: "not chosen by include and exclude" for m in maps_of(model) if m.name not in names}
        heard = second_moments(model, context, self.name) if params.closest == "outputs" else {}
        sites = []
        for item in chosen:
            root = None
            if heard:
                moments = heard[item.name]
                if len(moments) != item.matrix.shape[1]:
                    report.unsupported[item.name] = f"closest outputs of a {item.kind} map; leave it out by `exclude`"
                    continue
                root = torch.linalg.cholesky(moments)
            sites.append(_Site(item, root, item.gates if params.per_gate else 1))
        shared = spread_ranks([site.spectra for site in sites], params) if params.scope == "global" else None
        for index, site in enumerate(sites):
            name, (rows, cols) = site.item.name, site.item.matrix.shape
            ranks = site.own_ranks(params) if shared is None else shared[index]
            size = sum(ranks) * (rows // site.gates + cols)
            if size >= rows * cols:
                report.skipped[name] = f"rank {sum(ranks)} would take {size} weights in place of {rows * cols}"
                continue
            error = _factorize(site.item, site.spectra, ranks, site.root)
            report.touched[name] = {"rank": sum(ranks), "ranks": ranks, "relative_error": error}
        return report.check(self.name, context.strict)

    def finalize(self, model: nn.Module) -> Report:
        left = sum(item.trained.numel() for item in maps_of(model) if item.factor)
        return Report(figures={"weights_in_factors": left})


class _Site:
    """A map that is to be factorized, whole or gate by gate.

    Attributes:
        root: what the map is multiplied with before it is decomposed, see `_factorize`.
        gates: parts that are decomposed by themselves.
    """

    def __init__(self, item: Map, root: Tensor | None, gates: int) -> None:
        self.item, self.root, self.gates = item, root, gates
        self.parts = (item.matrix if root is None else item.matrix.double() @ root).chunk(gates)

    @cached_property
    def spectra(self) -> list[Spectrum]:
        return [Spectrum.of(part) for part in self.parts]

    def own_ranks(self, params: RankParams) -> list[int]:
        """The rank of each part, without a look at other maps."""
        # Only an energy asks for the spectrum before the rank is known, and so before the map may be left whole.
        values = [np.empty(0)] * self.gates
        if params.energy is not None:
            values = [spectrum.values.cpu().numpy() for spectrum in self.spectra]
        return [choose_rank(known, part.shape, params) for known, part in zip(values, self.parts, strict=True)]


def choose_rank(values: np.ndarray, shape: tuple[int, ...], params: RankParams) -> int:
    """The rank that `params` ask for, for a matrix of `shape` with singular `values`."""
    rows, cols = shape
    if params.rank is not None:
        rank = params.rank
    elif params.energy is not None:
        squares = np.cumsum(values**2)
        rank = int(np.searchsorted(squares, params.energy * squares[-1] * (1 - 1e-12))) + 1
    else:
        assert params.ratio is not None
        rank = int(rows * cols / (params.ratio * (rows + cols)))
    rounded = -(-max(1, rank) // params.multiple) * params.multiple
    return min(rounded, rows, cols)


def spread_ranks(maps: Sequence[Sequence[Spectrum]], params: RankParams) -> list[list[int]]:
    """Ranks that lose the least of all squared singular values for `ratio`, or that keep `energy` of them.

    Ranks grow by `multiple` at a time, first where a weight buys most; each part has at least that many. A budget of
    `ratio` is never exceeded unless those alone do. A map whose factors would outgrow it is whole from there on, which
    costs no more.

    Args:
        maps: the spectra of each map's parts, of which each has a rank of its own.
    """
    sizes = [sum(part.matrix.numel() for part in parts) for parts in maps]
    steps = sorted(_steps(maps, params.multiple))
    budget = math.inf if params.ratio is None else sum(sizes) / params.ratio
    wanted = math.inf if params.energy is None else params.energy * sum(step.kept for step in steps) * (1 - 1e-12)
    ranks, spent, kept = [[0] * len(parts) for parts in maps], [0] * len(maps), 0.0
    for step in steps:
        grown = min(spent[step.map] + step.weights, sizes[step.map])
        if step.later and (kept >= wanted or sum(spent) - spent[step.map] + grown > budget):
            break
        ranks[step.map][step.part] += step.rank
        spent[step.map], kept = grown, kept + step.kept
    return ranks


class _Step(NamedTuple):
    """By how much a part's rank grows, and what that keeps of the squared singular values; sorted by what comes first.

    later: all but the first of each part, which has to have one.  order: less is better.  map, part: indices.
    """

    later: bool
    order: float
    map: int
    part: int
    rank: int
    weights: int
    kept: float


def _steps(maps: Sequence[Sequence[Spectrum]], multiple: int) -> Iterator[_Step]:
    for index, parts in enumerate(maps):
        for number, part in enumerate(parts):
            for start, values in enumerate(part.values.split(multiple)):
                kept, weights = float(values.square().sum()), len(values) * sum(part.matrix.shape)
                yield _Step(start > 0, -kept / weights, index, number, len(values), weights, kept)


@torch.no_grad()
def second_moments(model: nn.Module, context: Context, reader: str) -> dict[str, Tensor]:
    """E[x x'] of the inputs that each map meets on calibration speech, float64 `(inputs, inputs)`, by the map's name.

    A little is added on the diagonal, so that it has an inverse.

    Raises:
        InputError: the recipe names no data, or none that reaches a map.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, values: Tensor) -> None:
        wide = values.double().cpu()
        sums[name] = sums.get(name, 0) + wide.T @ wide
        counts[name] = counts.get(name, 0) + len(wide)

    watch_inputs(model, context.speech(reader), add)
    silent = [item.name for item in maps_of(model) if not counts.get(item.name)]
    if silent:
        raise InputError(f"{reader}: no speech reached {silent[0]}; give data that does, or `closest: weights`")
    moments = {name: total / counts[name] for name, total in sums.items()}
    for matrix in moments.values():
        matrix.diagonal().add_(_LEAST_MOMENT * matrix.diagonal().mean() + 1e-30)
    return moments


@torch.no_grad()
def _factorize(item: Map, spectra: list[Spectrum], ranks: list[int], root: Tensor | None) -> float:
    """Factorize a map, or each gate of it; the squared error relative to the map.

    Args:
        root: spectra are of the map times this lower triangular matrix, float64 `(cols, cols)`; None of the map itself.
    """
    before = item.matrix.clone()
    pairs = [spectrum.factors(rank) for spectrum, rank in zip(spectra, ranks, strict=True)]
    if root is not None:
        pairs = [balanced(left, solved(right, root)) for left, right in pairs]
    start = torch.block_diag(*(left for left, _ in pairs)), torch.cat([right for _, right in pairs])
    item.install(LowRank(sum(ranks), item.weight.shape, start))
    if len(pairs) > 1:
        factor, _ = factors_of(item)
        factor.install(Mask(torch.block_diag(*(torch.ones_like(left) for left, _ in pairs)), "block"))
    return float((item.matrix - before).square().sum() / before.square().sum().clamp_min(1e-30))


def solved(right: Tensor, root: Tensor) -> Tensor:
    """`right` times the inverse of the lower triangular `root`."""
    solved: Tensor = torch.linalg.solve_triangular(root, right.to(root), upper=False, left=False)
    return solved


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, its parts shared evenly between the factors: float32."""
    share = (right.norm(dim=1) / left.double().norm(dim=0).clamp_min(1e-30)).sqrt().clamp_min(1e-30)
    return (left * share).float(), (right / share[:, None]).float()
