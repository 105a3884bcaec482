"""Every criterion with every unit: gradients find what matters to no loss, however large it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context, Pass
from asr_compress.compression.gate_pruning import GatePruning, GatePruningParams
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams, Pruning, PruningParams
from asr_compress.compression.structured import StructuredParams, StructuredPruning
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import Linear, Recurrent
from asr_compress.models.maps import constant_rows, maps_of
from asr_compress.runtime.errors import InputError
from tests.compression.speech import batches
from tests.models.small import BINS, TOKENS, assert_close, engine_logits, logits

CONTEXT = Context(batches=batches)
HIDDEN, DEAD, LARGE = 32, 16, 5.0
CRITERIA = ("magnitude", "taylor", "fisher")
GATES = torch.arange(4 * HIDDEN) % HIDDEN < DEAD  # gate rows of dead units


def model_with_dead_units(bidirectional: bool = False) -> AcousticModel:
    """Nobody reads the first units of a direction, though their weights are the largest."""
    torch.manual_seed(2)
    model = AcousticModel([Recurrent(BINS, HIDDEN, bidirectional), Linear(HIDDEN * (1 + bidirectional), TOKENS)])
    with torch.no_grad():
        for side, direction in enumerate(model.layers[0].directions):
            direction.weight_ih[GATES] = LARGE * torch.sign(direction.weight_ih[GATES])
            direction.weight_hh[GATES] = LARGE * torch.sign(direction.weight_hh[GATES])
            direction.weight_hh[:, :DEAD] = 0.0
            model.layers[1].weight[:, side * HIDDEN : side * HIDDEN + DEAD] = 0.0
    return model.eval()


def pruned(model: AcousticModel, step: Pass) -> None:
    step.prepare(model, CONTEXT)
    step.finalize(model)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("block", [None, (16, 4), (8, 1), (1, 8), (4, 3)])
def test_weights_and_blocks(criterion: str, block: tuple[int, int] | None, bidirectional: bool) -> None:
    model = model_with_dead_units(bidirectional)
    shared = {"sparsity": 0.5, "criterion": criterion, "include": ("input",)}
    if block is None:
        pruned(model, Pruning(PruningParams(**shared)))
    else:
        pruned(model, BlockPruning(BlockPruningParams(**shared, block=block, scope="map")))
    dropped = GATES if criterion != "magnitude" else ~GATES
    for item in maps_of(model, ["input"]):
        assert torch.equal(item.masks()[0].mask, ~dropped[:, None].expand(-1, BINS))
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["direction", "global"])
def test_gate_rows(criterion: str, scope: str, bidirectional: bool) -> None:
    model = model_with_dead_units(bidirectional)
    named = "norm" if criterion == "magnitude" else criterion
    pruned(model, GatePruning(GatePruningParams(share=0.5, criterion=named, value="bias", scope=scope, permute=False)))
    dropped = GATES if criterion != "magnitude" else ~GATES
    for direction in model.layers[0].directions:
        np.testing.assert_array_equal(constant_rows(direction), dropped.numpy())
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_hidden_units(criterion: str, bidirectional: bool) -> None:
    model = model_with_dead_units(bidirectional)
    pruned(model, StructuredPruning(StructuredParams(sparsity=0.5, criterion=criterion)))
    for direction in model.layers[0].directions:
        assert direction.hidden == HIDDEN - DEAD
        large = bool((direction.weight_ih.abs() == LARGE).all())
        assert large == (criterion == "magnitude")
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_dropping_what_no_loss_needs_changes_nothing(criterion: str) -> None:
    steps = (
        Pruning(PruningParams(sparsity=0.5, criterion=criterion, include=("input",))),
        BlockPruning(BlockPruningParams(sparsity=0.5, criterion=criterion, include=("input",), scope="map")),
        GatePruning(GatePruningParams(share=0.5, criterion=criterion, value="bias")),
        StructuredPruning(StructuredParams(sparsity=0.5, criterion=criterion)),
    )
    for step in steps:
        model = model_with_dead_units()
        exact = logits(model)
        pruned(model, step)
        assert_close(logits(model), exact, 1e-5)


@pytest.mark.parametrize("step", [Pruning, BlockPruning, GatePruning, StructuredPruning])
def test_gradients_need_speech(step: type[Pass]) -> None:
    share = {"share": 0.5, "value": "bias"} if step is GatePruning else {"sparsity": 0.5}
    without = step(step.Params(criterion="fisher", **share))
    with pytest.raises(InputError, match=f"{step.name}: needs speech"):
        without.prepare(model_with_dead_units(), Context())
