"""Full rank is the original, and what truncation loses is the tail of the spectrum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr_compress.compression.base import Context
from asr_compress.compression.joint_low_rank import JointLowRank, JointLowRankParams
from asr_compress.compression.low_rank import (
    SVD,
    LowRankParams,
    _factorize,
    balanced,
    choose_rank,
    second_moments,
    solved,
    spread_ranks,
)
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams
from asr_compress.compression.quantization import DynamicInt8
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.adopt import adopt
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.layers import LayerNorm, Linear, Recurrent
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.maps import Map, factors_of, map_of, maps_of
from asr_compress.models.spectrum import Spectrum
from asr_compress.runtime import formats
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import walk
from tests.compression.speech import batches, train_steps
from tests.models.small import BINS, BUILDERS, LENGTHS, TOKENS, assert_close, engine_logits, frames, logits, small
from tests.models.test_select import randomize


def singular_values(matrix: torch.Tensor) -> np.ndarray:
    """By a decomposition of the matrix itself, which `Spectrum` does without."""
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 30), st.sampled_from([1e-20, 1, 1e6]))
@settings(max_examples=80, deadline=None)
def test_truncation_error_is_the_tail_of_the_spectrum(rows: int, cols: int, rank: int, inner: int, size: float) -> None:
    """Of full matrices and of such as have a lower rank than their sides, zero included."""
    generator = torch.Generator().manual_seed(rows * cols + inner)
    left, right = (torch.randn(shape, generator=generator) for shape in ((rows, inner), (inner, cols)))
    matrix = size * left @ right
    spectrum = Spectrum.of(matrix)
    exact = singular_values(matrix)
    np.testing.assert_allclose(spectrum.values.numpy(), exact, rtol=1e-7, atol=1e-7 * exact[0])
    left, right = spectrum.factors(rank)
    assert left.shape == (rows, rank) and right.shape == (rank, cols)
    lost = float((left.double() @ right.double() - matrix).square().sum())
    assert lost == pytest.approx(float((exact[rank:] ** 2).sum()), rel=1e-5, abs=1e-11 * float((exact**2).sum()))
    norms = left.square().sum(0), right.square().sum(1)  # what the factors share evenly
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4, atol=1e-6 * exact[0])


@pytest.mark.parametrize(
    ("params", "rank"),
    [
        ({"rank": 3, "multiple": 1}, 3),
        ({"rank": 3}, 4),
        ({"rank": 99}, 8),
        ({"energy": 1.0, "multiple": 1}, 4),
        ({"energy": 0.99, "multiple": 1}, 3),  # 29 of 29.25
        ({"energy": 0.5, "multiple": 1}, 1),  # 16 of 29.25
        ({"ratio": 2.0, "multiple": 1}, 2),  # 16 * 8 / (2 * 24)
    ],
)
def test_ranks(params: dict, rank: int) -> None:
    values = np.array([4.0, 3.0, 2.0, 0.5, 0, 0, 0, 0])
    assert choose_rank(values, (16, 8), LowRankParams(**params)) == rank


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("per_gate", [False, True])
def test_truncated_in_torch_and_engine(name: str, per_gate: bool) -> None:
    model = small(name)
    step = SVD(LowRankParams(rank=4, per_gate=per_gate, include=("recurrent", "input")))
    report = step.prepare(model, Context(strict=False)).merged(step.finalize(model))
    network = to_network(model)
    stored = [part for _, part in walk(network) if isinstance(part, formats.LowRank)]
    assert len(stored) == len(report.touched) > 0
    assert sum(part.left.parameters + part.right.parameters for part in stored) >= report.figures["weights_in_factors"]
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)
    if per_gate:
        assert all(isinstance(part.left, formats.BlockSparseFloat32) for part in stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["whole", "per gate", "closest outputs"])
@pytest.mark.parametrize(
    ("layers", "bi", "projection", "bias"), itertools.product((1, 2, 3), (False, True), (0, 3), (False, True))
)
def test_full_rank_factors_are_the_original(
    layers: int, bi: bool, projection: int, bias: bool, kind: str, dtype: torch.dtype
) -> None:
    """Of every map of any LSTM that torch can build, past the check that leaves maps whole which would not shrink."""
    torch.manual_seed(layers)
    theirs = nn.LSTM(5, 7, layers, bias, True, bidirectional=bi, proj_size=projection, dtype=dtype)
    with torch.no_grad():  # torch's start makes deep outputs small
        for parameter in theirs.parameters():
            parameter *= 2
    model = adopt(theirs, copy=True)
    items = maps_of(model)
    for item in items:
        parts = item.matrix.chunk(item.gates if kind == "per gate" else 1)
        root = None
        if kind == "closest outputs":
            heard = torch.randn(40, item.matrix.shape[1]).double()
            root = torch.linalg.cholesky(heard.T @ heard / len(heard))
            parts = [item.matrix.double() @ root]
        ranks = [min(part.shape) for part in parts]
        error = _factorize(item, [Spectrum.of(part) for part in parts], ranks, root)
        assert error < 1e-12
    assert len(items) == layers * (1 + bi) * (2 + bool(projection))
    assert all(item.factor for item in maps_of(model))
    x = torch.randn(2, 9, 5, dtype=dtype)
    with torch.no_grad():
        for ours, exact in zip(_flat(model(x)), _flat(theirs(x)), strict=True):
            # Factors are float32 whatever the model is, so that float64 tells how exactly they multiply, and no more.
            torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6 if dtype == torch.float64 else 5e-6)
    factors_of(items[0])[0].trained.data.mul_(0.9)  # the factors are what the model computes with
    with torch.no_grad():
        assert (model(x)[0] - theirs(x)[0]).abs().max() > 1e-4


def _flat(result: tuple) -> list[torch.Tensor]:
    output, (h, c) = result
    return [output, h, c]


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("per_gate", [False, True])
def test_energy_is_kept_and_by_no_rank_more(energy: float, per_gate: bool) -> None:
    """By value, of each gate for itself where gates are decomposed so; their spectra differ, and so do the ranks."""
    torch.manual_seed(0)
    hidden, inputs = 24, 30
    model = AcousticModel([Recurrent(inputs, hidden), Linear(hidden, 12)]).eval()
    direction = model.layers[0].directions[0]
    with torch.no_grad():
        for weight in (direction.weight_ih, direction.weight_hh):
            for part, slope in zip(weight.chunk(4), (0.75, 0.6, 0.4, 0.2), strict=True):
                part.copy_(torch.randn_like(part) @ torch.diag(slope ** torch.arange(part.shape[1])))
    before = {item.name: item.matrix.clone() for item in maps_of(model, ["input", "recurrent"])}
    step = SVD(LowRankParams(energy=energy, multiple=1, per_gate=per_gate))
    report = step.prepare(model, Context())
    assert report.touched.keys() == before.keys()
    for name, matrix in before.items():
        left, right = factors_of(map_of(direction, "weight_ih" if "input" in name else "weight_hh", name))
        ranks = report.touched[name]["ranks"]
        assert len(ranks) == (4 if per_gate else 1) and sum(ranks) == left.matrix.shape[1]
        assert not per_gate or len(set(ranks)) > 1
        ends = np.cumsum(ranks)
        for gate, part in enumerate(matrix.chunk(len(ranks))):
            rows = slice(gate * len(part), (gate + 1) * len(part))
            cols = slice(ends[gate] - ranks[gate], ends[gate])
            product = left.matrix[rows, cols].double() @ right.matrix[cols].double()
            torch.testing.assert_close((left.matrix @ right.matrix)[rows].double(), product, rtol=0, atol=1e-5)
            whole = float(part.double().square().sum())
            kept = 1 - float((part.double() - product).square().sum()) / whole
            squares = singular_values(part) ** 2 / whole
            assert kept >= energy - 1e-6
            assert kept == pytest.approx(squares[: ranks[gate]].sum(), abs=1e-6)
            assert squares[: ranks[gate] - 1].sum() < energy


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.floats(0.01, 0.999))
@settings(max_examples=100, deadline=None)
def test_least_rank_of_an_energy(values: list[float], energy: float) -> None:
    ordered = np.sort(np.array(values))[::-1]
    rank = choose_rank(ordered, (20, len(values)), LowRankParams(energy=energy, multiple=1))
    total = (ordered**2).sum()
    assert (ordered[:rank] ** 2).sum() >= energy * total * (1 - 1e-9)
    assert (ordered[: rank - 1] ** 2).sum() < energy * total * (1 + 1e-9)


def falling(rows: int, cols: int, slope: float, size: float = 1.0) -> Spectrum:
    """Of a diagonal matrix, its values falling by `slope`."""
    return Spectrum.of(size * torch.eye(rows, cols) * slope ** torch.arange(cols))


@given(
    st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9), st.floats(0.3, 0.99)), min_size=2, max_size=3),
    st.floats(1.0, 6.0),
)
@settings(max_examples=60, deadline=None)
def test_shared_ranks_keep_most_of_a_budget(shapes: list[tuple[int, int, float]], ratio: float) -> None:
    """No other ranks that cost no more than the chosen ones keep more."""
    maps = [[falling(rows, cols, slope)] for rows, cols, slope in shapes]
    squares = [parts[0].values.numpy() ** 2 for parts in maps]
    sizes = [rows * cols for rows, cols, _ in shapes]

    def costs(ranks: Sequence[int]) -> list[int]:
        return [rank * (rows + cols) for rank, (rows, cols, _) in zip(ranks, shapes, strict=True)]

    def kept(ranks: Sequence[int]) -> float:
        return sum(float(found[:rank].sum()) for rank, found in zip(ranks, squares, strict=True))

    chosen = [ranks[0] for ranks in spread_ranks(maps, LowRankParams(ratio=ratio, multiple=1, scope="global"))]
    stored = sum(map(min, costs(chosen), sizes))  # whole where factors would be no smaller
    assert stored <= max(sum(sizes) / ratio, sum(costs([1] * len(shapes))))
    if all(cost < size for cost, size in zip(costs(chosen), sizes, strict=True)):
        for ranks in itertools.product(*(range(1, len(found) + 1) for found in squares)):
            assert sum(costs(ranks)) > stored or kept(ranks) <= kept(chosen) * (1 + 1e-9)


def test_shared_ranks_of_an_energy() -> None:
    """The share is of all maps together, so that a map of small weights gets what it is worth."""
    maps = [[falling(12, 12, 0.8)], [falling(12, 12, 0.8, 0.3)]]
    squares = torch.cat([parts[0].values for parts in maps]).square().sort(descending=True).values
    for energy in (0.9, 0.97, 0.999):  # enough for more of each than the least
        (loud,), (quiet,) = spread_ranks(maps, LowRankParams(energy=energy, multiple=1, scope="global"))
        count = int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1
        assert quiet < loud and loud + quiet == count


@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("closest", ["weights", "outputs"])
def test_one_budget_for_all_maps(per_gate: bool, closest: str) -> None:
    """It holds for the weights that are left, and what all maps lose together is less than with a budget each."""
    lost = {}
    for scope in ("map", "global"):
        model = small("blstm")
        with torch.no_grad():  # one map of rank two, which needs no more
            item = next(item for item in maps_of(model) if item.name == "layers.2.forward.input")
            item.weight.copy_(Spectrum.of(item.matrix).factors(2)[0] @ Spectrum.of(item.matrix).factors(2)[1])
        items = {item.name: item for item in maps_of(model, ["input", "recurrent"])}
        whole = {name: item.matrix.double() for name, item in items.items()}
        moments = second_moments(model, Context(batches=batches), "test")
        params = LowRankParams(ratio=2.0, multiple=1, per_gate=per_gate, closest=closest, scope=scope)
        report = SVD(params).prepare(model, Context(strict=False, batches=batches))
        ranks = {name: figures["ranks"] for name, figures in report.touched.items()}
        parts = 4 if per_gate else 1
        cost, lost[scope] = 0, 0.0
        for name, matrix in whole.items():
            if name not in ranks:  # left whole: nothing saved, nothing lost
                cost += matrix.numel()
                continue
            cost += sum(ranks[name]) * (len(matrix) // parts + matrix.shape[1])
            left, right = factors_of(items[name])
            miss = matrix - left.matrix.double() @ right.matrix.double()
            weight = moments[name] if closest == "outputs" else torch.eye(len(moments[name])).double()
            lost[scope] += float(torch.einsum("rc,cd,rd->", miss, weight, miss))
        assert cost <= sum(matrix.numel() for matrix in whole.values()) / 2
        if scope == "global":
            assert len({tuple(found) for found in ranks.values()}) > 1
    assert lost["global"] < lost["map"]


def test_a_rank_is_every_maps() -> None:
    with pytest.raises(ValueError, match="spreads a `ratio` or an `energy`"):
        LowRankParams(rank=4, scope="global")


def test_maps_that_would_not_shrink_are_left_whole() -> None:
    model = small()
    exact = logits(model)
    step = SVD(LowRankParams(energy=1.0, multiple=1))
    report = step.prepare(model, Context(strict=False))
    assert not report.touched and "would take" in report.skipped["layers.2.forward.input"]
    assert_close(logits(model), exact, 0)


@pytest.mark.parametrize("per_gate", [False, True])
def test_reported_error_is_that_of_the_map(per_gate: bool) -> None:
    model = small()
    before = {item.name: item.matrix.clone() for item in maps_of(model)}
    report = SVD(LowRankParams(rank=4, per_gate=per_gate)).prepare(model, Context(strict=False))
    stored = dict(walk(to_network(model)))
    names = {"layers.2.forward.recurrent": "2.forward.recurrent_map", "layers.2.backward.input": "2.backward.input_map"}
    for ours, theirs in names.items():
        lost = float(np.square(stored[theirs].dense() - before[ours].numpy()).sum() / before[ours].square().sum())
        assert report.touched[ours]["relative_error"] == pytest.approx(lost, rel=1e-3)
        parts = before[ours].chunk(4 if per_gate else 1)
        tail = sum(float((singular_values(part)[4:] ** 2).sum()) for part in parts) / float(before[ours].square().sum())
        assert lost == pytest.approx(tail, rel=1e-3)


@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp", "ds2"])
def test_closest_outputs_are_closer_on_what_was_heard(name: str, per_gate: bool) -> None:
    """By any other product of the rank, the closest to the weights above all, and by 1e-4 perturbed ones."""
    lost = {}
    for closest in ("weights", "outputs"):
        model = small(name)
        whole = {item.name: item.matrix.double() for item in maps_of(model)}
        moments = second_moments(model, Context(batches=batches), "test")
        params = LowRankParams(rank=3, multiple=1, per_gate=per_gate, closest=closest)
        report = SVD(params).prepare(model, Context(strict=False, batches=batches))
        for part in report.touched:
            owner = {item.name.removesuffix(".left"): item for item in maps_of(model) if item.factor}[part]
            left, right = (factor.matrix.double() for factor in factors_of(Map(part, *_whole_of(model, owner), "")))
            miss = whole[part] - left @ right
            lost[part, closest] = float(torch.einsum("rc,cd,rd->", miss, moments[part], miss))
            if closest == "outputs" and not per_gate:
                for seed in range(3):
                    noise = torch.randn(left.shape, generator=torch.Generator().manual_seed(seed)).double()
                    other = whole[part] - (left + 1e-4 * left.norm() * noise) @ right
                    assert torch.einsum("rc,cd,rd->", other, moments[part], other) > lost[part, closest]
    parts = {part for part, _ in lost}
    assert len(parts) >= 2
    for part in parts:
        assert lost[part, "outputs"] < 0.999 * lost[part, "weights"]


def _whole_of(model: AcousticModel, factor: Map) -> tuple[torch.nn.Module, str]:
    """The module and tensor that a left factor is part of."""
    for module in model.modules():
        for tensor in getattr(module, "parametrizations", {}):
            if any(part is factor.owner for part in module.parametrizations[tensor].modules()):
                return module, tensor
    raise AssertionError(factor.name)


def test_closest_outputs_at_full_rank_are_the_original() -> None:
    model = small()
    exact = logits(model)
    step = SVD(LowRankParams(rank=30, closest="outputs", include=("layers.2.forward.input",), multiple=1))
    with pytest.raises(InputError, match="nothing that this pass could change"):  # no smaller: left whole
        step.prepare(model, Context(batches=batches))
    item = next(m for m in maps_of(model) if m.name == "layers.2.forward.input")
    root = torch.linalg.cholesky(second_moments(model, Context(batches=batches), "test")[item.name])
    left, right = Spectrum.of(item.matrix.double() @ root).factors(item.matrix.shape[1])
    left, right = balanced(left, solved(right, root))
    np.testing.assert_allclose((left @ right).numpy(), item.matrix.numpy(), atol=1e-5)
    np.testing.assert_allclose(left.norm(dim=0).numpy(), right.norm(dim=1).numpy(), rtol=1e-4)
    assert_close(logits(model), exact, 0)


def test_closest_outputs_refusals() -> None:
    with pytest.raises(InputError, match="needs speech"):
        SVD(LowRankParams(rank=3, closest="outputs")).prepare(small(), Context())
    with pytest.raises(InputError, match="no speech reached"):
        SVD(LowRankParams(rank=3, closest="outputs")).prepare(small(), Context(batches=list))
    step = SVD(LowRankParams(rank=1, multiple=1, closest="outputs", include=("conv", "input")))
    with pytest.raises(InputError, match="closest outputs of a conv map"):
        step.prepare(small("ds2"), Context(batches=batches))


def test_factors_train_prune_and_quantize() -> None:
    model = small()
    steps = [SVD(LowRankParams(rank=8)), BlockPruning(BlockPruningParams(sparsity=0.5)), DynamicInt8()]
    steps[0].prepare(model, Context(strict=False))
    for _ in train_steps(model, steps[:1], 2):
        pass
    for step in steps[1:]:
        step.prepare(model, Context())
        step.finalize(model)
    network = to_network(model)
    stored = [part for _, part in walk(network) if isinstance(part, formats.LowRank)]
    assert stored and all(isinstance(part.left, formats.BlockSparseInt8) for part in stored)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)


@pytest.mark.parametrize("name", ["lstm", "blstm", "ds2", "tdnn-lstm"])
def test_joint_full_rank_is_the_original(name: str) -> None:
    """A layer norm reads the outputs of every zoo model: the projection is undone before it."""
    model = small(name)
    randomize(model)
    exact = logits(model)
    step = JointLowRank(JointLowRankParams(energy=1.0, multiple=1))
    report = step.prepare(model, Context())
    assert all(set(figures["ranks"]) <= {18, 21} for figures in report.touched.values())
    assert_close(logits(model), exact, 1e-5)
    assert_close(engine_logits(to_network(model)), exact, 1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_joint_without_layer_norms(bidirectional: bool) -> None:
    """Then the reader takes the projected outputs, and the model has no layer more."""
    torch.manual_seed(1)
    width = 16 * (1 + bidirectional)
    layers = [Recurrent(8, 16, bidirectional), Recurrent(width, 16, bidirectional), Linear(width, 12)]
    model = AcousticModel(layers).eval()
    exact = logits(model)
    JointLowRank(JointLowRankParams(rank=16)).prepare(model, Context())
    assert_close(logits(model), exact, 1e-5)
    model = AcousticModel(
        [Recurrent(8, 16, bidirectional), Recurrent(width, 16, bidirectional), Linear(width, 12)]
    ).eval()
    step = JointLowRank(JointLowRankParams(rank=6, multiple=1, include=("layers.0",)))
    report = step.prepare(model, Context()).merged(step.finalize(model))
    assert model.layers[1].directions[0].inputs == 6 * (1 + bidirectional) and len(model.layers) == 3
    assert report.figures["parameters"] < report.figures["parameters_before"]
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("layers", "bi", "norm", "bias"), itertools.product((1, 2, 3), (False, True), (False, True), (False, True))
)
def test_joint_full_rank_of_any_depth_is_the_original(
    layers: int, bi: bool, norm: bool, bias: bool, dtype: torch.dtype
) -> None:
    """Every layer gets a projection as wide as it is, and computes what it did."""
    torch.manual_seed(layers)
    hidden, width = 7, 7 * (1 + bi)
    parts: list[nn.Module] = []
    for index in range(layers):
        recurrent = Recurrent(BINS if index == 0 else width, hidden, bi)
        for direction in recurrent.directions if not bias else ():
            direction.bias_ih = direction.bias_hh = None
        parts += [recurrent, LayerNorm(width)] if norm else [recurrent]
    model = AcousticModel([*parts, Linear(width, TOKENS)]).to(dtype).eval()
    randomize(model)
    x = frames().to(dtype)
    with torch.no_grad():
        exact, _ = model(x, LENGTHS)
        report = JointLowRank(JointLowRankParams(energy=1.0, multiple=1)).prepare(model, Context())
        ours, _ = model(x, LENGTHS)
    assert [figures["ranks"] for figures in report.touched.values()] == [[hidden] * (1 + bi)] * layers
    directions = [part for part in model.modules() if isinstance(part, LSTMDirection)]
    assert all(d.weight_hr.shape == (hidden, hidden) and (d.bias_ih is None) == (not bias) for d in directions)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for row, length in enumerate(LENGTHS.tolist()):
        atol = 1e-6 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(ours[row, :length], exact[row, :length], rtol=0, atol=atol)


def test_joint_truncation_loses_only_what_is_small() -> None:
    torch.manual_seed(1)
    model = AcousticModel([Recurrent(8, 16), Recurrent(16, 16), Linear(16, 12)]).eval()
    with torch.no_grad():  # outputs 4 and later hardly matter to anyone
        model.layers[0].directions[0].weight_hh[:, 4:] *= 1e-4
        model.layers[1].directions[0].weight_ih[:, 4:] *= 1e-4
    exact = logits(model)
    JointLowRank(JointLowRankParams(energy=0.999999, multiple=1, include=("layers.0",))).prepare(model, Context())
    assert model.layers[0].outputs == 4
    assert_close(logits(model), exact, 1e-3)


def test_joint_refusals() -> None:
    with pytest.raises(InputError, match="nothing that this pass could change"):
        JointLowRank(JointLowRankParams(rank=4)).prepare(small("lstmp"), Context())
    with pytest.raises(InputError, match="is no list of layers"):
        JointLowRank(JointLowRankParams(rank=4)).prepare(torch.nn.LSTM(3, 4), Context())


@pytest.mark.slow
def test_forty_million_parameters() -> None:
    """How long it takes: benchmarks/passes.py."""
    model = AcousticModel([Recurrent(320, 1024), *(Recurrent(1024, 1024) for _ in range(4)), Linear(1024, 40)])
    step = SVD(LowRankParams(ratio=3.0))
    report = step.prepare(model, Context()).merged(step.finalize(model))
    assert len(report.touched) == 10
    stored = [part for _, part in walk(to_network(model)) if isinstance(part, formats.LowRank)]
    assert len(stored) == 10
    assert all(
        rows * cols / 3.3 < part.parameters < rows * cols / 2.9 for part in stored for rows, cols in [part.shape]
    )
