"""Pruning: weights or blocks whose loss costs least become zero, at once or gradually while training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from asr_compress.compression import schedules
from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.criteria import Criterion, gains
from asr_compress.compression.order import BLOCKS, QUANTIZED, SPARSE
from asr_compress.compression.threshold import largest_threshold
from asr_compress.compression.units import Units, in_strips, keep_best, keep_globally, keep_in_groups, members
from asr_compress.models.encode import matrix_of
from asr_compress.models.maps import Map, maps_of, unknown_parts
from asr_compress.models.parametrizations import Mask, from_matrix
from asr_compress.runtime.formats.block_sparse import BLOCK_COLS, BLOCK_ROWS
from asr_compress.runtime.network import GATES

Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1)]
# Units that are more than zeros in one map, with the pass that takes them out of all maps that hold them.
ELSEWHERE = {"gate_row": "gate_pruning", "hidden": "structured_pruning", "projection": "structured_pruning"}


class PruningParams(Params):
    """Parameters of pruning."""

    include: tuple[str, ...] = Field(("input", "recurrent", "projection"), description="maps, by kind or name pattern")
    exclude: tuple[str, ...] = Field((), description="maps to leave alone, by kind or name pattern")
    unit: Literal["weight", "block"] = Field("weight", description="what goes together")
    block: tuple[Side, Side] = Field(
        (BLOCK_ROWS, BLOCK_COLS),
        description="rows and columns of a block; the engine skips multiples of 16 x 4; others save bytes only",
    )
    criterion: Criterion = Field("magnitude", description="what makes a unit matter")
    scope: Literal["strip", "map", "global"] = Field(
        "map", description="units compete within a strip (a row; the rows of a block), a map, or all maps together"
    )
    sparsity: Share | None = Field(None, description="share of units to drop")
    gates: dict[Literal["i", "f", "g", "o"], Share] | None = Field(
        None, description="shares for the gates of an LSTM, in place of `sparsity`, which holds for other maps"
    )
    threshold: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="drop units below this many times the rms of their map, or of all with scope global; auto: the "
        "most that `ceiling` allows",
    )
    ceiling: Annotated[float, Field(ge=0)] = Field(0.02, description="for auto: relative rise of the dev error allowed")
    schedule: Literal["one_shot", "cubic", "narang"] = Field("cubic", description="how sparsity grows in training")
    begin: Share = Field(0.0, description="share of the training steps after which pruning begins")
    end: Share = Field(0.5, description="share of the training steps at which it is complete; then masks stay")
    every: Annotated[int, Field(ge=1)] = Field(50, description="steps between new masks")

    @field_validator("unit", mode="before")
    @classmethod
    def _other_units(cls, value: Any) -> Any:
        if value in ELSEWHERE:
            raise ValueError(f"{value} is pruned by `{ELSEWHERE[value]}`, by magnitude, taylor or fisher too")
        return value

    @model_validator(mode="after")
    def _check(self) -> PruningParams:
        if self.unit != "block" and self.block != (BLOCK_ROWS, BLOCK_COLS):
            raise ValueError("`block` is the size of blocks; give `unit: block` too")
        targets = [name for name in ("sparsity", "gates", "threshold") if getattr(self, name) is not None]
        if not targets:
            raise ValueError("give `sparsity`, `gates` or `threshold`")
        if self.threshold is not None and len(targets) > 1:
            raise ValueError("`threshold` stands alone: it decides what sparsity comes out")
        if self.gates is not None and self.scope != "map":
            raise ValueError("`gates` has a budget for each gate of each map; `scope` must be map")
        if self.begin > self.end:
            raise ValueError(f"begin {self.begin} lies after end {self.end}")
        if self.scope == "global" and self.schedule == "narang":
            raise ValueError("Narang's schedule has a threshold for each map; `scope` must be map or strip")
        return self


@dataclass(eq=False)
class _Target:
    """One map being pruned."""

    item: Map
    mask: Mask
    units: Units
    live: np.ndarray | None  # rows that are not constant gates
    gain: np.ndarray
    groups: np.ndarray
    sparsity: np.ndarray  # final share of each group
    quantiles: np.ndarray  # magnitude below which each group's share lies before training, for Narang's schedule

    def scores(self) -> np.ndarray:
        """Score of each unit by its weights as they are now, what is masked included."""
        squares = matrix_of(self.item.trained).astype(np.float64) ** 2 * self.gain
        return self.units.pool(squares if self.live is None else squares[self.live])

    def keep(self, units: np.ndarray) -> None:
        """Set the mask from bool over units."""
        mask = np.zeros(self.gain.shape, np.bool_)
        mask[slice(None) if self.live is None else self.live] = self.units.expand(units)
        self.mask.mask.copy_(from_matrix(torch.from_numpy(mask), self.mask.mask.shape))

    def density(self) -> float:
        return float(self.mask.mask.float().mean())


class Pruning(Pass):
    """Zero the units that matter least and keep them zero. Masks hold through all later training and quantization."""

    name = "pruning"
    family = "pruning"
    Params: ClassVar[type[Params]] = PruningParams
    leaves = frozenset({SPARSE})
    refuses: ClassVar[dict[str, str]] = {
        QUANTIZED: "integers are chosen for the weights that are left; prune first, then quantize",
        BLOCKS: "what is left of a map in blocks is stored block by block; prune more blocks instead",
    }

    def left(self) -> frozenset[str]:
        return BlockPruning.leaves if self._in_strips() else Pruning.leaves

    def refused(self) -> dict[str, str]:
        return BlockPruning.refuses if self._in_strips() else Pruning.refuses

    def _in_strips(self) -> bool:
        return self.params.unit == "block" and in_strips(self.params.block)

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: PruningParams = self.params
        chosen = maps_of(model, params.include, params.exclude)
        report = Report.of_unsupported(unknown_parts(model), params.exclude)
        left = [item for item in maps_of(model) if item.name not in {one.name for one in chosen}]
        report.skipped |= {item.name: "not chosen by include and exclude" for item in left}
        weights_gains = gains(model, chosen, params.criterion, context, self.name)
        self.targets = [self._target(item, gain) for item, gain in zip(chosen, weights_gains, strict=True)]
        self.share = params.sparsity or 0.0  # of all maps' weights, for scope global
        if params.threshold is not None:
            self._choose_by_threshold(model, context, report)
        for target in self.targets:
            report.touched[target.item.name] = {"units": int(target.groups.size)}
        return report.check(self.name, context.strict)

    def _target(self, item: Map, gain: np.ndarray) -> _Target:
        params: PruningParams = self.params
        units = Units(params.unit, (sum(item.sections), item.matrix.shape[1]), item.sections, params.block)
        tile = params.block if params.unit == "block" and not self._in_strips() else None
        unit = "tile" if tile else params.unit
        mask = Mask(torch.ones_like(item.weight, dtype=torch.bool), unit, final=False, tile=tile)
        by_gate = params.gates is not None and item.gates == len(GATES)
        groups = units.groups("gate" if by_gate else params.scope)
        count = int(groups.max(initial=-1)) + 1
        shares = np.full(count, params.sparsity or 0.0)
        if by_gate and params.gates is not None:
            shares = np.array([params.gates.get(gate, params.sparsity or 0.0) for gate in GATES])  # type: ignore[call-overload]
        item.install(mask)
        target = _Target(item, mask, units, item.live, gain, groups, shares, np.zeros(count))
        self._note_quantiles(target)
        return target

    def _note_quantiles(self, target: _Target) -> None:
        if self.params.schedule == "narang":
            target.quantiles = _quantiles(target.scores(), target.groups, target.sparsity)

    def _choose_by_threshold(self, model: nn.Module, context: Context, report: Report) -> None:
        """Turn a threshold into a sparsity for each map."""
        params: PruningParams = self.params
        threshold = params.threshold
        if threshold == "auto":
            threshold, report.figures["dev"] = self._search(model, context)
            report.figures["threshold"] = threshold
        assert isinstance(threshold, float)
        self._set_shares_below(threshold)

    def _set_shares_below(self, threshold: float) -> None:
        """What is below `threshold` times the rms is what is to go."""
        if self.params.scope == "global":
            scores = np.concatenate([target.scores().reshape(-1) for target in self.targets])
            sizes = np.concatenate([target.units.sizes().reshape(-1) for target in self.targets])
            below = np.sqrt(scores) < threshold * np.sqrt(scores.mean())
            self.share = float(sizes[below].sum() / sizes.sum())
            return
        for target in self.targets:
            target.sparsity = self._shares_below(target, threshold)
            self._note_quantiles(target)

    @staticmethod
    def _shares_below(target: _Target, threshold: float) -> np.ndarray:
        scores = target.scores()
        below = np.sqrt(scores) < threshold * np.sqrt(scores.mean())
        counts = np.bincount(target.groups.reshape(-1), weights=below.reshape(-1))
        return counts / np.bincount(target.groups.reshape(-1))

    def _search(self, model: nn.Module, context: Context) -> tuple[float, list[dict[str, float]]]:
        """The largest threshold whose dev error stays under the ceiling."""
        params: PruningParams = self.params

        def error_at(threshold: float) -> float:
            self._set_shares_below(threshold)
            self._prune(1.0)
            return context.quality(model, self.name).error

        found = largest_threshold(error_at, context.quality(model, self.name).error * (1 + params.ceiling))
        for target in self.targets:
            target.mask.mask.fill_(True)
            target.mask.final.fill_(False)
        return found

    def on_step(self, step: int, steps: int) -> None:
        params: PruningParams = self.params
        begin, end = self._span(steps)
        if all(bool(target.mask.final) for target in self.targets):
            return
        if step < begin or step > end or (step < end and (step - begin) % params.every):
            return
        if params.schedule == "narang" and step < end:
            self._prune_below(step, begin, end)
            return
        self._prune(
            schedules.one_shot(step, begin) if params.schedule == "one_shot" else schedules.cubic(step, begin, end)
        )

    def settled(self, step: int, steps: int) -> bool:
        return step >= self._span(steps)[1]

    def _span(self, steps: int) -> tuple[int, int]:
        """The updates before which pruning begins and is complete; the last one at the latest."""
        begin = min(int(self.params.begin * steps), steps - 1)
        end = begin if self.params.schedule == "one_shot" else min(int(self.params.end * steps), steps - 1)
        return begin, max(begin, end)

    def _prune(self, share: float) -> None:
        """Drop `share` of what is to go in the end."""
        if self.params.scope == "global":
            sizes = [target.units.sizes() for target in self.targets]
            kept = keep_globally([t.scores() for t in self.targets], share * self.share, sizes)
        else:
            kept = [keep_in_groups(t.scores(), t.groups, share * t.sparsity) for t in self.targets]
        for target, keep in zip(self.targets, kept, strict=True):
            target.keep(keep)
            target.mask.final.fill_(share == 1)

    def _prune_below(self, step: int, begin: int, end: int) -> None:
        """Drop what is below Narang's threshold, at most as much as is to go in the end."""
        ramp = begin + (end - begin) // 4
        for target in self.targets:
            magnitudes = np.sqrt(target.scores()).reshape(-1)
            keep = np.ones(magnitudes.shape, np.bool_)
            for places, share, quantile in zip(
                members(target.groups, len(target.sparsity)),
                target.sparsity.tolist(),
                target.quantiles.tolist(),
                strict=True,
            ):
                limit = schedules.narang(step, begin, ramp, end, quantile)
                drop = min(round(share * len(places)), int((magnitudes[places] < limit).sum()))
                keep[places] = keep_best(magnitudes[places], drop)
            target.keep(keep.reshape(target.groups.shape))

    def finalize(self, model: nn.Module) -> Report:
        if not all(bool(target.mask.final) for target in self.targets):
            self._prune(1.0)
        report = Report()
        for target in self.targets:
            report.touched[target.item.name] = _figures(target)
        kept = sum(int(target.mask.mask.sum()) for target in self.targets)
        total = sum(target.mask.mask.numel() for target in self.targets)
        report.figures = {"weights": total, "kept": kept, "sparsity": 1 - kept / max(1, total)}
        return report


