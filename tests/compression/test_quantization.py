"""Fake-quantized is what is stored, per step as the engine computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams, Pruning, PruningParams
from asr_compress.compression.quantization import DynamicInt8, DynamicInt8Params
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.maps import maps_of
from asr_compress.runtime import arithmetic, formats
from asr_compress.runtime.network import walk
from tests.compression.speech import train_steps
from tests.models.small import BUILDERS, assert_close, engine_logits, logits, small


@pytest.mark.parametrize("name", BUILDERS)
def test_int8_of_every_family(name: str) -> None:
    model = small(name)
    exact = logits(model)
    step = DynamicInt8()
    report = step.prepare(model, Context()).merged(step.finalize(model)).to_json()
    network = to_network(model)
    assert all(isinstance(stored, formats.Int8) for _, stored in walk(network))
    assert report["figures"]["bytes"] == sum(stored.nbytes for _, stored in walk(network))
    assert report["figures"]["bytes"] < 0.35 * report["figures"]["float32_bytes"]
    assert_close(logits(model), exact, 0.05)
    assert_close(engine_logits(network), exact, 0.1)
    assert max(np.abs(a - b).max() for a, b in zip(engine_logits(network), exact, strict=True)) > 0


def test_fake_quantizer_gives_the_engines_integers() -> None:
    """From the same input: the weights that torch multiplies are the engine's integers times their scales."""
    model = small()
    DynamicInt8().prepare(model, Context())
    x = np.random.default_rng(0).normal(size=(5, 21)).astype(np.float32)
    stored = dict(walk(to_network(model)))["2.forward.recurrent_map"]
    assert isinstance(stored, formats.Int8)
    codes, scales = arithmetic.quantize_rows(x)
    weight = maps_of(model, ["layers.2.forward.recurrent"])[0].matrix.numpy()
    np.testing.assert_array_equal(weight, stored.integers() * stored.scales[:, None])
    sums = arithmetic.dequantize(stored.sums(codes), scales, stored.scales)
    np.testing.assert_allclose((codes * scales[:, None]) @ weight.T, sums, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(stored.product(x), sums)


@pytest.mark.parametrize("unit", ["weight", "block"])
def test_masks_survive_quantization_and_training(unit: str) -> None:
    model = small()
    prune = Pruning(PruningParams(sparsity=0.7)) if unit == "weight" else BlockPruning(BlockPruningParams(sparsity=0.7))
    prune.prepare(model, Context())
    prune.finalize(model)
    quantize = DynamicInt8(DynamicInt8Params(exclude=("linear",)))
    quantize.prepare(model, Context())
    masks = {item.name: item.masks()[0].mask.clone() for item in maps_of(model, ["input", "recurrent"])}
    before = to_network(model)
    for _ in train_steps(model, [prune, quantize], 3):
        pass
    for item in maps_of(model, ["input", "recurrent"]):
        assert not item.weight[~masks[item.name]].any()
    kind = formats.SparseInt8 if unit == "weight" else formats.BlockSparseInt8
    after = to_network(model)
    for (name, first), (_, second) in zip(walk(before), walk(after), strict=True):
        if "input_map" in name or "recurrent_map" in name:
            assert isinstance(first, kind) and isinstance(second, kind)
            assert not np.array_equal(first.dense(), second.dense())
    assert_close(logits(from_network(after).eval()), logits(model), 1e-6)


def test_excluded_maps_stay_float() -> None:
    model = small()
    report = DynamicInt8(DynamicInt8Params(exclude=("layers.8", "layers.2.*"))).prepare(model, Context())
    kinds = {name: type(stored) for name, stored in walk(to_network(model))}
    assert kinds["6.map"] is formats.Float32 and kinds["2.forward.input_map"] is formats.Float32
    assert kinds["4.backward.recurrent_map"] is formats.Int8
    assert report.skipped.keys() == {"layers.8", *(m.name for m in maps_of(model, ["layers.2.*"]))}


def test_straight_through() -> None:
    """The gradient of the float master is that of the quantized weight."""
    model = small("lstm")
    item = maps_of(model, ["linear"])[0]
    DynamicInt8().prepare(model, Context())
    weight = item.weight
    gradient = torch.randn(weight.shape)
    (found,) = torch.autograd.grad(weight, item.trained, gradient)
    assert torch.equal(found, gradient)
