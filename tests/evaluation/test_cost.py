"""Costs must be what a person would count by hand. `runtime.cost`, on which they rest, has tests of its own."""

from __future__ import annotations

import json

import pytest

from asr_compress.evaluation import cost
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.formats import BLOCK_SPARSE, Float32, Int4, Int8
from asr_compress.runtime.network import FrameStack, Linear
from asr_compress.runtime.tokens import Tokens
from tests.runtime.networks import Maker

TOKENS = Tokens("char", ("<blank>", *"ABCDEF"))  # 7
BINS, HIDDEN = 10, 16


def measured(*layers, bins: int = BINS) -> cost.Cost:
    return cost.measure(Bundle(tuple(layers), FeatureConfig(bins=bins), TOKENS), file_bytes=1000)


def test_lstm_by_hand():
    make = Maker(0)
    found = measured(FrameStack(2, 2), make.lstm(2 * BINS, HIDDEN), make.linear(HIDDEN))
    weights = 4 * HIDDEN * (2 * BINS + HIDDEN)
    assert found.parameters == weights + 4 * HIDDEN + HIDDEN * 7 + 7
    assert found.nonzeros == found.parameters
    # 100 frames a second, stacked to 50.
    assert found.macs_per_s == found.dense_macs_per_s == 50 * (weights + HIDDEN * 7)
    assert [layer.nbytes for layer in found.layers] == [0, 4 * (weights + 4 * HIDDEN), 4 * (HIDDEN * 7 + 7)]
    assert found.file_bytes == 1000
    assert [layer.shape for layer in found.layers] == ["10 -> 20", "20 -> 16", "16 -> 7"]
    assert [layer.name for layer in found.layers] == ["0 FrameStack", "1 LSTMLayer", "2 Linear"]


def test_masks_are_seen_and_natural_zeros_are_not():
    make = Maker(0)
    weights = make.matrix(64, 64)
    masked = weights.copy()
    masked[:32] = 0

    def share(map_) -> float:
        return measured(Linear(map_, make.vector(64)), make.linear(64), bins=64).masked

    assert share(Float32.encode(weights)) == 0
    assert share(Int8.encode(weights)) < 0.03
    assert share(Int4.encode(weights)) == 0
    assert 0.4 < share(Float32.encode(masked)) < 0.5
    assert share(BLOCK_SPARSE["float32"].encode(masked)) == 0


def test_fewer_bits_and_bytes_take_less_energy():
    make = Maker(0)
    energies = []
    for encode in (Float32.encode, Int8.encode, Int4.encode):
        make = Maker(0, encode)
        energies.append(measured(make.lstm(BINS, 512), make.linear(512)).energy_mj_per_s)
    assert energies == sorted(energies, reverse=True) and energies[-1] > 0
    # By hand, float32: 4.6 pJ a product; 4 MB do not fit the cache, 162.5 pJ a byte.
    recurrent, once = 4 * 512 * 512, 4 * 512 * BINS + 512 * 7
    by_hand = 100 * ((recurrent + once) * 4.6 + 4 * 162.5 * (recurrent + once / 16)) / 1e9
    assert energies[0] == pytest.approx(by_hand)


def test_survives_json():
    make = Maker(0)
    found = measured(make.lstm(BINS, HIDDEN), make.linear(HIDDEN))
    assert cost.Cost.from_json(json.loads(json.dumps(found.to_json()))) == found
