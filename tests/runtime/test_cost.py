"""Accounting equals what is in the file and what is computed."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.cost import account
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.formats import (
    BlockSparseInt8,
    Float16,
    Float32,
    Int4,
    Int4Float,
    Int8,
    LowRank,
    SparseFloat,
    Tiling,
)
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.network import ConstantGates, LSTMLayer, walk
from asr_compress.runtime.tokens import Tokens
from tests.runtime.networks import Maker, backward_networks, streaming_networks

ENCODERS = {
    "float32": Float32.encode,
    "float16": Float16.encode,
    "int8": Int8.encode,
    "int4": Int4.encode,
    "int4, weights only": Int4Float.encode,
    "tiles": lambda weights: SparseFloat.encode(
        np.zeros_like(weights),
        np.zeros(weights.shape, np.bool_),
        tiling=Tiling((3, 2), (len(weights),), weights.shape[1]),
    ),
    "sparse": lambda weights: SparseFloat.encode(weights, np.abs(weights) > 0.4),
    "blocks": BlockSparseInt8.encode,
    "low rank": lambda weights: LowRank.encode(weights, 2, Int8.encode),
}
TOKENS = Tokens.characters("ABCDE")


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_bytes_are_those_in_the_file(encode, tmp_path):
    for name, network in {**streaming_networks(encode), **backward_networks(encode)}.items():
        path = tmp_path / f"{name}.safetensors"
        Bundle(network, FeatureConfig(bins=6), TOKENS, Lexicon({"A": (("A",),)})).save(path)
        cost = account(network, 100.0)
        stored = load_file(path)
        in_layers = sum(tensor.nbytes for key, tensor in stored.items() if key != "lexicon")
        header = int.from_bytes(path.read_bytes()[:8], "little")
        assert cost.total.bytes == in_layers
        assert cost.total.bytes + stored["lexicon"].nbytes + header + 8 == path.stat().st_size
        for layer in cost.layers:
            in_layer = sum(tensor.nbytes for key, tensor in stored.items() if key.split(".")[0] == str(layer.index))
            assert layer.cost.bytes == in_layer


@pytest.mark.parametrize("networks", [streaming_networks, backward_networks])
def test_dense_macs_and_parameters_by_counting_products(networks, monkeypatch):
    """Every product of a run is counted as it happens."""
    from asr_compress.runtime import reference

    done = []
    product = Float32.product
    monkeypatch.setattr(Float32, "product", lambda self, x: (done.append(len(x) * self.macs), product(self, x))[1])
    for network in networks().values():
        done.clear()
        frames = 120  # divisible by every stride, so that rates are exact
        x = Maker().frames(frames, 6)
        for layer in network:
            x, _ = reference.run(layer, x, reference.start(layer, x.shape[1]), True)
        cost = account(network, 100.0)
        np.testing.assert_allclose(sum(done), cost.total.macs_per_s * frames / 100.0)
        assert cost.total.macs_per_s == cost.total.dense_macs_per_s
        assert cost.total.parameters == cost.total.bytes / 4


def test_maps_have_the_names_of_walk():
    network = backward_networks(Int8.encode)["mixed"]
    cost = account(network, 100.0)
    assert [(part.name, part.kind) for layer in cost.layers for part in layer.maps] == [
        (name, weights.kind) for name, weights in walk(network)
    ]
    assert [layer.frames_per_s for layer in cost.layers] == [50.0] * len(network)


def test_constant_gates_take_no_work_and_few_bytes():
    make = Maker(3)
    whole = LSTMLayer(make.map(16, 6), make.map(16, 4), make.vector(16))
    gates = ConstantGates(np.array([1, 2, 9], np.uint32), np.array([0.5, 0, 0.25], np.float32))
    pruned = LSTMLayer(make.map(13, 6), make.map(13, 4), make.vector(13), constant_gates=gates)
    before, after = (account((layer,), 10.0).total for layer in (whole, pruned))
    assert before.macs_per_s == before.dense_macs_per_s == after.dense_macs_per_s == 16 * 10 * 10
    assert after.macs_per_s == 13 * 10 * 10
    assert after.parameters == 13 * 11 + 3
    assert after.nonzeros == after.parameters - 1
    assert after.bytes == 13 * 11 * 4 + 3 * 8


def test_pruned_weights_count_as_parameters_and_not_as_nonzeros():
    make = Maker(4)
    weights = make.matrix(32, 16)
    weights[:16, 4:] = 0
    for encode, macs in ((BlockSparseInt8.encode, 16 * 4 + 16 * 16), (SparseFloat.encode, 32 * 16)):
        stored = encode(weights)
        assert stored.parameters == 32 * 16
        assert stored.nonzeros == np.count_nonzero(stored.dense())
        assert stored.macs == macs
