"""A gate held constant is the row of zeros that it is stored without; statistics are those of the gates themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.gate_pruning import GatePruning, GatePruningParams, contiguous_order
from asr_compress.compression.gate_statistics import gate_statistics, gates_of
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams
from asr_compress.compression.quantization import DynamicInt8
from asr_compress.compression.regularization import Regularization, RegularizationParams
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.maps import constant_rows, directions_of, make_constant, map_of
from asr_compress.runtime import formats
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import walk
from tests.compression.speech import batches, train_steps
from tests.models.small import BUILDERS, assert_close, engine_logits, logits, small

CONTEXT = Context(batches=batches)


def steps_by_hand(direction: LSTMDirection, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gates `(frames, 4, hidden)` and outputs of one utterance, one frame after the other."""
    h, c = torch.zeros(direction.outputs), torch.zeros(direction.hidden)
    gates, outputs = [], []
    for frame in reversed(x) if direction.reverse else x:
        sums = direction.weight_ih @ frame + direction.weight_hh @ h + direction.bias_ih + direction.bias_hh
        i, f, g, o = sums.view(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        if direction.weight_hr is not None:
            h = direction.weight_hr @ h
        gates.append(torch.stack([i, f, g, o]))
        outputs.append(h)
    return torch.stack(gates).detach().numpy(), torch.stack(outputs).detach().numpy()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projection", [0, 3])
def test_gates_are_those_of_the_recurrence(reverse: bool, projection: int) -> None:
    torch.manual_seed(0)
    direction = LSTMDirection(5, 7, projection, reverse=reverse)
    x, lengths = torch.randn(2, 6, 5), torch.tensor([6, 4])
    output, _ = direction(x, lengths)
    gates, _ = gates_of(direction, x, lengths, None, output)
    for row, length in enumerate(lengths.tolist()):
        expected, _ = steps_by_hand(direction, x[row, :length])
        np.testing.assert_allclose(gates[row, :length], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp"])
def test_statistics(name: str) -> None:
    """Mean and variance over all valid frames, whatever the padding; the effect is what the output is to lose."""
    model = small(name)
    found = gate_statistics(model, batches())
    first = model.layers[2].directions[0]
    values: list[np.ndarray] = []
    for batch in batches():
        x, lengths = model.layers[1](*model.layers[0](batch.features, batch.feature_lengths))
        values.extend(steps_by_hand(first, x[row, :length])[0] for row, length in enumerate(lengths.tolist()))
    gates = np.concatenate(values)
    result = found["layers.2.forward"]
    np.testing.assert_allclose(result.mean, gates.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.variance, gates.var(0), atol=1e-6)
    mean = gates.mean(0)
    shown = np.concatenate([np.tanh(cells_by_hand(sequence)) for sequence in values])
    lost_by_output = (gates[:, 3] - mean[3]) ** 2 * shown**2
    np.testing.assert_allclose(result.effect[3], lost_by_output.mean(0), atol=1e-6)
    # The candidate multiplies the input gate; the cell holds what it loses, tanh and the output gate show it.
    lost_by_cell = ((gates[:, 2] - mean[2]) ** 2 * gates[:, 0] ** 2).mean(0)
    slope = (gates[:, 3] ** 2).mean(0) * (1 - (shown**2).mean(0)) ** 2
    np.testing.assert_allclose(result.effect[2], lost_by_cell / (1 - mean[1]) ** 2 * slope, atol=1e-6)


def cells_by_hand(gates: np.ndarray) -> np.ndarray:
    """Cells `(frames, hidden)` of one utterance from its gates `(frames, 4, hidden)`."""
    cell, found = np.zeros(gates.shape[2]), []
    for i, f, g, _ in gates:
        cell = f * cell + i * g
        found.append(cell)
    return np.stack(found)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("value", ["mean", "bias"])
def test_constant_gates_in_torch_engine_and_file_are_one(name: str, value: str) -> None:
    model = small(name)
    step = GatePruning(GatePruningParams(share=0.4, value=value))
    report = step.prepare(model, CONTEXT).merged(step.finalize(model))
    assert report.figures["share"] == pytest.approx(0.4, abs=0.01)
    network = to_network(model)
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)
    stored = sum(
        layer.constant_gates.count if layer.constant_gates else 0
        for part in network
        for layer in ([part.forward, part.backward] if hasattr(part, "backward") else [part])
        if hasattr(layer, "constant_gates")
    )
    assert stored == report.figures["constant"] == sum(sum(f["constant"].values()) for f in report.touched.values())


def test_constant_is_the_mean() -> None:
    model = small("lstm")
    before = gate_statistics(model, batches())["layers.2.forward"].mean.reshape(-1)
    step = GatePruning(GatePruningParams(share=0.5, scope="direction", permute=False))
    step.prepare(model, CONTEXT)
    step.finalize(model)
    constant = constant_rows(directions_of(model)["layers.2.forward"])
    after = gate_statistics(model, batches())["layers.2.forward"]
    np.testing.assert_allclose(after.mean.reshape(-1)[constant], before[constant], atol=1e-5)
    np.testing.assert_allclose(after.variance.reshape(-1)[constant], 0, atol=1e-9)


def test_least_variance_goes_first() -> None:
    model = small("lstm")
    variance = gate_statistics(model, batches())["layers.2.forward"].variance.reshape(-1).numpy()
    params = GatePruningParams(share=0.3, criterion="variance", include=("layers.2.*",), permute=False)
    step = GatePruning(params)
    step.prepare(model, CONTEXT)
    constant = constant_rows(directions_of(model)["layers.2.forward"])
    assert variance[constant].max() <= variance[~constant].min()


def test_permuted_gates_are_contiguous_and_nothing_changes() -> None:
    model, plain = small("blstm"), small("blstm")
    for target, permute in ((model, True), (plain, False)):
        step = GatePruning(GatePruningParams(gates={"o": 0.5, "i": 0.2}, permute=permute))
        step.prepare(target, CONTEXT)
        step.finalize(target)
    assert_close(logits(model), logits(plain), 1e-5)
    for direction in directions_of(model).values():
        input_gates = constant_rows(direction)[: direction.hidden]
        assert np.abs(np.diff(input_gates.astype(int))).sum() <= 1
        assert torch.equal(contiguous_order(direction), torch.arange(direction.hidden))


def test_budgets_of_gates() -> None:
    model = small("lstm")
    step = GatePruning(GatePruningParams(gates={"f": 0.5, "o": 1.0}))
    report = step.prepare(model, CONTEXT).merged(step.finalize(model))
    assert report.touched["layers.2.forward"]["constant"] == {"i": 0, "f": 9, "g": 0, "o": 18}


def test_constants_stay_in_training_and_their_value_is_trained() -> None:
    model = small("lstm")
    step = GatePruning(GatePruningParams(share=0.4))
    step.prepare(model, CONTEXT)
    direction = directions_of(model)["layers.2.forward"]
    constant = constant_rows(direction)
    bias = direction.bias_ih.detach().clone()
    for _ in train_steps(model, [step], 2):
        pass
    assert np.array_equal(constant_rows(direction), constant)
    assert not map_of(direction, "weight_ih").weight[constant].any()
    assert (direction.bias_ih != bias)[constant].any()


def test_group_lasso_then_norms() -> None:
    """Rows that the loss does not need shrink under the penalty, and go by their norm."""
    model = small("lstm")
    lasso = Regularization(RegularizationParams(group="gate_row", strength=0.02))
    gates = GatePruning(GatePruningParams(threshold=0.9, criterion="norm", value="bias", when="after"))
    lasso.prepare(model, Context()), gates.prepare(model, Context())
    before = lasso.penalty().item()
    for _ in train_steps(model, [lasso, gates], 4):
        pass
    report = gates.finalize(model)
    assert lasso.penalty().item() < before
    assert 0 < report.figures["share"] < 1
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("group", ["weight", "block", "gate_row", "unit"])
def test_penalties_shrink_what_they_name(group: str) -> None:
    model = small("blstm")
    step = Regularization(RegularizationParams(group=group, strength=1.0))
    step.prepare(model, Context())
    penalty = step.penalty()
    penalty.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert step.penalty().item() < penalty.item()
    assert torch.isfinite(penalty)


def test_penalty_of_a_group_by_hand() -> None:
    model = small("lstm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        direction = model.layers[2].directions[0]
        direction.weight_ih[5, :2] = torch.tensor([3.0, 4.0])
    values = {}
    for name, params in {
        "weight": {"group": "weight"},
        "block": {"group": "block"},
        "column of 8": {"group": "block", "block": (8, 1)},
        "gate_row": {"group": "gate_row"},
    }.items():
        step = Regularization(RegularizationParams(**params))
        step.prepare(model, Context())
        values[name] = step.penalty().item()
    inputs, outputs = direction.inputs, direction.outputs
    assert values["weight"] == pytest.approx(7, abs=1e-4)
    assert values["block"] == pytest.approx(8 * 5, abs=0.1)
    assert values["column of 8"] == pytest.approx(8**0.5 * (3 + 4), abs=0.1)
    assert values["gate_row"] == pytest.approx((inputs + outputs) ** 0.5 * 5, abs=0.1)


def test_later_passes_work_on_the_rows_that_are_left() -> None:
    model = small("blstm")
    for step in (
        GatePruning(GatePruningParams(share=0.3)),
        BlockPruning(BlockPruningParams(sparsity=0.5)),
        DynamicInt8(),
    ):
        step.prepare(model, CONTEXT)
        step.finalize(model)
    network = to_network(model)
    recurrent = [stored for name, stored in walk(network) if "recurrent" in name]
    assert all(isinstance(stored, formats.BlockSparseInt8) for stored in recurrent)
    assert all(stored.shape[0] < 84 for stored in recurrent)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)


def test_adopted_cells_too() -> None:
    direction = LSTMDirection(3, 4)
    keep = torch.ones(16, dtype=torch.bool)
    keep[2] = False
    make_constant(direction, keep)
    assert constant_rows(direction).tolist() == (~keep).tolist()


def test_needs_speech_for_statistics() -> None:
    with pytest.raises(InputError, match="gate_pruning: needs speech"):
        GatePruning(GatePruningParams(share=0.5)).prepare(small(), Context())
