"""Whole LSTM layers go: those that the dev set misses least."""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from torch import nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import Recurrent
from asr_compress.models.select import removable


class LayerRemovalParams(Params):
    """Parameters of layer removal."""

    count: Annotated[int, Field(ge=1)] | None = Field(None, description="layers to remove, one after the other")
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="LSTM layers to remove by number, the first is 0; in place of `count`"
    )

    @model_validator(mode="after")
    def _check(self) -> LayerRemovalParams:
        if (self.count is None) == (self.layers is None):
            raise ValueError("give `count` or `layers`")
        return self


class LayerRemoval(Pass):
    """Remove LSTM layers whose input is as wide as their output, each with its layer norm; then train to recover.

    With `count`, every candidate is skipped in turn and the one whose absence costs least on dev goes.
    """

    name = "layer_removal"
    family = "structured"
    Params: ClassVar[type[Params]] = LayerRemovalParams

    def prepare(self, model: nn.Module, context: Context) -> Report:
        report = Report()
        if not isinstance(model, AcousticModel):
            report.unsupported["model"] = (
                f"{type(model).__name__} is no list of layers; what skips a layer is not known"
            )
            return report.check(self.name, context.strict)
        params: LayerRemovalParams = self.params
        numbers = {id(layer): number for number, layer in enumerate(_recurrent(model))}
        for index, layer in enumerate(model.layers):
            if isinstance(layer, Recurrent) and index not in removable(model):
                report.skipped[f"layers.{index}"] = "its input and output differ in width"
        if params.layers is not None:
            for number in params.layers:
                places = [index for index in removable(model) if numbers[id(model.layers[index])] == number]
                if not places:
                    report.unsupported[f"LSTM layer {number}"] = (
                        "there is none, or its input and output differ in width"
                    )
                    continue
                _remove(model, places[0])
                report.touched[f"LSTM layer {number}"] = {"removed": True}
            for index in removable(model):
                report.skipped[f"LSTM layer {numbers[id(model.layers[index])]}"] = "not chosen by layers"
            return report.check(self.name, context.strict)
        kept: dict[str, float] = {}  # of the last round
        for _ in range(params.count or 0):
            tried = {index: self._without(model, index, context) for index in removable(model)}
            if not tried:
                report.unsupported["model"] = "no further layer has an input as wide as its output"
                break
            index = min(tried, key=lambda place: tried[place])
            errors = {f"LSTM layer {numbers[id(model.layers[place])]}": error for place, error in tried.items()}
            name = f"LSTM layer {numbers[id(model.layers[index])]}"
            _remove(model, index)
            report.touched[name] = {"removed": True, "dev_error_without": errors}
            kept = {other: error for other, error in errors.items() if other != name}
        report.skipped |= {
            other: f"kept: dev error without it {error:.4g}, without {name} {errors[name]:.4g}"
            for other, error in kept.items()
        }
        return report.check(self.name, context.strict)

    def _without(self, model: AcousticModel, index: int, context: Context) -> float:
        candidate = copy.deepcopy(model)
        _remove(candidate, index)
        return context.quality(candidate, self.name).error

    def finalize(self, model: nn.Module) -> Report:
        return Report(figures={"parameters": sum(parameter.numel() for parameter in model.parameters())})


def _recurrent(model: AcousticModel) -> list[nn.Module]:
    return [layer for layer in model.layers if isinstance(layer, Recurrent)]


def _remove(model: AcousticModel, index: int) -> None:
    gone = set(removable(model)[index])
    model.layers = nn.ModuleList(layer for place, layer in enumerate(model.layers) if place not in gone)
