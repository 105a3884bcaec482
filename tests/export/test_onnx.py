"""An exported network must give what the reference gives, alone and in a padded batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from asr_compress.export.onnx import export, to_onnx
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.formats import Int8
from asr_compress.runtime.network import (
    Activation,
    Bidirectional,
    ConstantGates,
    Conv,
    FrameStack,
    LayerNorm,
    LSTMLayer,
    Network,
    Normalize,
    output_length,
)
from tests.runtime.networks import Maker

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra 'peers')")

BINS = 12


def normalize(make: Maker) -> Normalize:
    return Normalize(make.vector(BINS), 1 + make.random.random(BINS).astype(np.float32))


def constant_gates(make: Maker, features: int, hidden: int) -> LSTMLayer:
    full = make.lstm(features, hidden)
    rows = np.array([0, hidden + 1, 2 * hidden, 3 * hidden + 2], np.uint32)
    live = np.delete(np.arange(4 * hidden), rows)
    return dataclasses.replace(
        full,
        input_map=make.map(len(live), features),
        recurrent_map=make.map(len(live), hidden),
        bias=make.vector(len(live)),
        constant_gates=ConstantGates(rows, make.vector(len(rows))),
    )


def networks() -> dict[str, Network]:
    make = Maker(7)
    norm = LayerNorm(make.vector(10), make.vector(10))
    conv = Conv(make.map(4, 5 * 3 * 1), make.vector(4), (5, 3), (2, 2), (1, 1), 1, BINS)
    again = Conv(make.map(3, 3 * 2 * 4), make.vector(3), (3, 2), (3, 2), (2, 1), 4, conv.out_bins)
    time_delay = Conv(make.map(8, 3 * BINS), make.vector(8), (3, 1), (1, 1), (2, 1), BINS, 1)
    uneven = Bidirectional(make.lstm(BINS, 4), make.lstm(BINS, 6, reverse=True))
    return {
        "forward": (normalize(make), make.lstm(BINS, 10), norm, make.linear(10)),
        "reverse": (normalize(make), make.lstm(BINS, 5, reverse=True), make.linear(5)),
        "bidirectional": (normalize(make), FrameStack(3, 2), make.bidirectional(3 * BINS, 5), make.linear(10)),
        "stacked less than skipped": (normalize(make), FrameStack(2, 3), make.lstm(2 * BINS, 5), make.linear(5)),
        "uneven directions": (normalize(make), uneven, make.linear(10)),
        "convolutions": (
            normalize(make), conv, Activation("clipped_relu"), again, Activation("relu"),
            make.bidirectional(again.width(conv.out_bins * 4), 4), make.linear(8),
        ),
        "time delay": (normalize(make), time_delay, make.lstm(8, 6), make.linear(6)),
        "projection": (normalize(make), make.lstm(BINS, 9, 4), make.bidirectional(4, 8, 3), make.linear(6)),
        "constant gates": (normalize(make), constant_gates(make, BINS, 6), make.linear(6)),
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
def test_exported_equals_reference(name, tmp_path):
    network = networks()[name]
    path = tmp_path / "model.onnx"
    export(network, BINS, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    make = Maker(1)
    batch = [make.frames(frames, BINS) for frames in (31, 1, 18, 7, 30, 12)]
    expected = Engine(network, "reference").run_batch(batch)
    lengths = np.array([len(x) for x in batch], np.int64)
    padded = make.random.normal(size=(len(batch), lengths.max(), BINS)).astype(np.float32)  # padding must not matter
    for row, x in zip(padded, batch, strict=True):
        row[: len(x)] = x
    logits, logit_lengths = session.run(None, {"features": padded, "lengths": lengths})
    assert logit_lengths.tolist() == [output_length(network, len(x)) for x in batch]
    for row, length, wanted in zip(logits, logit_lengths, expected, strict=True):
        np.testing.assert_allclose(row[:length], wanted, atol=2e-5, rtol=1e-4)


def test_integer_weights_are_written_as_what_they_mean():
    make = Maker(2, encode=Int8.encode)
    network = (make.lstm(BINS, 8), make.linear(8))
    stored = {tensor.name: onnx_array(tensor) for tensor in to_onnx(network, BINS).graph.initializer}
    assert any(np.array_equal(array, network[1].map.dense().T) for array in stored.values())


def onnx_array(tensor) -> np.ndarray:
    import onnx.numpy_helper

    return onnx.numpy_helper.to_array(tensor)
