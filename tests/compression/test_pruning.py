"""What pruning drops, that it stays dropped, and that reports say so."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asr_compress.compression.base import Context
from asr_compress.compression.order import SPARSE, check_order, traits_of
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams, Pruning, PruningParams
from asr_compress.compression.structured import StructuredParams, StructuredPruning
from asr_compress.compression.units import Units, keep_best, keep_globally, keep_in_groups
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.encode import kept_weights
from asr_compress.models.maps import constant_rows, directions_of, make_constant, maps_of
from asr_compress.runtime import formats
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import walk
from tests.compression.speech import batches, measure_by, train_steps
from tests.models.small import BUILDERS, assert_close, engine_logits, logits, small

CONTEXT = Context(batches=batches)


def pruned(model: AcousticModel, step: Pruning, context: Context = CONTEXT) -> dict:
    return step.prepare(model, context).merged(step.finalize(model)).to_json()


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_blocks_pool_and_expand(cols: int, i: int, f: int, g: int, o: int) -> None:
    sections = (i, f, g, o)
    units = Units("block", (sum(sections), cols), sections)
    rng = np.random.default_rng(0)
    scores = rng.random(units.shape)
    pooled = units.pool(scores)
    assert units.sizes().sum() == scores.size
    np.testing.assert_allclose((pooled * units.sizes()).sum(), scores.sum())
    keep = rng.random(pooled.shape) < 0.5
    mask = units.expand(keep)
    assert mask.shape == units.shape and mask.sum() == units.sizes()[keep].sum()
    # What is kept is exactly what the format stores for this pattern.
    pattern = formats.BlockPattern.of(keep, cols, sections)
    np.testing.assert_array_equal(mask, pattern.scatter(np.ones((pattern.blocks, 16, 4), np.bool_)))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("block", [(8, 1), (1, 4), (5, 7), (100, 100), (32, 8)])
def test_blocks_of_any_size(name: str, block: tuple[int, int]) -> None:
    """Every block is kept or gone as a whole, edges included; what the engine has no strips for is stored by tiles."""
    model = small(name)
    report = pruned(model, BlockPruning(BlockPruningParams(sparsity=0.6, block=block, scope="map")))
    network = to_network(model)
    stored = {name: part for name, part in walk(network) if "_map" in name}
    for item in maps_of(model, ["input", "recurrent"]):
        tiling = formats.Tiling(block, item.sections, item.matrix.shape[1])
        mask = item.masks()[0].mask.numpy()
        share = tiling.sums(mask.astype(np.int64)) / tiling.sizes
        assert set(np.unique(share)) <= {0.0, 1.0}
        assert (share == 0).sum() == round(0.6 * share.size)
        assert not item.weight.detach().numpy()[~mask].any()
        assert report["touched"][item.name]["density"] == pytest.approx(mask.mean())
    kinds = {type(part) for part in stored.values()}
    assert kinds <= ({formats.BlockSparseFloat32} if block == (32, 8) else {formats.SparseFloat, formats.Float32})
    for part in stored.values():
        if isinstance(part, formats.SparseFloat):
            tiles = int(np.prod(part.pattern.tiling.shape))
            assert part.nbytes == 4 * part.pattern.count + -(-tiles // 8)
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(engine_logits(network, "native"), logits(model), 1e-5)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)


def test_sixteen_by_four_is_the_default_however_it_is_said() -> None:
    networks = []
    for step in (
        BlockPruning(BlockPruningParams(sparsity=0.5)),
        BlockPruning(BlockPruningParams(sparsity=0.5, block=(16, 4))),
        Pruning(PruningParams(sparsity=0.5, unit="block", scope="strip")),
    ):
        model = small()
        pruned(model, step)
        networks.append(to_network(model))
    for (_, first), *others in zip(*(walk(network) for network in networks), strict=True):
        for _, other in others:
            assert first.kind == other.kind
            np.testing.assert_array_equal(first.dense(), other.dense())


def test_more_tiles_later_keep_the_first_mask_and_other_blocks_are_refused() -> None:
    model = small()
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.4, block=(8, 1))))
    first = to_network(model)
    model = from_network(first)
    assert traits_of(model) == {SPARSE}
    more = BlockPruning(BlockPruningParams(sparsity=0.7, block=(8, 1)))
    check_order([("more", [more])], traits_of(model), "first")
    pruned(model, more)
    for (name, before), (_, after) in zip(walk(first), walk(to_network(model)), strict=True):
        if "recurrent_map" in name:
            assert isinstance(after, formats.SparseFloat) and after.pattern.index == "tiles"
            assert after.pattern.count < before.pattern.count
            assert not after.pattern.keep[~before.pattern.keep].any()
    with pytest.raises(InputError, match="block_pruning cannot follow first .*singly or in tiles"):
        check_order([("blocks", [BlockPruning(BlockPruningParams())])], traits_of(model), "first")
    blocks = Pruning(PruningParams(sparsity=0.5, unit="block", block=(16, 8)))
    with pytest.raises(InputError, match=r"block_pruning cannot follow pruning \(maps in blocks\)"):
        check_order([("a", [BlockPruning(BlockPruningParams())]), ("b", [blocks, more])], set(), "x")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 45))
def test_keep_best_drops_just_so_many_and_the_lowest(scores: list[int], drop: int) -> None:
    values = np.array(scores, float)
    keep = keep_best(values, drop)
    assert (~keep).sum() == min(drop, len(scores))
    if keep.any() and not keep.all():
        assert values[keep].min() >= values[~keep].max()


def test_groups_have_their_own_shares() -> None:
    scores = np.arange(24.0).reshape(4, 6)
    groups = np.repeat(np.arange(4), 6).reshape(4, 6)
    keep = keep_in_groups(scores, groups, np.array([0.0, 0.5, 1.0, 1 / 3]))
    assert keep.sum(axis=1).tolist() == [6, 3, 0, 4]


@given(st.data(), st.integers(1, 6), st.integers(1, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_groups_and_global_against_their_definition(data: st.DataObject, rows: int, cols: int, mixed: bool) -> None:
    """Unit by unit, with ties, empty groups and groups in any order."""
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=rows * cols, max_size=rows * cols)), float)
    groups = np.repeat(np.arange(rows), cols)
    if mixed:
        groups = np.random.default_rng(rows).permutation(groups)
    shares = np.array(data.draw(st.lists(st.floats(0, 1), min_size=rows + 1, max_size=rows + 1)))
    keep = keep_in_groups(scores.reshape(rows, cols), groups.reshape(rows, cols), shares).reshape(-1)
    for group in range(rows):
        places = np.flatnonzero(groups == group)
        gone = sorted(places, key=lambda place: (scores[place], place))[: round(shares[group] * len(places))]
        assert set(places[~keep[places]]) == set(gone)
    sizes = np.full(len(scores), 3)
    sizes[0] -= mixed
    (kept,) = keep_globally([scores], shares[0], [sizes])
    ranked, total = sorted(range(len(scores)), key=lambda place: (scores[place], place)), 0
    for place in ranked:
        total += sizes[place]
        assert kept[place] == (total > shares[0] * sizes.sum() + 1e-9)


def test_global_counts_weights_not_units() -> None:
    keep = keep_globally([np.array([1.0, 5.0]), np.array([2.0, 3.0])], 0.5, [np.array([10, 10]), np.array([4, 4])])
    assert [part.tolist() for part in keep] == [[False, True], [False, True]]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("kind", ["weight", "block"])
def test_exported_equals_masked(name: str, kind: str) -> None:
    """What the engine runs is what torch computed with the masks on."""
    model = small(name)
    step = (Pruning if kind == "weight" else BlockPruning)(
        PruningParams(sparsity=0.6, schedule="one_shot") if kind == "weight" else BlockPruningParams(sparsity=0.6)
    )
    report = pruned(model, step)
    assert report["figures"]["sparsity"] == pytest.approx(0.6, abs=0.1)
    network = to_network(model)
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)
    stored = [m for n, m in walk(network) if "input_map" in n or "recurrent_map" in n]
    wanted = formats.SparseFloat if kind == "weight" else formats.BlockSparseFloat32
    assert all(isinstance(m, wanted) for m in stored)
    assert report["skipped"].keys() == {
        m.name for m in maps_of(model, ["linear", "conv"] if "ds2" in name or "tdnn" in name else ["linear"])
    }


def test_every_strip_keeps_as_many_blocks() -> None:
    model = small("lstm")
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.75)))
    for name, stored in walk(to_network(model)):
        if isinstance(stored, formats.BlockSparseFloat32):
            assert len(set(stored.pattern.counts.tolist())) == 1, name


def test_magnitude_drops_the_smallest() -> None:
    model = small()
    before = {m.name: np.abs(m.matrix.numpy()) for m in maps_of(model)}
    pruned(model, Pruning(PruningParams(sparsity=0.3)))
    for item in maps_of(model, ["input", "recurrent"]):
        mask = item.masks()[0].mask.numpy()
        assert before[item.name][mask].min() >= before[item.name][~mask].max()


def test_budgets_of_gates() -> None:
    model = small()
    report = pruned(model, Pruning(PruningParams(gates={"i": 0.5, "g": 0.9}, include=["recurrent"])))
    for figures in report["touched"].values():
        assert figures["gates"] == pytest.approx({"i": 0.5, "f": 1.0, "g": 0.1, "o": 1.0}, abs=0.02)


def test_global_budget_is_uneven_between_maps() -> None:
    model = small()
    with torch.no_grad():
        for item in maps_of(model, ["layers.2.*.recurrent"]):
            item.trained.mul_(0.01)
    report = pruned(model, Pruning(PruningParams(sparsity=0.4, scope="global")))
    assert report["touched"]["layers.2.forward.recurrent"]["density"] < 0.05
    assert report["touched"]["layers.5.forward.recurrent"]["density"] > 0.5
    assert report["figures"]["sparsity"] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_gradients_decide(criterion: str) -> None:
    """Weights that read an input which is always zero matter to no loss, however large they are."""
    model = small("lstm")
    item = maps_of(model, ["layers.2.forward.input"])[0]
    dead = torch.zeros(item.weight.shape, dtype=torch.bool)
    dead[:, 3] = True
    with torch.no_grad():
        item.trained[dead] = 5.0
        model.layers[0].scale[3] = 0.0
    pruned(model, Pruning(PruningParams(sparsity=0.2, criterion=criterion, include=["layers.2.forward.input"])))
    assert not item.masks()[0].mask[:, 3].any()


@pytest.mark.parametrize("scope", ["map", "strip", "global"])
def test_threshold_is_a_number_of_times_the_rms(scope: str) -> None:
    model = small()
    items = maps_of(model, ["input", "recurrent"])
    with torch.no_grad():
        for number, item in enumerate(items):  # maps of unlike size, as global scope tells from map
            item.trained.mul_(1 + number)
    whole = {item.name: item.matrix.abs() for item in items}
    rms = torch.cat([matrix.flatten() for matrix in whole.values()]).square().mean().sqrt()
    report = pruned(model, Pruning(PruningParams(threshold=0.6, scope=scope)))
    for item in maps_of(model, ["input", "recurrent"]):
        matrix = whole[item.name]
        limit = 0.6 * (rms if scope == "global" else matrix.square().mean().sqrt())
        below = matrix < limit
        if scope == "strip":  # as many of each row go as are below
            assert torch.equal((item.matrix == 0).sum(dim=1), below.sum(dim=1))
        else:
            assert torch.equal(item.matrix == 0, below)
    assert 0.2 < report["figures"]["sparsity"] < 0.8


@pytest.mark.parametrize("scope", ["map", "global"])
def test_threshold_auto_finds_the_most_that_the_ceiling_allows(scope: str) -> None:
    model = small()
    before = {m.name: m.matrix.numpy() for m in maps_of(model)}

    def error(candidate: AcousticModel) -> float:  # grows smoothly with what is lost of the maps
        kept = sum(float(m.matrix.square().sum()) for m in maps_of(candidate, ["input", "recurrent"]))
        whole = sum(float((before[m.name] ** 2).sum()) for m in maps_of(candidate, ["input", "recurrent"]))
        return 0.5 + (1 - kept / whole)

    context = Context(measure=measure_by(error))
    report = pruned(model, Pruning(PruningParams(threshold="auto", ceiling=0.1, scope=scope)), context)
    assert 0.5 < error(model) <= 0.55
    assert error(model) > 0.53
    assert len(report["figures"]["dev"]) == 8 and report["figures"]["sparsity"] > 0.2


def test_gradual_reaches_its_end_and_stays() -> None:
    for schedule in ("cubic", "narang", "one_shot"):
        model = small()
        step = Pruning(PruningParams(sparsity=0.5, schedule=schedule, begin=0.2, end=0.6, every=1))
        step.prepare(model, CONTEXT)
        densities, settled = [], []
        for number in train_steps(model, [step], 20):
            densities.append(np.mean([float(m.masks()[0].mask.float().mean()) for m in maps_of(model, ["recurrent"])]))
            settled.append(step.settled(number, 20))
        assert densities[3] == 1 and densities[-1] == pytest.approx(0.5, abs=0.01)
        assert all(a >= b - 1e-9 for a, b in pairwise(densities))
        first = settled.index(True)
        assert all(settled[first:]) and all(d == densities[-1] for d in densities[first:])
        masks = [m.masks()[0].mask.clone() for m in maps_of(model, ["input", "recurrent"])]
        step.finalize(model)
        for mask, item in zip(masks, maps_of(model, ["input", "recurrent"]), strict=True):
            assert torch.equal(mask, item.masks()[0].mask)
            assert not item.weight[~mask].any()


def test_pruned_at_the_last_step_at_the_latest() -> None:
    model = small()
    step = Pruning(PruningParams(sparsity=0.5, end=1.0))
    step.prepare(model, CONTEXT)
    for number in train_steps(model, [step], 7):
        last = step.settled(number, 7)
    assert last and all(bool(m.masks()[0].final) for m in maps_of(model, ["recurrent"]))


def test_more_blocks_later_keep_the_first_mask() -> None:
    model = small()
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.4)))
    first = to_network(model)
    model = from_network(first)
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.7)))
    for (name, before), (_, after) in zip(walk(first), walk(to_network(model)), strict=True):
        if "recurrent_map" in name:
            assert kept_weights(after).sum() < kept_weights(before).sum()
            assert not kept_weights(after)[~kept_weights(before)].any()


def test_constant_gates_are_left_out_of_strips() -> None:
    model = small("lstm")
    keep = torch.ones(72, dtype=torch.bool)
    keep[[0, 5, 20, 40, 41]] = False
    for direction in directions_of(model).values():
        make_constant(direction, keep)
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.5)))
    network = to_network(model)
    for name, stored in walk(network):
        if isinstance(stored, formats.BlockSparseFloat32):
            assert stored.pattern.sections == (16, 17, 16, 18)
            assert len(set(stored.pattern.counts.tolist())) == 1, name
    assert constant_rows(next(iter(directions_of(model).values()))).sum() == 5
    assert_close(engine_logits(network), logits(model), 1e-5)


def test_constant_gates_are_left_out_of_tiles() -> None:
    model = small("lstm")
    keep = torch.ones(72, dtype=torch.bool)
    keep[[0, 5, 20, 40, 41]] = False
    for direction in directions_of(model).values():
        make_constant(direction, keep)
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.5, block=(8, 1))))
    network = to_network(model)
    stored = [part for _, part in walk(network) if isinstance(part, formats.SparseFloat)]
    assert len(stored) == 4 and all(part.pattern.tiling.sections == (16, 17, 16, 18) for part in stored)
    assert all(part.pattern.index == "tiles" for part in stored)
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(logits(from_network(network).eval()), logits(model), 1e-6)


def test_units_can_go_after_tiles() -> None:
    """What is left of tiles is no tiling any more; it is stored by weight, and nothing else changes."""
    model = small("blstm")
    pruned(model, BlockPruning(BlockPruningParams(sparsity=0.4, block=(8, 1))))
    step = StructuredPruning(StructuredParams(keep=13, multiple=1))
    step.prepare(model, CONTEXT)
    step.finalize(model)
    network = to_network(model)
    stored = [part for name, part in walk(network) if "recurrent_map" in name]
    assert all(part.shape == (52, 13) for part in stored)
    assert all(getattr(part, "pattern", None) is None or part.pattern.index != "tiles" for part in stored)
    assert_close(engine_logits(network), logits(model), 1e-5)


def test_survives_deepcopy_and_checkpoint() -> None:
    model = small()
    step = Pruning(PruningParams(sparsity=0.5))
    step.prepare(model, CONTEXT)
    step.on_step(10, 20)
    copied = copy.deepcopy(model)
    fresh = small(seed=9)
    again = Pruning(PruningParams(sparsity=0.5))
    again.prepare(fresh, CONTEXT)
    fresh.load_state_dict(copied.state_dict())
    step.finalize(model), again.finalize(fresh)
    assert_close(logits(model), logits(fresh), 0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give `sparsity`"),
        ({"sparsity": 0.5, "threshold": 0.1}, "stands alone"),
        ({"sparsity": 1.5}, "less than or equal to 1"),
        ({"sparsity": 0.5, "begin": 0.9}, "lies after end"),
        ({"gates": {"i": 0.5}, "scope": "strip"}, "scope` must be map"),
        ({"sparsity": 0.5, "colour": "red"}, "Extra inputs"),
        ({"sparsity": 0.5, "block": [8, 1]}, "give `unit: block` too"),
        ({"sparsity": 0.5, "unit": "block", "block": [0, 1]}, "greater than or equal to 1"),
        ({"sparsity": 0.5, "unit": "gate_row"}, "gate_row is pruned by `gate_pruning`"),
        ({"sparsity": 0.5, "unit": "hidden"}, "hidden is pruned by `structured_pruning`"),
    ],
)
def test_bad_parameters(params: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruningParams(**params)


def test_needs_speech_for_gradients() -> None:
    with pytest.raises(InputError, match="pruning: needs speech"):
        Pruning(PruningParams(sparsity=0.5, criterion="fisher")).prepare(small(), Context())


def test_unknown_layers_are_refused_or_reported() -> None:
    model = torch.nn.ModuleDict({"a": small(), "b": torch.nn.GRU(3, 4)})
    with pytest.raises(InputError, match="b is not supported: GRU"):
        Pruning(PruningParams(sparsity=0.5)).prepare(model, CONTEXT)
    report = Pruning(PruningParams(sparsity=0.5)).prepare(model, Context(strict=False))
    assert "b" in report.unsupported
