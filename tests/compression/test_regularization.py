"""Norms that training drives to zero: over which groups, by hand, and over which parts of a model."""

from __future__ import annotations

import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.regularization import Regularization, RegularizationParams
from asr_compress.models.layers import Recurrent
from asr_compress.runtime.errors import InputError
from tests.models.small import small


def test_a_unit_is_all_that_is_tied_to_it_by_hand() -> None:
    model = small("lstm")
    first, second = [layer.directions[0] for layer in model.layers if isinstance(layer, Recurrent)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first.weight_ih[5, :2] = torch.tensor([3.0, 4.0])  # a gate of unit 5
        first.weight_hh[first.hidden + 5, 0] = 12.0  # another one, which reads unit 0
        second.weight_ih[7, 1] = 2.0  # what reads unit 1, and a gate of the second layer's unit 7
    step = Regularization(RegularizationParams(group="unit", include=["layers.*.forward.*"]))
    step.prepare(model, Context())
    size = 4 * first.inputs + 2 * 4 * first.hidden + 4 * second.hidden
    outputs = model.layers[-1].weight.shape[0]
    second_size = 4 * second.inputs + 2 * 4 * second.hidden + outputs
    assert step.penalty().item() == pytest.approx((13 + 12 + 2) * size**0.5 + 2 * second_size**0.5, rel=1e-4)


@pytest.mark.parametrize("group", ["weight", "block", "gate_row", "unit"])
def test_what_is_left_out_is_said_and_not_driven(group: str) -> None:
    model = small("blstm")
    step = Regularization(RegularizationParams(group=group, exclude=["*.backward.*"]))
    report = step.prepare(model, Context())
    assert report.touched and not any("backward" in name for name in report.touched)
    assert {name for name in report.skipped if "backward" in name} and not report.touched.keys() & report.skipped.keys()
    step.penalty().backward()
    backward = [layer.directions[1] for layer in model.layers if isinstance(layer, Recurrent)]
    assert all(direction.weight_hh.grad is None or not direction.weight_hh.grad.any() for direction in backward)


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no map matches 'layers.77"):
        Regularization(RegularizationParams(group="unit", exclude=["layers.77.*"])).prepare(small(), Context())
