"""CTC repair: quantized and pruned models fail by deletions first, because the blank wins too often."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.dev_errors import BLANK, dev_errors, utterances
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import Linear


class BlankBiasParams(Params):
    """Parameters of blank-bias calibration."""

    lowest: Annotated[float, Field(le=0)] = Field(-3.0, description="least bias tried")
    highest: Annotated[float, Field(ge=0)] = Field(2.0, description="largest bias tried")
    step: Annotated[float, Field(gt=0)] = Field(0.25, description="distance of biases tried; then refined to a quarter")


class BlankBias(Pass):
    """Add a constant to the blank's logit, the one with the fewest errors of greedy decoding on dev.

    The model runs once; the search is over its outputs. Of equals the smallest change is taken.
    """

    name = "blank_bias"
    family = "CTC repair"
    Params: ClassVar[type[Params]] = BlankBiasParams
    trains = "optional"

    def prepare(self, model: nn.Module, context: Context) -> Report:
        self.context = context
        report = Report()
        if not isinstance(model, AcousticModel) or not isinstance(model.layers[-1], Linear):
            report.unsupported["model"] = (
                f"{type(model).__name__} does not end in a linear layer whose bias could change"
            )
            return report.check(self.name, context.strict)
        context.dev_speech(self.name)
        report.touched[f"layers.{len(model.layers) - 1}"] = {}
        return report

    def finalize(self, model: nn.Module) -> Report:
        """After any training of the stage, and after the passes before it."""
        assert isinstance(model, AcousticModel) and isinstance(model.layers[-1], Linear)
        assert self.context.tokens is not None
        tokens, params = self.context.tokens, self.params
        items = utterances(model, self.context.dev_speech(self.name))
        before = dev_errors(items, tokens)
        coarse = np.arange(params.lowest, params.highest + params.step / 2, params.step)
        bias = self._best(items, {0.0, *coarse.tolist()})
        bias = self._best(items, {bias, *(bias + params.step * quarter / 4 for quarter in range(-3, 4))})
        after = dev_errors(items, tokens, bias)
        with torch.no_grad():
            model.layers[-1].bias[BLANK] += bias
        name = f"layers.{len(model.layers) - 1}"
        figures = {"blank_bias": bias, "dev_before": before.to_json(), "dev_after": after.to_json()}
        return Report(touched={name: {"blank_bias": bias}}, figures=figures)

    def _best(self, items: list, biases: set[float]) -> float:
        assert self.context.tokens is not None
        errors = {bias: dev_errors(items, self.context.tokens, bias).counts.errors for bias in biases}
        return min(errors, key=lambda bias: (errors[bias], abs(bias), bias))
