"""Structured pruning: hidden units or projection units go, with all that is tied to them, and the model is smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_compress.compression import schedules
from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.criteria import Criterion, gains
from asr_compress.compression.order import BLOCKS, FACTORS, QUANTIZED
from asr_compress.compression.threshold import largest_threshold
from asr_compress.compression.units import keep_best
from asr_compress.models.adopt import LSTMCell
from asr_compress.models.encode import matrix_of
from asr_compress.models.layers import LayerNorm
from asr_compress.models.maps import Map, map_of, unknown_parts
from asr_compress.models.parametrizations import Mask
from asr_compress.models.select import Site, select_hidden, select_projection, sites_of

Share = Annotated[float, Field(ge=0, lt=1)]


class StructuredParams(Params):
    """Parameters of structured pruning."""

    include: tuple[str, ...] = Field(("*",), description="LSTM directions by name pattern, such as layers.2.*")
    exclude: tuple[str, ...] = Field((), description="directions to leave alone")
    unit: Literal["hidden", "projection"] = Field("hidden", description="what goes")
    sparsity: Share | None = Field(None, description="share of units to drop")
    keep: Annotated[int, Field(ge=1)] | None = Field(None, description="units to keep in each direction, instead")
    threshold: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="instead: drop units whose weights are below this many times the rms of their direction's; auto: "
        "the most that `ceiling` allows",
    )
    ceiling: Annotated[float, Field(ge=0)] = Field(0.02, description="for auto: relative rise of the dev error allowed")
    criterion: Criterion = Field("magnitude", description="what makes a unit matter; summed over all tied weights")
    scope: Literal["direction", "global"] = Field(
        "direction",
        description="units compete within a direction or, each relative to its direction's mean, all together",
    )
    multiple: Annotated[int, Field(ge=1)] = Field(16, description="kept units are rounded up to a multiple of this")
    schedule: Literal["one_shot", "cubic"] = Field("one_shot", description="how sparsity grows in training")
    begin: Share = Field(0.0, description="share of the training steps after which pruning begins")
    end: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="share of the steps at which it is complete")
    every: Annotated[int, Field(ge=1)] = Field(50, description="steps between new masks")

    @model_validator(mode="after")
    def _check(self) -> StructuredParams:
        if sum(target is not None for target in (self.sparsity, self.keep, self.threshold)) != 1:
            raise ValueError("give one of `sparsity`, `keep` and `threshold`")
        if self.sparsity is None and self.scope == "global":
            raise ValueError("`keep` and `threshold` are for each direction; `scope` must be direction")
        return self


@dataclass(frozen=True, eq=False)
class Tie:
    """Rows (dim 0) or columns (dim 1) of a tensor that belong to units: int64 `owners`, -1 where to none of them."""

    item: Map
    dim: int
    owners: Tensor


@dataclass(eq=False)
class _Target:
    """One direction being pruned."""

    site: Site
    count: int
    drop: int
    ties: list[Tie]
    gains: list[np.ndarray]
    masks: list[tuple[Tie, Mask]]
    norms: list[tuple[LayerNorm, Tensor]]

    def scores(self) -> np.ndarray:
        """Score of each unit: the sum over everything that is tied to it."""
        scores = np.zeros(self.count)
        for tie, gain in zip(self.ties, self.gains, strict=True):
            squares = matrix_of(tie.item.trained).astype(np.float64) ** 2 * gain
            owners = tie.owners.numpy()
            # A convolution's patch holds each input channel several times.
            sums = squares.sum(axis=1) if tie.dim == 0 else squares.reshape(-1, len(owners)).sum(axis=0)
            np.add.at(scores, owners[owners >= 0], sums[owners >= 0])
        return scores

    @torch.no_grad()
    def keep(self, units: np.ndarray) -> None:
        """Mask all units but those that bool `units` keeps."""
        kept = torch.from_numpy(units)
        for tie, mask in self.masks:
            rows = kept[tie.owners].view(-1, *[1] * (mask.mask.dim() - 1))
            mask.mask.copy_(rows.expand(mask.mask.shape))
        for norm, columns in self.norms:
            assert norm.live is not None
            norm.live[columns.reshape(-1)] = kept.repeat(len(columns)).to(norm.live.device)

    def kept(self) -> Tensor:
        """int64: the units that are not masked."""
        tie, mask = self.masks[0]
        rows = mask.mask.flatten(1).any(dim=1).cpu()
        return torch.unique(tie.owners[rows])


class StructuredPruning(Pass):
    """Remove the hidden (or projection) units of LSTMs that matter least; what is left is an ordinary smaller model.

    Until `finalize` the units are masked, layer norms included; removing them then changes nothing that comes out.
    """

    name = "structured_pruning"
    family = "structured"
    Params: ClassVar[type[Params]] = StructuredParams
    refuses: ClassVar[dict[str, str]] = {
        BLOCKS: "removing units moves rows between the strips of blocks; remove units first",
        FACTORS: "the factors' inner dimension belongs to no unit; remove units first, then factorize",
        QUANTIZED: "scales belong to whole rows; remove units first, then quantize",
    }

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: StructuredParams = self.params
        cells = {
            name: "the state of an LSTM cell is its caller's; its units cannot go"
            for name, module in model.named_modules()
            if isinstance(module, LSTMCell)
        }
        report = Report.of_unsupported(unknown_parts(model) | cells, params.exclude)
        chosen = []
        for site in sites_of(model):
            if not _is_chosen(site.name, params):
                report.skipped[site.name] = "not chosen by include and exclude"
            elif params.unit == "projection" and site.direction.weight_hr is None:
                report.skipped[site.name] = "it has no projection"
            elif site.fixed is not None and (params.unit == "projection" or site.direction.weight_hr is None):
                report.unsupported[site.name] = site.fixed
            else:
                chosen.append(site)
                report.touched[site.name] = {"units": _count(site, params.unit)}
        report.check(self.name, context.strict)
        self.targets = self._targets(model, chosen, context)
        if params.threshold is not None:
            self._choose_by_threshold(model, context, report)
        return report

    def _choose_by_threshold(self, model: nn.Module, context: Context, report: Report) -> None:
        """Turn a threshold into units to drop from each direction."""
        params: StructuredParams = self.params
        threshold = params.threshold
        if threshold == "auto":

            def error_at(tried: float) -> float:
                self._drop_below(tried)
                self._mask(1.0)
                return context.quality(model, self.name).error

            limit = context.quality(model, self.name).error * (1 + params.ceiling)
            threshold, report.figures["dev"] = largest_threshold(error_at, limit)
            report.figures["threshold"] = threshold
            for target in self.targets:
                target.keep(np.ones(target.count, np.bool_))
                for _, mask in target.masks:
                    mask.final.fill_(False)
        assert isinstance(threshold, float)
        self._drop_below(threshold)

    def _drop_below(self, threshold: float) -> None:
        for target in self.targets:
            scores = target.scores()
            kept = int((np.sqrt(scores) >= threshold * np.sqrt(scores.mean())).sum())
            target.drop = target.count - _rounded(kept, self.params.multiple, target.count)

    def _targets(self, model: nn.Module, sites: list[Site], context: Context) -> list[_Target]:
        params: StructuredParams = self.params
        ties = [ties_of(site, params.unit) for site in sites]
        maps = [tie.item for parts in ties for tie in parts]
        found = iter(gains(model, maps, params.criterion, context, self.name))
        targets = []
        for site, parts in zip(sites, ties, strict=True):
            count = _count(site, params.unit)
            keep = params.keep if params.keep is not None else count * (1 - (params.sparsity or 0.0))
            drop = count - _rounded(keep, params.multiple, count)
            norms = _norms(site, params.unit)
            targets.append(_Target(site, count, drop, parts, [next(found) for _ in parts], [], norms))
        for target in targets:  # after the gradients: they are of the trained weights
            self._install(target)
        return targets

    def _install(self, target: _Target) -> None:
        for tie in silencing_ties(target.site, self.params.unit):
            mask = Mask(torch.ones_like(tie.item.weight, dtype=torch.bool), "unit", final=False)
            tie.item.install(mask)
            target.masks.append((tie, mask))
        for norm, _ in target.norms:
            if norm.live is None:
                norm.live = torch.ones(len(norm.weight), dtype=torch.bool, device=norm.weight.device)

    def on_step(self, step: int, steps: int) -> None:
        params: StructuredParams = self.params
        begin, end = self._span(steps)
        if step < begin or step > end or (step < end and (step - begin) % params.every) or self._final():
            return
        one_shot = params.schedule == "one_shot"
        self._mask(schedules.one_shot(step, begin) if one_shot else schedules.cubic(step, begin, end))

    def settled(self, step: int, steps: int) -> bool:
        return step >= self._span(steps)[1]

    def _span(self, steps: int) -> tuple[int, int]:
        begin = min(int(self.params.begin * steps), steps - 1)
        end = begin if self.params.schedule == "one_shot" else min(int(self.params.end * steps), steps - 1)
        return begin, max(begin, end)

    def _final(self) -> bool:
        return all(bool(mask.final) for target in self.targets for _, mask in target.masks)

    def _mask(self, share: float) -> None:
        """Mask `share` of what is to go in the end."""
        drops = self._global_drops() if self.params.scope == "global" else [target.drop for target in self.targets]
        for target, drop in zip(self.targets, drops, strict=True):
            target.keep(keep_best(target.scores(), round(share * drop)))
            for _, mask in target.masks:
                mask.final.fill_(share == 1)

    def _global_drops(self) -> list[int]:
        """Units to drop from each direction when all compete, each score relative to its direction's mean."""
        relative = [target.scores() / max(target.scores().mean(), 1e-30) for target in self.targets]
        total = sum(target.count for target in self.targets)
        together = keep_best(np.concatenate(relative), round((self.params.sparsity or 0.0) * total))
        ends = np.cumsum([target.count for target in self.targets])[:-1]
        kept = [int(part.sum()) for part in np.split(together, ends)]
        return [
            t.count - _rounded(count, self.params.multiple, t.count)
            for t, count in zip(self.targets, kept, strict=True)
        ]

    def finalize(self, model: nn.Module) -> Report:
        if not self._final():
            self._mask(1.0)
        before = sum(parameter.numel() for parameter in model.parameters())
        chosen = {target.site.name: target.kept() for target in self.targets}
        report = Report()
        for target in self.targets:
            for tie, mask in target.masks:
                tie.item.uninstall(mask)
            report.touched[target.site.name] = {"kept": len(chosen[target.site.name])}
        select = select_hidden if self.params.unit == "hidden" else select_projection
        for name, units in chosen.items():
            select(model, name, units)
        after = sum(parameter.numel() for parameter in model.parameters())
        report.figures = {"parameters_before": before, "parameters": after}
        return report


