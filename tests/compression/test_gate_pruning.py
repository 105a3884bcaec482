"""A gate held constant is the row of zeros that it is stored without; statistics are those of the gates themselves."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr_compress.compression.base import Context
from asr_compress.compression.gate_pruning import GatePruning, GatePruningParams, contiguous_order
from asr_compress.compression.gate_statistics import gate_statistics, gates_of
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams
from asr_compress.compression.quantization import DynamicInt8, Quantization, QuantizationParams
from asr_compress.compression.regularization import Regularization, RegularizationParams
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.adopt import LSTMCell, adopt
from asr_compress.models.convert import from_network, to_lstm_layer, to_network, to_recurrent_layer
from asr_compress.models.layers import Recurrent
from asr_compress.models.lstm import LSTM, LSTMDirection
from asr_compress.models.maps import constant_rows, directions_of, make_constant, map_of
from asr_compress.runtime import formats, reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import GATES, walk
from tests.compression.speech import batches, measure_by, train_steps
from tests.models.small import BINS, BUILDERS, LENGTHS, assert_close, engine_logits, frames, logits, small

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


HIDDEN = 7
KINDS = list(itertools.product((1, 2, 3), (False, True), (0, 3), (False, True)))


class Foreign(nn.Module):
    """Someone else's model: an `nn.LSTM` that gets padded batches, whole or packed, in a type of its own."""

    def __init__(self, rnn: nn.LSTM, packed: bool) -> None:
        super().__init__()
        self.rnn, self.packed = rnn, packed

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.to(next(self.parameters()).dtype)
        if not self.packed:
            return self.rnn(x)[0], lengths
        output, _ = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(output, batch_first=True)[0], lengths


@torch.no_grad()
def dense_equivalent(theirs: nn.LSTM, constant: list[np.ndarray], values: list[np.ndarray]) -> nn.LSTM:
    """Torch's own LSTM of the same weights, but for rows of zeros where a gate is constant: its bias gives the value.

    Args:
        constant: bool (4H,) a direction.
        values: float64 (4, hidden) a direction: what the gates are to be.
    """
    dense = nn.LSTM(
        theirs.input_size,
        theirs.hidden_size,
        theirs.num_layers,
        batch_first=True,
        bidirectional=theirs.bidirectional,
        proj_size=theirs.proj_size,
        dtype=theirs.weight_ih_l0.dtype,
    )
    ends = [
        f"_l{layer}{side}"
        for layer in range(theirs.num_layers)
        for side in ("", "_reverse")[: 1 + theirs.bidirectional]
    ]
    for end, rows, value in zip(ends, constant, values, strict=True):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
            if hasattr(dense, name + end):
                getattr(dense, name + end).copy_(getattr(theirs, name + end, torch.zeros(())))
        for name in ("weight_ih", "weight_hh", "bias_hh"):
            getattr(dense, name + end)[rows] = 0
        i, f, g, o = value
        sums = np.concatenate([*(np.log(gate / (1 - gate)) for gate in (i, f)), np.arctanh(g), np.log(o / (1 - o))])
        getattr(dense, "bias_ih" + end)[rows] = torch.from_numpy(sums[rows]).to(dense.bias_ih_l0)
    return dense.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("layers", "bi", "projection", "bias"), KINDS)