class BlockPruningParams(PruningParams):
    """Parameters of block pruning."""

    unit: Literal["block"] = Field("block", description="what goes together")
    scope: Literal["strip", "map", "global"] = Field(
        "strip",
        description="`strip` keeps as many blocks in every strip of rows, which keeps the engine's loop regular",
    )
    sparsity: Share | None = Field(0.75, description="share of blocks to drop")

    @model_validator(mode="before")
    @classmethod
    def _default_target(cls, values: Any) -> Any:
        others = isinstance(values, dict) and ({"gates", "threshold"} & values.keys())
        return {"sparsity": None, **values} if others else values


class BlockPruning(Pruning):
    """Pruning in blocks. Those of 16 rows by 4 columns one vector instruction multiplies: sparsity that is speed.

    Other blocks, unless made of these, are stored with a bit for each and multiplied as zeros.
    """

    name = "block_pruning"
    Params: ClassVar[type[Params]] = BlockPruningParams
    leaves = frozenset({BLOCKS})
    refuses: ClassVar[dict[str, str]] = {
        QUANTIZED: Pruning.refuses[QUANTIZED],
        SPARSE: "blocks would keep mostly zeros of a map with weights left out; prune more of these instead",
    }


def _quantiles(scores: np.ndarray, groups: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Magnitude (root of the score) below which each group's share lies."""
    flat = scores.reshape(-1)
    found = np.zeros(len(shares))
    for group, places in enumerate(members(groups, len(shares))):
        ranked = np.sort(flat[places])
        if len(ranked):
            found[group] = np.sqrt(ranked[min(len(ranked) - 1, round(float(shares[group]) * len(ranked)))])
    return found


def _figures(target: _Target) -> dict[str, Any]:
    figures: dict[str, Any] = {"density": target.density()}
    if target.item.gates == len(GATES):
        parts = target.mask.mask.flatten(1).float().chunk(len(GATES))
        figures["gates"] = {gate: float(part.mean()) for gate, part in zip(GATES, parts, strict=True)}
    return figures