def _count(site: Site, unit: str) -> int:
    return site.direction.hidden if unit == "hidden" else site.direction.outputs


def ties_of(site: Site, unit: str) -> list[Tie]:
    """Every map that a unit owns rows or columns of."""
    direction = site.direction
    if unit == "hidden":
        ties = [_gate_rows(map_of(direction, tensor)) for tensor in ("weight_ih", "weight_hh")]
        if direction.weight_hr is not None:
            return [*ties, Tie(map_of(direction, "weight_hr"), 1, torch.arange(direction.hidden))]
    else:
        ties = [Tie(map_of(direction, "weight_hr"), 0, torch.arange(direction.outputs))]
    ties.append(Tie(map_of(direction, "weight_hh"), 1, torch.arange(direction.outputs)))
    return [*ties, *(_columns(reader.part, reader.columns) for reader in site.readers if isinstance(reader.part, Map))]


def silencing_ties(site: Site, unit: str) -> list[Tie]:
    """The tensors that must be zero for a unit to be silent: its gates and biases, or its row of the projection."""
    direction = site.direction
    if unit == "projection":
        return [Tie(map_of(direction, "weight_hr"), 0, torch.arange(direction.outputs))]
    ties = [_gate_rows(map_of(direction, tensor)) for tensor in ("weight_ih", "weight_hh")]
    biases = [name for name in ("bias_ih", "bias_hh") if getattr(direction, name) is not None]
    owners = torch.arange(direction.hidden).repeat(4)
    return [*ties, *(Tie(Map(name, direction, name, "bias"), 0, owners) for name in biases)]


def _gate_rows(item: Map) -> Tie:
    assert item.direction is not None
    return Tie(item, 0, torch.arange(item.direction.hidden).repeat(4))


def _columns(item: Map, columns: Tensor) -> Tie:
    owners = torch.full((item.weight.shape[1],), -1)
    owners[columns] = torch.arange(columns.shape[1]).expand(columns.shape)
    return Tie(item, 1, owners)


def _norms(site: Site, unit: str) -> list[tuple[LayerNorm, Tensor]]:
    """Layer norms that see the unit's output, with the features that are its."""
    if unit == "hidden" and site.direction.weight_hr is not None:
        return []
    return [(reader.part, reader.columns) for reader in site.readers if isinstance(reader.part, LayerNorm)]


def _rounded(keep: float, multiple: int, count: int) -> int:
    return min(count, max(multiple, multiple * math.ceil(keep / multiple - 1e-9)))


def _is_chosen(name: str, params: StructuredParams) -> bool:
    included = any(fnmatchcase(name, pattern) for pattern in params.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in params.exclude)