def test_constant_gates_equal_the_dense_lstm(
    layers: int, bi: bool, projection: int, bias: bool, packed: bool, dtype: torch.dtype
) -> None:
    """Of any LSTM that torch can build; in torch, and in the engine, which neither stores nor computes the rows."""
    torch.manual_seed(layers + 10 * bi)
    theirs = nn.LSTM(BINS, HIDDEN, layers, bias, True, bidirectional=bi, proj_size=projection, dtype=dtype).eval()
    with torch.no_grad():  # torch's start makes deep outputs so small that hardly anything could be told from them
        for parameter in theirs.parameters():
            parameter *= 3
    model = adopt(Foreign(copy.deepcopy(theirs), packed))
    few = Context(batches=lambda: batches(1, 12))
    found = gate_statistics(model, few.speech("test"))
    step = GatePruning(GatePruningParams(share=0.4, scope="direction"))
    step.prepare(model, few)
    constant = [constant_rows(direction) for direction in directions_of(model).values()]
    assert [int(rows.sum()) for rows in constant] == [round(0.4 * 4 * HIDDEN)] * len(constant)
    values = [found[name].mean.numpy() for name in directions_of(model)]
    dense = Foreign(dense_equivalent(theirs, constant, values), packed)
    with torch.no_grad():
        expected, _ = dense(frames(), LENGTHS)
        pruned, _ = model(frames(), LENGTHS)
        step.finalize(model)
        ordered, _ = model(frames(), LENGTHS)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(pruned, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(ordered, expected, rtol=0, atol=tolerance)
    original, _ = Foreign(theirs, packed)(frames(), LENGTHS)
    assert (original - expected).abs().max() > 1e-2  # else a pass that does nothing would do
    assert isinstance(model.rnn, LSTM)
    for row, length in enumerate(LENGTHS.tolist() if packed else [13, 13]):
        x = frames()[row, :length].numpy()
        for index in range(layers):
            directions = model.rnn.layer(index)
            layer = to_recurrent_layer([to_lstm_layer(direction) for direction in directions])
            stored = [layer.forward, layer.backward] if bi else [layer]
            assert all(part.recurrent_map.shape[0] == 4 * HIDDEN - round(0.4 * 4 * HIDDEN) for part in stored)
            x, _ = reference.run(layer, x, reference.start(layer, x.shape[1]), True)
        places = [d.output_places if d.output_places is not None else torch.arange(d.outputs) for d in directions]
        restored = np.zeros_like(x)
        restored[:, torch.cat([place + side * directions[0].outputs for side, place in enumerate(places)])] = x
        np.testing.assert_allclose(restored, expected[row, :length].numpy(), rtol=0, atol=1e-5)


class ForeignCell(nn.Module):
    """A cell in a loop of its owner's, whose outputs are the model's."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.rnn = cell

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state, outputs = None, []
        for frame in x.unbind(1):
            state = self.rnn(frame, state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1), lengths


@pytest.mark.parametrize("bias", [False, True])
def test_adopted_cells_too(bias: bool) -> None:
    """What reads a cell's outputs nobody knows, so its units stay in their places, and the report says so."""
    torch.manual_seed(0)
    theirs = nn.LSTMCell(BINS, HIDDEN, bias)
    model = adopt(ForeignCell(copy.deepcopy(theirs)))
    assert isinstance(model.rnn, LSTMCell)
    mean = gate_statistics(model, batches())["rnn.cell"].mean.numpy()
    step = GatePruning(GatePruningParams(share=0.4))
    report = step.prepare(model, CONTEXT).merged(step.finalize(model))
    constant = constant_rows(model.rnn.direction)
    assert constant.sum() == report.figures["constant"] == round(0.4 * 4 * HIDDEN)
    assert report.skipped == {"rnn.cell (order of units)": "what reads its outputs is not known"}
    # A layer of one direction is the same loop, and has the names that `dense_equivalent` knows.
    layer = nn.LSTM(BINS, HIDDEN, bias=bias)
    layer.load_state_dict({f"{name}_l0": value for name, value in theirs.state_dict().items()})
    dense = Foreign(dense_equivalent(layer, [constant], [mean]), packed=False)
    with torch.no_grad():
        torch.testing.assert_close(model(frames(), LENGTHS)[0], dense(frames(), LENGTHS)[0], rtol=0, atol=1e-6)


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


def test_permuting_changes_nothing_but_the_order() -> None:
    """Constants of two gates become one run each."""
    model, plain = small("blstm"), small("blstm")
    for target, permute in ((model, True), (plain, False)):
        step = GatePruning(GatePruningParams(gates={"o": 0.5, "i": 0.2}, permute=permute))
        step.prepare(target, CONTEXT)
        report = step.finalize(target)
        assert not report.skipped
    assert_close(logits(model), logits(plain), 1e-5)
    assert any(max(runs_of(direction)) > 1 for direction in directions_of(plain).values())
    for direction in directions_of(model).values():
        assert runs_of(direction) == [1, 0, 0, 1]
        assert torch.equal(contiguous_order(direction), torch.arange(direction.hidden))


def runs_of(direction: LSTMDirection, order: list[int] | None = None) -> list[int]:
    """Runs of constant rows of each gate, counted one row after the other; with the units in another order."""
    gates = constant_rows(direction).reshape(len(GATES), direction.hidden)
    rows = [[bool(gate[unit]) for unit in order or range(direction.hidden)] for gate in gates]
    return [sum(1 for constant, _ in itertools.groupby(row) if constant) for row in rows]


@given(st.lists(st.integers(0, 15), min_size=1, max_size=24), st.sampled_from([1, 3, 5, 7, 11, 15]))
@settings(max_examples=60, deadline=None)
def test_order_of_units(patterns: list[int], gates: int) -> None:
    """Of units whose constant gates are the bits of a number: as few runs as the best Gray code gives, or as before."""
    constant = torch.tensor([[bool(pattern & gates & 1 << gate) for pattern in patterns] for gate in range(4)])
    direction = LSTMDirection(3, len(patterns))
    make_constant(direction, ~constant.reshape(-1))
    order = contiguous_order(direction).tolist()
    assert sorted(order) == list(range(len(patterns)))
    runs = runs_of(direction, order)
    assert sum(runs) <= sum(runs_of(direction))
    if gates.bit_count() <= 2:
        assert max(runs) <= 1
    assert sum(runs) <= [0, 1, 2, 4, 8][gates.bit_count()]
    code = [number ^ number >> 1 for number in range(16)]  # the reflected Gray code
    for keys in itertools.permutations(range(4)):
        bits = [[bool(constant[key, unit]) for key in keys] for unit in range(len(patterns))]
        place = [code.index(sum(bit << 3 - rank for rank, bit in enumerate(unit))) for unit in bits]
        assert sum(runs) <= sum(runs_of(direction, sorted(range(len(patterns)), key=place.__getitem__)))


def test_directions_that_keep_their_order_are_reported() -> None:
    """The outputs of the last layer are the model's; a projection hides the order of the units behind it."""
    for projection, expected in ((0, {"layers.1.forward (order of units)": "its outputs are the model's"}), (3, {})):
        torch.manual_seed(0)
        model = AcousticModel([Recurrent(BINS, 9), Recurrent(9, 9, projection=projection)]).eval()
        step = GatePruning(GatePruningParams(gates={"i": 0.4, "g": 0.4}))
        step.prepare(model, CONTEXT)
        before, scattered = logits(model), [runs_of(direction) for direction in directions_of(model).values()]
        assert all(max(runs) > 1 for runs in scattered)
        report = step.finalize(model)
        assert report.skipped == expected
        first, last = directions_of(model).values()
        assert runs_of(first) == [1, 0, 1, 0] and runs_of(last) == (scattered[1] if expected else [1, 0, 1, 0])
        assert_close(logits(model), before, 1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("other", ["int8", "learned int4", "blocks", "tiles"])
def test_with_another_pass_in_the_same_stage(when: str, other: str) -> None:
    """The order of units is part of the other's form by the time that it would change: it stays, and is reported."""
    model = small("blstm")
    second = {
        "int8": DynamicInt8(),
        "learned int4": Quantization(QuantizationParams(numbers="int4", steps="learned", edges="same")),
        "blocks": BlockPruning(BlockPruningParams(sparsity=0.5)),
        "tiles": BlockPruning(BlockPruningParams(sparsity=0.5, block=(8, 1))),
    }[other]
    steps = [GatePruning(GatePruningParams(share=0.3, when=when)), second]
    for step in steps:
        step.prepare(model, CONTEXT)
    for _ in train_steps(model, steps, 2):
        pass
    trained = logits(model)
    reports = [step.finalize(model) for step in steps]
    assert reports[0].skipped.keys() == {f"{name} (order of units)" for name in directions_of(model)}
    assert "by now" in next(iter(reports[0].skipped.values()))
    if when == "before":
        assert_close(logits(model), trained, 0)
    network = to_network(model)
    constant = sum(int(constant_rows(direction).sum()) for direction in directions_of(model).values())
    assert constant == reports[0].figures["constant"] > 0
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)


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


def test_needs_speech_for_statistics() -> None:
    with pytest.raises(InputError, match="gate_pruning: needs speech"):
        GatePruning(GatePruningParams(share=0.5)).prepare(small(), Context())


def test_a_threshold_is_in_units_of_the_criterion() -> None:
    model = small("lstm")
    found = gate_statistics(model, batches())
    limit = float(torch.cat([one.variance.reshape(-1) for one in found.values()]).median())
    step = GatePruning(GatePruningParams(criterion="variance", threshold=limit, permute=False))
    step.prepare(model, CONTEXT)
    for name, direction in directions_of(model).items():
        assert (constant_rows(direction) == (found[name].variance.reshape(-1) < limit).numpy()).all()


def test_threshold_auto_makes_as_many_gates_constant_as_the_ceiling_allows() -> None:
    def error(model: nn.Module) -> float:
        rows = np.concatenate([constant_rows(direction) for direction in directions_of(model).values()])
        return 0.5 * (1 + 0.2 * float(rows.mean()))

    model = small("blstm")
    step = GatePruning(GatePruningParams(threshold="auto", ceiling=0.05))
    step.prepare(model, Context(batches=batches, measure=measure_by(error)))
    report = step.finalize(model)
    assert 0.24 < report.figures["share"] <= 0.25
    assert len(report.figures["dev"]) == 8 and error(model) <= 0.5 * 1.05
