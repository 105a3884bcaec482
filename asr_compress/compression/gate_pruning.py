"""LSTM gate pruning: gates that hardly change become constants, and their rows are neither stored nor computed."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.criteria import Criterion, gains
from asr_compress.compression.gate_statistics import GateStatistics, gate_statistics
from asr_compress.compression.order import BLOCKS, CONSTANT_GATES, FACTORS, QUANTIZED, SPARSE
from asr_compress.compression.threshold import largest_threshold
from asr_compress.compression.units import keep_best
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.maps import (
    PARTS,
    Map,
    constant_rows,
    directions_of,
    make_constant,
    map_of,
    unknown_parts,
)
from asr_compress.models.parametrizations import LowRank, Mask
from asr_compress.models.quantizers import Quantizer
from asr_compress.models.select import Site, select_hidden, sites_of
from asr_compress.runtime.network import GATES

Share = Annotated[float, Field(ge=0, le=1)]
_LARGEST = 0.999999  # of a gate's magnitude, so that its inverse is finite


class GatePruningParams(Params):
    """Parameters of gate pruning."""

    include: tuple[str, ...] = Field(("*",), description="LSTM directions by name pattern, such as layers.2.*")
    exclude: tuple[str, ...] = Field((), description="directions to leave alone")
    criterion: Literal["variance", "effect", "norm", "taylor", "fisher"] = Field(
        "effect",
        description="variance of the gate over speech; what the output would lose by it; or, of its row's weights in "
        "both maps, the norm (their magnitude) or what gradients say (taylor, fisher)",
    )
    share: Share | None = Field(None, description="share of gate rows to make constant")
    gates: dict[Literal["i", "f", "g", "o"], Share] | None = Field(
        None, description="a share for each kind of gate of each direction, in place of `share`"
    )
    threshold: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="make constant what lies below this, in units of the criterion (of weights: of its mean); auto: "
        "the largest share of the gates, all together, that `ceiling` allows",
    )
    ceiling: Annotated[float, Field(ge=0)] = Field(0.02, description="for auto: relative rise of the dev error allowed")
    scope: Literal["direction", "global"] = Field("global", description="what competes for `share`")
    value: Literal["mean", "bias"] = Field(
        "mean", description="the constant: the gate's mean over speech, or what its bias alone gives"
    )
    when: Literal["before", "after"] = Field(
        "before", description="before the stage's training, which then recovers; or after it, for group lasso"
    )
    permute: bool = Field(True, description="order units by which of their gates are constant")

    @model_validator(mode="after")
    def _check(self) -> GatePruningParams:
        if sum(target is not None for target in (self.share, self.gates, self.threshold)) != 1:
            raise ValueError("give one of `share`, `gates` and `threshold`")
        return self


class GatePruning(Pass):
    """Make gates of LSTMs constant: sigma(b) or tanh(b) of a bias that holds the gate's mean over speech.

    A row of gate weights that is gone saves its bytes in both maps and its multiplications. Ranked after training by
    how little each gate varies, or, after group lasso over gate rows, by the norms of the rows.

    Sources: Lobacheva et al. 2020, "Structured sparsification of gated recurrent neural networks" (constant gates).
    """

    name = "gate_pruning"
    family = "gate pruning"
    Params: ClassVar[type[Params]] = GatePruningParams
    leaves = frozenset({CONSTANT_GATES})
    refuses: ClassVar[dict[str, str]] = {
        BLOCKS: "taking rows out moves the strips of blocks; prune gates first",
        SPARSE: "a gate's row would be judged by what other pruning left of it; prune gates first",
        FACTORS: "a factorized map has no rows of its own to leave out; prune gates first",
        QUANTIZED: "prune gates first, then quantize the rows that are left",
    }

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: GatePruningParams = self.params
        report = Report.of_unsupported(unknown_parts(model), params.exclude)
        self.names = []
        for name in directions_of(model):
            if _is_chosen(name, params):
                self.names.append(name)
                report.touched[name] = {}
            else:
                report.skipped[name] = "not chosen by include and exclude"
        report.check(self.name, context.strict)
        self.context = context
        self.searched: dict[str, Any] = {}  # what `threshold: auto` tried
        if params.when == "before":
            self._prune(model)
        return report

    def finalize(self, model: nn.Module) -> Report:
        if self.params.when == "after":
            self._prune(model)
        report = Report(skipped=self._permute(model) if self.params.permute else {})
        report.touched = {name: _figures(directions_of(model)[name]) for name in self.names}
        constant = sum(int(constant_rows(directions_of(model)[name]).sum()) for name in self.names)
        rows = sum(4 * directions_of(model)[name].hidden for name in self.names)
        report.figures = {"gates": rows, "constant": constant, "share": constant / max(1, rows)} | self.searched
        return report

    def _permute(self, model: nn.Module) -> dict[str, str]:
        """Order the units of each direction; why some that should be are not."""
        sites = {site.name: site for site in sites_of(model)}
        skipped = {}
        for name in self.names:
            direction = directions_of(model)[name]
            order = contiguous_order(direction)
            if torch.equal(order, torch.arange(direction.hidden)):
                continue
            reason = _why_no_order(sites[name]) if name in sites else "what reads its outputs is not known"
            if reason is None:
                select_hidden(model, name, order)
            else:
                skipped[f"{name} (order of units)"] = reason
        return skipped

    def _prune(self, model: nn.Module) -> None:
        params: GatePruningParams = self.params
        found: dict[str, GateStatistics] = {}
        of_weights = params.criterion not in ("variance", "effect")
        if not of_weights or params.value == "mean":
            found = gate_statistics(model, self.context.speech(self.name))
        if of_weights:
            scores = self._scores_of_weights(model)
        else:
            scores = {name: self._scores(found[name]) for name in self.names}
        share = self._search(model, scores, found) if params.threshold == "auto" else params.share or 0.0
        self._hold(model, self._choose(scores, share), found)

    def _hold(self, model: nn.Module, keeps: dict[str, np.ndarray], found: dict[str, GateStatistics]) -> None:
        """Make constant what bool `keeps` leaves out."""
        for name, keep in keeps.items():
            direction = directions_of(model)[name]
            keep &= ~constant_rows(direction)
            if self.params.value == "mean":
                _hold_at(direction, found[name].mean, torch.from_numpy(~keep))
            make_constant(direction, torch.from_numpy(keep))
            for item in (map_of(direction, tensor) for tensor in ("weight_ih", "weight_hh")):
                quantizer = item.quantizer()  # of a pass of the same stage, before this one pruned
                if quantizer is not None:
                    quantizer.live = item.live

    def _search(self, model: nn.Module, scores: dict[str, np.ndarray], found: dict[str, GateStatistics]) -> float:
        """The largest share of the gates whose dev error stays under the ceiling."""

        def error_at(share: float) -> float:
            candidate = copy.deepcopy(model)
            self._hold(candidate, self._choose(scores, share), found)
            return self.context.quality(candidate, self.name).error

        limit = self.context.quality(model, self.name).error * (1 + self.params.ceiling)
        share, tried = largest_threshold(error_at, limit, highest=1.0)
        self.searched = {"dev": [{"share": one["threshold"], "error": one["error"]} for one in tried]}
        return share

    def _scores(self, statistics: GateStatistics) -> np.ndarray:
        """float64 (4H,): how much each gate row of a direction is missed."""
        chosen = statistics.variance if self.params.criterion == "variance" else statistics.effect
        return chosen.reshape(-1).numpy()

    def _scores_of_weights(self, model: nn.Module) -> dict[str, np.ndarray]:
        """The same, from the weights of a row in both maps; each direction relative to its mean."""
        chosen = self.params.criterion
        criterion: Criterion = "magnitude" if chosen == "norm" else chosen
        directions = [directions_of(model)[name] for name in self.names]
        maps = [map_of(direction, tensor) for direction in directions for tensor in ("weight_ih", "weight_hh")]
        found = gains(model, maps, criterion, self.context, self.name)
        sums = [
            (item.matrix.cpu().double().numpy() ** 2 * gain).sum(axis=1) for item, gain in zip(maps, found, strict=True)
        ]
        rows = [np.sqrt(first + second) for first, second in zip(sums[::2], sums[1::2], strict=True)]
        return {name: part / max(part.mean(), 1e-30) for name, part in zip(self.names, rows, strict=True)}

    def _choose(self, scores: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
        """bool (4H,) a direction: the gates that stay."""
        params: GatePruningParams = self.params
        if isinstance(params.threshold, float):
            return {name: part >= params.threshold for name, part in scores.items()}
        if params.gates is not None:
            shares = [params.gates.get(gate, 0.0) for gate in GATES]  # type: ignore[call-overload]
            return {name: _best_of_gates(part, shares) for name, part in scores.items()}
        if params.scope == "direction":
            return {name: keep_best(part, round(share * len(part))) for name, part in scores.items()}
        together = np.concatenate(list(scores.values()))
        kept = keep_best(together, round(share * len(together)))
        ends = np.cumsum([len(part) for part in scores.values()])[:-1]
        return dict(zip(scores, (part.copy() for part in np.split(kept, ends)), strict=True))


def contiguous_order(direction: LSTMDirection) -> Tensor:
    """int64 `(hidden,)`: units in an order that leaves the constant gates in few runs of neighboring rows.

    All four gates have the same order of units, so it cannot make each of them one run. It is, of the order that is
    there and the Gray codes of the gates taken in any sequence, the one with the fewest runs of all gates together:
    never more than before, and one each where no more than two of the gates have constants. (In a Gray code
    neighbors differ in one gate; sorting by the first gate, then the second and so on gives twice as many runs.)
    """
    constant = constant_rows(direction).reshape(len(GATES), direction.hidden)
    orders = [np.arange(direction.hidden)]  # first, so that what is in order stays
    for keys in permutations(range(len(GATES))):
        places = np.logical_xor.accumulate(constant[list(keys)])  # a unit's gates as a Gray code; these are its binary
        orders.append(np.lexsort(places[::-1]))
    return torch.from_numpy(min(orders, key=lambda order: _runs(constant[:, order])))


def _why_no_order(site: Site) -> str | None:
    """Why the units of a direction cannot change places; None if they can."""
    direction = site.direction
    maps = [map_of(direction, tensor, site.name) for tensor in PARTS if getattr(direction, tensor) is not None]
    if direction.weight_hr is None:
        if site.fixed is not None:
            return site.fixed
        maps += [reader.part for reader in site.readers if isinstance(reader.part, Map)]
    # What passes of the same stage have put on the maps by now: places of rows and columns are part of it.
    for item in maps:
        for part in item.chain:
            if isinstance(part, LowRank | Quantizer) or (isinstance(part, Mask) and part.unit in ("block", "tile")):
                return f"{item.name} is in blocks, factorized or quantized by now; prune gates in a stage before that"
    return None


def _runs(constant: np.ndarray) -> int:
    """Runs of True in the rows of bool `(gates, units)`, row by row."""
    begins = constant & ~np.pad(constant, ((0, 0), (1, 0)))[:, :-1]
    return int(begins.sum())


def _best_of_gates(scores: np.ndarray, shares: list[float]) -> np.ndarray:
    parts = np.split(scores, len(GATES))
    return np.concatenate(
        [keep_best(part, round(share * len(part))) for part, share in zip(parts, shares, strict=True)]
    )


@torch.no_grad()
def _hold_at(direction: LSTMDirection, mean: Tensor, rows: Tensor) -> None:
    """Biases of bool `rows (4H,)` such that their gates, without weights, are `mean (4, hidden)`."""
    if direction.bias_ih is None or direction.bias_hh is None:
        zeros = torch.zeros_like(direction.weight_hh[:, 0])
        direction.bias_ih, direction.bias_hh = nn.Parameter(zeros.clone()), nn.Parameter(zeros.clone())
    sigmoids = mean.clamp(1 - _LARGEST, _LARGEST).logit()
    inverse = sigmoids.clone()
    inverse[2] = mean[2].clamp(-_LARGEST, _LARGEST).atanh()
    direction.bias_ih[rows] = inverse.reshape(-1).to(direction.bias_ih)[rows]
    direction.bias_hh[rows] = 0.0


def _figures(direction: LSTMDirection) -> dict[str, Any]:
    constant = constant_rows(direction).reshape(4, direction.hidden)
    return {
        "constant": {gate: int(row.sum()) for gate, row in zip(GATES, constant, strict=True)},
        "units": direction.hidden,
    }


def _is_chosen(name: str, params: GatePruningParams) -> bool:
    included = any(fnmatchcase(name, pattern) for pattern in params.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in params.exclude)
