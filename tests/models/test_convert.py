"""A torch model and its network compute the same; a network survives the way into torch and back to the bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from asr_compress.models import layers
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.encode import kept_weights, stored_layout
from asr_compress.models.maps import Map, constant_rows, factors_of, make_constant, maps_of
from asr_compress.models.parametrizations import LowRank, Mask
from asr_compress.models.quantizers import LearnedStep, Quantized, SharedWeights
from asr_compress.models.zoo import build_model
from asr_compress.runtime import formats, network
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import Network, walk
from asr_compress.runtime.serialize import describe
from tests.models.small import BUILDERS, LENGTHS, assert_close, engine_logits, frames, logits, small


def assert_same(net: Network, other: Network) -> None:
    described, tensors = describe(net)
    other_described, other_tensors = describe(other)
    assert described == other_described
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == other_tensors[name].dtype and np.array_equal(tensor, other_tensors[name]), name


def keep_blocks(item: Map, share: float) -> torch.Tensor:
    """A random mask of 16 x 4 blocks that no gate's strip crosses."""
    rows = formats.block_sparse.strip_sizes(item.sections)
    matrix = item.matrix.numpy()
    rng = np.random.default_rng(5)
    keep = rng.random((len(rows), -(-matrix.shape[1] // 4))) < share
    pattern = formats.BlockPattern.of(keep, matrix.shape[1], item.sections)
    return torch.from_numpy(pattern.scatter(np.ones((pattern.blocks, 16, 4), np.bool_)))


def compress(model: AcousticModel, how: str) -> AcousticModel:
    """Put a known parametrization on every recurrent map and on the output."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    for item in maps_of(model, ["input", "recurrent", "linear"]):
        parts = how.split("+")
        if parts[0] == "lowrank":
            item.install(LowRank(5, item.weight.shape))
            for factor in factors_of(item):
                if "int8" in parts:
                    factor.install(Quantized("int8"))
            continue
        if parts[0] == "weights":
            item.install(Mask(torch.rand(item.weight.shape, generator=generator) < 0.3, "weight"))
        elif parts[0] == "tiles":
            tiling = formats.Tiling((3, 2), item.sections, item.matrix.shape[1])
            keep = tiling.expand(np.random.default_rng(5).random(tiling.shape) < 0.3)
            item.install(Mask(torch.from_numpy(keep), "tile", tile=tiling.tile))
        elif parts[0] == "blocks":
            item.install(Mask(keep_blocks(item, 0.4), "block"))
        details = {"masks": item.masks(), "gates": item.gates}
        if parts[-1].startswith("learned"):
            item.install(LearnedStep(item.weight, parts[-1].removeprefix("learned-"), **details))
        elif parts[-1] == "shared":
            item.install(SharedWeights(item.weight, 9, **details))
        elif parts[-1] not in ("weights", "tiles", "blocks"):
            item.install(Quantized(parts[-1], **details))
    return model


KINDS = {
    "int8": formats.Int8,
    "int4": formats.Int4,
    "int4_float": formats.Int4Float,
    "float16": formats.Float16,
    "ternary": formats.Ternary,
    "weights": formats.SparseFloat,
    "weights+int8": formats.SparseInt8,
    "weights+int4": formats.Int4,
    "weights+int4_float": formats.Int4Float,
    "tiles": formats.SparseFloat,
    "tiles+int8": formats.SparseInt8,
    "tiles+float16": formats.SparseFloat,
    "tiles+learned-int8": formats.SparseInt8,
    "blocks": formats.BlockSparseFloat32,
    "blocks+int8": formats.BlockSparseInt8,
    "blocks+int4": formats.BlockSparseInt4,
    "binary": formats.Binary,
    "codebook_int8": formats.CodebookInt8,
    "shared": formats.Codebook,
    "weights+shared": formats.Codebook,
    "learned-int8": formats.Int8,
    "learned-int4": formats.Int4,
    "learned-int4_float": formats.Int4Float,
    "weights+learned-int8": formats.SparseInt8,
    "blocks+learned-int8": formats.BlockSparseInt8,
    "lowrank": formats.LowRank,
    "lowrank+int8": formats.LowRank,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_torch_equals_reference_engine(name: str) -> None:
    model = small(name)
    assert_close(engine_logits(to_network(model)), logits(model), 1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_back_into_torch_is_exact(name: str) -> None:
    net = to_network(small(name))
    assert_same(to_network(from_network(net)), net)
    assert_close(logits(from_network(net).eval()), logits(small(name)), 1e-6)


@pytest.mark.parametrize("how", KINDS)
def test_parametrizations_become_formats(how: str) -> None:
    """The network's maps mean exactly what the model computed with."""
    model = compress(small(), how)
    net = to_network(model)
    stored = dict(walk(net))
    kinds = {type(stored[name]) for name in stored if name.startswith(("2.", "3.", "4.", "5."))}
    assert KINDS[how] in kinds
    means = {item.name: item for item in maps_of(model)}
    if "lowrank" not in how:
        pairs = [
            ("layers.2.forward.recurrent", "2.forward.recurrent_map"),
            ("layers.5.backward.input", "4.backward.input_map"),
            ("layers.8", "6.map"),
        ]
        for ours, theirs in pairs:
            np.testing.assert_array_equal(means[ours].matrix.numpy(), stored[theirs].dense())


@pytest.mark.parametrize("how", KINDS)
def test_formats_survive_the_way_into_torch(how: str) -> None:
    """Opened and saved, integers, scales, indices and masks are the same to the bit; the model means what they mean."""
    net = to_network(compress(small(), how))
    model = from_network(net)
    assert_same(to_network(model), net)
    assert_same(to_network(copy.deepcopy(model)), net)
    for (name, stored), item in zip(walk(net), _whole_maps(model), strict=True):
        np.testing.assert_allclose(item.matrix.numpy(), stored.dense(), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("how", ["blocks+int8", "weights", "tiles+int8", "lowrank", "int4", "shared"])
def test_form_is_kept_in_training(how: str) -> None:
    net = to_network(compress(small(), how))
    model = from_network(net).train()
    before = dict(walk(net))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    y, _ = model(frames(), LENGTHS)
    y.square().mean().backward()
    optimizer.step()
    after = dict(walk(to_network(model)))
    changed = 0
    for name, stored in after.items():
        assert type(stored) is type(before[name])
        changed += not np.array_equal(stored.dense(), before[name].dense())
        if how in ("blocks+int8", "weights") and stored_layout(stored) != "dense":
            assert not (stored.dense() != 0)[~kept_weights(before[name])].any()
    assert changed > len(after) // 2


def test_constant_gates() -> None:
    """Rows masked out of both maps are neither stored nor computed, and nothing changes."""
    model = small()
    direction = model.layers[2].directions[0]
    rows = torch.ones(4 * direction.hidden, dtype=torch.bool)
    rows[::3] = False
    make_constant(direction, rows)
    for item in maps_of(model, ["input", "recurrent"]):
        item.install(Quantized("int4", gates=4, live=item.live))
    assert np.array_equal(constant_rows(direction), ~rows.numpy())
    net = to_network(model)
    layer = net[2].forward
    assert layer.constant_gates.count == int((~rows).sum())
    assert layer.recurrent_map.shape == (int(rows.sum()), direction.hidden)
    back = from_network(net)
    assert_same(to_network(back), net)
    expected = logits(model)
    assert_close(logits(back.eval()), expected, 1e-6)
    plain = from_network(network.replace_maps(net, {n: formats.Float32(m.dense()) for n, m in walk(net)}))
    assert_close(engine_logits(to_network(plain)), expected, 1e-5)


def test_dropout_returns_only_when_asked_for() -> None:
    net = to_network(build_model("blstm-small", 12, bins=8))
    assert not any(isinstance(layer, layers.Dropout) for layer in from_network(net).layers)
    kinds = [type(layer).__name__ for layer in from_network(net, dropout=0.2).layers]
    assert kinds == [type(layer).__name__ for layer in build_model("blstm-small", 12, bins=8).layers]


def test_unknown_layer_is_named() -> None:
    class Own(layers.Layer):
        pass

    with pytest.raises(InputError, match=r"layers.1 \(Own\)"):
        to_network(AcousticModel([layers.Linear(3, 3), Own()]))


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no map matches 'layers.99.*'"):
        maps_of(small(), ["layers.99.*"])


def _whole_maps(model: AcousticModel) -> list[Map]:
    """The maps in a network's order, factorized ones in one piece."""
    whole = []
    for item in maps_of(model):
        if not item.factor:
            whole.append(item)
        elif item.name.endswith(".left"):
            owners = {
                id(m.parametrizations[t]): (m, t) for m in model.modules() for t in getattr(m, "parametrizations", {})
            }
            owner, tensor = owners[id(item.owner)]
            whole.append(Map(item.name.removesuffix(".left"), owner, tensor, item.kind, item.direction))
    return whole
