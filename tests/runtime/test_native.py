"""Every kernel against the numpy reference, bit for bit, on every instruction set that this machine has."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime import arithmetic, reference
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import INSTRUCTION_SET_VARIABLE, extension, instruction_sets
from asr_compress.runtime.formats import (
    Binary,
    BlockSparseInt4,
    BlockSparseInt8,
    CodebookInt8,
    Float32,
    Int4,
    Int8,
    LowRank,
    SparseInt8,
    Ternary,
    WeightFormat,
)
from asr_compress.runtime.formats.block_sparse import as_blocks
from asr_compress.runtime.formats.int4 import LARGEST_BYTE_MULTIPLIER, LARGEST_MULTIPLIER
from asr_compress.runtime.formats.nibbles import pack_nibbles
from asr_compress.runtime.native_backend import NativeBackend
from asr_compress.runtime.network import Bidirectional, ConstantGates, Linear, LSTMLayer, Network
from tests.runtime.networks import Maker, backward_networks, streaming_networks

SETS = instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason="the native engine was not built here")

Encode = Callable[[np.ndarray], WeightFormat]


def blocks(kind: type[BlockSparseInt8] | type[BlockSparseInt4], sparsity: float, gates: bool) -> Encode:
    """Keeps blocks at random, some strips none, strips anew at each gate if `gates`."""

    def encode(weights: np.ndarray) -> WeightFormat:
        sections = (weights.shape[0] // 4,) * 4 if gates and weights.shape[0] % 4 == 0 else (weights.shape[0],)
        strips, _, across, _ = as_blocks(weights, sections).shape
        keep = np.random.default_rng(weights.size).random((strips, across)) > sparsity
        keep[::5] = False
        return kind.encode(weights, keep, sections)

    return encode


def int4_beyond_bytes(weights: np.ndarray) -> Int4:
    """With multipliers that take a weight beyond int8, as other programs may write them."""
    stored = Int4.encode(weights)
    return replace(stored, multipliers=stored.multipliers * np.uint8(LARGEST_MULTIPLIER // LARGEST_BYTE_MULTIPLIER))


INTEGER: dict[str, Encode] = {
    "int8": Int8.encode,
    "int8 static": lambda w: Int8.encode(w, input_scale=0.013),
    "int4": Int4.encode,
    "int4 beyond bytes": int4_beyond_bytes,
    "int4 groups of 8": lambda w: Int4.encode(w, 8),
    "int4 groups of 16, static": lambda w: Int4.encode(w, 16, input_scale=0.02),
    "blocks int8": blocks(BlockSparseInt8, 0.7, True),
    "blocks int8, one section": blocks(BlockSparseInt8, 0.4, False),
    "blocks int4": blocks(BlockSparseInt4, 0.3, True),
    "low rank int8": lambda w: LowRank.encode(w, max(1, min(w.shape) // 2), Int8.encode),
    "ternary": Ternary.encode,
    "binary": Binary.encode,
    "codebook int8": lambda w: CodebookInt8.encode(w, 16),
    "sparse int8": lambda w: SparseInt8.encode(np.where(np.abs(w) > 0.3, w, 0).astype(np.float32)),
}
SIZES = st.integers(1, 90)


@pytest.fixture(params=SETS)
def isa(request, monkeypatch) -> str:
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, request.param)
    return request.param


def native(network: Network, threads: int = 1) -> Engine:
    engine = Engine(network, "native", threads)
    assert engine.backend == "native"
    return engine


def with_set(isa: str, network: Network) -> NativeBackend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INSTRUCTION_SET_VARIABLE, isa)
        backend = NativeBackend(network)
    assert backend.instruction_set == isa
    return backend


@pytest.mark.parametrize("name", sorted(INTEGER))
@given(rows=SIZES, cols=SIZES, count=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_products_are_the_reference_bit_for_bit(name, rows, cols, count, seed):
    make = Maker(seed, INTEGER[name])
    network = (make.linear(cols, rows),)
    x = make.frames(count, cols)
    expected = Engine(network, "reference").run(x)
    for isa in SETS:
        assert np.array_equal(with_set(isa, network).run_batch([x])[0], expected), isa


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 24, 27, 36, 64])
def test_products_of_maps_beyond_the_second_level_cache(isa, count):
    make = Maker(count, Int8.encode)
    network = (make.linear(379, 1450),)  # more than kNearBytes of kernels_dense_int8.h
    x = make.frames(count, 379)
    assert np.array_equal(native(network).run(x), Engine(network, "reference").run(x))


@pytest.mark.parametrize("name", ["int8", "int4"])
@given(
    rows=st.integers(33, 200), cols=st.integers(60, 330), lengths=st.lists(st.integers(3, 5), min_size=8, max_size=16)
)
@settings(max_examples=8, deadline=None)
def test_recurrences_of_many_rows_at_once(name, rows, cols, lengths):
    """Eight rows of activations and more, in a recurrence and in its input product; sixteen of them are a tile."""
    make = Maker(rows, INTEGER[name])
    network = (make.lstm(cols, rows),)
    batch = [make.frames(length, cols) for length in sorted(lengths, reverse=True)]
    expected = Engine(network, "reference").run_batch(batch)
    for isa in SETS:
        assert all(map(np.array_equal, with_set(isa, network).run_batch(batch), expected)), isa


@pytest.mark.parametrize("name", ["int4", "int4 groups of 8", "int4 beyond bytes"])
@given(hidden=st.integers(3, 150), lengths=st.lists(st.integers(1, 24), min_size=1, max_size=16))
@settings(max_examples=8, deadline=None)
def test_recurrences_of_many_steps(name, hidden, lengths):
    """Weights that several utterances meet for long enough are unpacked once for all of it."""
    make = Maker(hidden, INTEGER[name])
    network = (make.lstm(20, hidden),)
    batch = [make.frames(length, 20) for length in sorted([*lengths, 24, 24], reverse=True)[:16]]
    expected = Engine(network, "reference").run_batch(batch)
    for isa in SETS:
        assert all(map(np.array_equal, with_set(isa, network).run_batch(batch), expected)), isa


@pytest.mark.parametrize(("name", "cols"), [("int8", 1030), ("int4", 1030), ("int4 beyond bytes", 1030)])
@pytest.mark.parametrize("count", [8, 12, 16, 17, 33, 64])
def test_large_products_of_many_rows(isa, name, cols, count):
    make = Maker(count, INTEGER[name])
    network = (make.linear(cols, 2100),)  # more than kNearBytes of amx_dense.h, nibbles too
    x = make.frames(count, cols)
    assert np.array_equal(native(network).run(x), Engine(network, "reference").run(x))


def test_recurrences_of_maps_beyond_the_second_level_cache(isa):
    make = Maker(0, Int8.encode)
    network = (make.lstm(20, 379),)
    batch = [make.frames(length, 20) for length in (6, *range(6, 0, -1), 5, 4, 4, 4, 4, 3, 3, 3, 2)]  # 16 down to 1
    expected = Engine(network, "reference").run_batch(batch)
    for got, wanted in zip(native(network).run_batch(batch), expected, strict=True):
        assert np.array_equal(got, wanted)


def test_products_of_extreme_codes_do_not_saturate(isa):
    cols = 1000
    weights = np.where(np.arange(cols) % 3 == 0, -1, 1) * np.ones((70, 1))
    for encode in (INTEGER["int8"], INTEGER["int4"], Binary.encode, lambda w: BlockSparseInt4.encode(w)):
        network = (Linear(encode(weights.astype(np.float32)), np.zeros(70, np.float32)),)
        x = np.sign(weights[:3]).astype(np.float32) * np.array([[1], [-1], [1]], np.float32)
        x = np.concatenate([x] * 5)  # several rows at a time, and one
        for frames in (x, x[:1], x[1:2]):
            assert np.array_equal(native(network).run(frames), Engine(network, "reference").run(frames))


@pytest.mark.parametrize("multiplier", [LARGEST_BYTE_MULTIPLIER, LARGEST_MULTIPLIER])
@pytest.mark.parametrize("cols", [32, 64, 67])
def test_group_sums_of_extreme_nibbles_fit_their_lanes(isa, cols, multiplier):
    # Where a group's sum is kept in two halves of 16 bits, neighboring pairs of columns go to different ones.
    second = np.arange(cols) // 2 % 2
    nibbles = np.array([np.where(second, b, a) for a in (0, 15) for b in (0, 15)] * 10, np.uint8)
    x = np.array([np.where(second, b, a) for a in (1, -1) for b in (1, -1)], np.float32)
    groups = -(-cols // 32)
    rows = len(nibbles)
    multipliers = np.full((rows, groups), multiplier, np.uint8)
    int4 = Int4(pack_nibbles(nibbles), multipliers, np.ones(rows, np.float32), cols)
    network = (Linear(int4, np.zeros(rows, np.float32)),)
    for frames in (np.concatenate([x] * 4), x, x[:1], x[1:2], x[2:3], x[3:]):
        assert np.array_equal(native(network).run(frames), Engine(network, "reference").run(frames))


@given(rows=SIZES, cols=SIZES, count=st.one_of(st.integers(0, 30), st.integers(48, 64)))
@settings(max_examples=15, deadline=None)
def test_float_products_follow_the_stated_order(rows, cols, count):
    make = Maker(rows + cols)
    layer = make.linear(cols, rows)
    x = make.frames(count, cols)
    expected = arithmetic.f32_product(x, layer.map.dense()) + layer.bias
    for isa in SETS:
        assert np.array_equal(with_set(isa, (layer,)).run_batch([x])[0], expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("added", [2.0**-80, 0.0, -(2.0**-80)])
def test_float_products_round_once(sign, added):
    """Where rounding to double first and then to float would go the other way."""
    weights = np.array([[1.0, sign * (1 + 2.0**-12)]] * 17, np.float32)
    x = np.array([[sign * added, 1 + 2.0**-12]], np.float32)
    expected = np.float32(sign * (1 + 2.0**-11 + (2.0**-23 if added > 0 else 0)))
    assert (arithmetic.f32_product(x, weights) == expected).all()
    layer = Linear(Float32.encode(weights), np.zeros(17, np.float32))
    for isa in SETS:
        assert (with_set(isa, (layer,)).run_batch([x])[0] == expected).all()


@given(hidden=st.integers(1, 70), scale=st.sampled_from([0.1, 1.0, 10.0, 1000.0]))
@settings(max_examples=30, deadline=None)
def test_the_cell_is_arithmetic(hidden, scale):
    make = Maker(hidden)
    gates, c = make.frames(1, 4 * hidden) * np.float32(scale), make.frames(1, hidden)
    expected_c, expected_h = arithmetic.lstm_cell(gates, c)
    for isa in SETS:
        state, h = c.copy(), np.zeros_like(c)
        largest = extension().lstm_cell(isa, gates, state, h)
        assert np.array_equal(state, expected_c) and np.array_equal(h, expected_h)
        assert largest == np.abs(expected_h).max()


KINDS = {"streaming": streaming_networks, "backward": backward_networks}
LENGTHS = (0, 1, 2, 40, 5, 17, 34)


@functools.cache
def referred(kind: str, encode: Encode) -> list[tuple[Network, list[np.ndarray], list[np.ndarray]]]:
    """Networks, a batch, and what the reference makes of it. The reference is slow, so it runs once for all."""
    batch = [Maker(length).frames(length, 6) for length in LENGTHS]
    return [(n, batch, Engine(n, "reference").run_batch(batch)) for n in KINDS[kind](encode).values()]


@pytest.mark.parametrize("encode", [Int8.encode, Int4.encode], ids=["int8", "int4"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_whole_networks_equal_the_reference(isa, kind, encode):
    for network, batch, expected in referred(kind, encode):
        for threads in (1, 2, 3):
            assert all(map(np.array_equal, native(network, threads).run_batch(batch), expected))


@pytest.mark.parametrize("scales", list(itertools.product((None, 0.013, 0.02, "float"), repeat=2)), ids=str)
def test_directions_that_quantize_alike_and_unlike(isa, scales):
    """Those that do it alike share the codes of their inputs; one may also meet them in float."""
    forward, backward = (Float32.encode if s == "float" else partial(Int8.encode, input_scale=s) for s in scales)
    layer = Bidirectional(Maker(1, forward).lstm(9, 20), Maker(2, backward).lstm(9, 20, reverse=True))
    network = (layer,)
    batch = [Maker(length).frames(length, 9) for length in (3, 60, 0, 60, 1)]
    expected = Engine(network, "reference").run_batch(batch)
    for threads in (1, 2):
        for got, wanted in zip(native(network, threads).run_batch(batch), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 if "float" in scales else 0)


@functools.cache
def odd_sizes(name: str, hidden: int, projection: int | None) -> tuple[Network, list[np.ndarray], list[np.ndarray]]:
    make = Maker(4, INTEGER[name], 0.15)
    width = projection or hidden
    network = (
        make.bidirectional(23, hidden, projection),
        make.norm(2 * width),
        make.lstm(2 * width, hidden, projection),
        make.linear(width),
    )
    batch = [make.frames(length, 23) for length in (9, 20, 1, 0, *[3] * 14)]  # more than one batch of sixteen
    return network, batch, Engine(network, "reference").run_batch(batch)


@pytest.mark.parametrize("name", ["int8", "int4", "blocks int8", "blocks int4", "low rank int8"])
@pytest.mark.parametrize(("hidden", "projection"), [(37, None), (100, 44), (64, 70)])
def test_lstm_sizes_that_no_tile_divides(isa, name, hidden, projection):
    network, batch, expected = odd_sizes(name, hidden, projection)
    assert all(map(np.array_equal, native(network).run_batch(batch), expected))


@pytest.mark.parametrize("rows", [[], [0, 1, 2], [5, 11, 12, 13, 39], list(range(0, 40, 3)), list(range(10, 20))])
def test_constant_gates(isa, rows):
    make = Maker(5, Int8.encode)
    kept = np.delete(np.arange(40), rows)
    constant = ConstantGates(np.array(rows, np.uint32), make.vector(len(rows)))
    maps = (Int8.encode(make.matrix(40, size)[kept]) for size in (7, 10))
    network = (LSTMLayer(*maps, make.vector(len(kept)), constant_gates=constant), make.linear(10))
    x = make.frames(12, 7)
    assert np.array_equal(native(network).run(x), Engine(network, "reference").run(x))


@pytest.mark.parametrize("name", sorted(streaming_networks()))
@given(length=st.integers(0, 23), cuts=st.lists(st.integers(0, 23), max_size=5))
@settings(max_examples=10, deadline=None)
def test_pieces_give_the_whole(name, length, cuts):
    engine = native(streaming_networks(Int8.encode)[name])
    x = Maker(6).frames(length, 6)
    stream = engine.stream()
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = [stream.push(x[a:b]) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate([*pieces, stream.finish()]), engine.run(x))


def test_look_ahead_streams_equal_the_reference(isa):
    network = backward_networks(Int8.encode)["stacked"]
    x = Maker(7).frames(40, 6)
    outputs = []
    for engine in (native(network), Engine(network, "reference")):
        stream = engine.stream(chunk_frames=8, look_ahead_frames=4)
        outputs.append(np.concatenate([stream.push(x[:13]), stream.push(x[13:]), stream.finish()]))
    assert np.array_equal(*outputs)


def test_streams_in_threads_share_one_set_of_weights():
    engine = native(streaming_networks(Int8.encode)["projected"])

    def one(seed: int) -> bool:
        x = Maker(seed).frames(60, 6)
        stream = engine.stream()
        pieces = [stream.push(x[begin : begin + 7]) for begin in range(0, 60, 7)]
        return np.array_equal(np.concatenate([*pieces, stream.finish()]), engine.run(x))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(40)))


def test_a_stream_can_be_copied_and_resumed():
    engine = native(streaming_networks(Int8.encode)["stacked"])
    x = Maker(8).frames(30, 6)
    stream = engine.stream()
    stream.push(x[:11])
    twin, resumed = stream.copy(), engine.resume(stream.state())
    ends = [np.concatenate([s.push(x[11:]), s.finish()]) for s in (stream, twin, resumed)]
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[0], ends[2])


# ---- what must be refused ----------------------------------------------------------------------------------------


def test_an_instruction_set_that_is_not_there(monkeypatch):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, "altivec")
    with pytest.raises(InputError, match=r"ASR_COMPRESS_ISA is 'altivec'; this machine has .*portable"):
        Engine(streaming_networks()["lstm"], "native")


def describe(**changes: object) -> list[tuple]:
    """A linear layer of 5 x 6, as the extension reads it."""
    parts = {
        "rows": 5, "cols": 6, "codes": np.zeros((5, 6), np.int8), "scales": np.ones(5, np.float32),
        "input_scale": 0.0, "bias": np.zeros(5, np.float32),
    } | changes  # fmt: skip
    bias = parts.pop("bias")
    return [("linear", ("int8", *parts.values()), bias)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros((5, 5), np.int8)}, "codes has 25 elements; it must have 30"),
        ({"codes": np.zeros((5, 6), np.uint8)}, "codes has elements of type 'B'; they must be 'b'"),
        ({"codes": np.full((5, 6), -128, np.int8)}, "the least is -127"),
        ({"scales": np.ones(4, np.float32)}, "scales has 4 elements"),
        ({"bias": np.zeros(6, np.float32)}, "bias has 6 elements"),
        ({"input_scale": -1.0}, "input_scale must be a positive number"),
        ({"rows": -1}, "rows is -1, out of range"),
        ({"cols": 1 << 30}, "out of range"),
    ],
)
def test_descriptions_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        extension().Model(describe(**changes), "portable")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one layer"),
        ([("linear",)], "too few items"),
        ([("attention", 1)], "no layer is called 'attention'"),
        ([("clamp", 5, 0.0, 1.0, 2.0)], "too many items"),
        ([*describe(), *describe()], "layer 1 takes 6 features, but the one before gives 5"),
        (["linear"], "must be a tuple"),
    ],
)
def test_layers_that_do_not_fit(layers, message):
    with pytest.raises(ValueError, match=message):
        extension().Model(layers, "portable")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"starts": -1}, "fewer rows"), ({"column": 9}, "beyond"), ({"count": 3}, "more blocks|columns has")],
)
def test_block_patterns_that_do_not_fit(change, message):
    sections = np.array([16, 4 + change.get("starts", 0)], np.uint32)
    counts = np.array([1, change.get("count", 1)], np.uint16)
    columns = np.array([0, change.get("column", 1)], np.uint16)
    codes, scales = np.zeros((2, 16, 4), np.int8), np.ones(20, np.float32)
    layer = ("linear", ("block_int8", 20, 7, sections, counts, columns, codes, scales, 0.0), np.zeros(20, np.float32))
    with pytest.raises(ValueError, match=message):
        extension().Model([layer], "portable")


def test_buffers_of_the_wrong_size():
    model = extension().Model(describe(), "portable")
    good, out = np.zeros((3, 6), np.float32), np.zeros((3, 5), np.float32)
    model.run([good], [out], 1)
    for inputs, outputs, threads in (
        ([np.zeros(7, np.float32)], [out], 1),
        ([good], [np.zeros((2, 5), np.float32)], 1),
        ([good], [], 1),
        ([good], [out], 0),
        ([good.astype(np.float64)], [out], 1),
    ):
        with pytest.raises(ValueError, match="whole number|numbers; it must|between 1|elements of type"):
            model.run(inputs, outputs, threads)
    with pytest.raises((ValueError, BufferError)):
        model.run([good], [np.zeros((3, 10), np.float32)[:, ::2]], 1)
    read_only = out.copy()
    read_only.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        model.run([good], [read_only], 1)


def test_pieces_of_the_wrong_size():
    backend = NativeBackend(streaming_networks(Int8.encode)["lstm"])
    model, x = backend._model, np.zeros((2, 6), np.float32)
    state, out = np.zeros(10, np.float32), np.zeros((2, 5), np.float32)
    model.run_frames(0, 0, x, state, out)
    for index, direction, frames, numbers, outputs in (
        (9, 0, x, state, out),
        (0, 1, x, state, out),
        (0, -1, x, state, out),
        (0, 0, x, state[:9], out),
        (0, 0, x, state, out[:1]),
        (0, 0, x[:, :5].copy(), state, out),
    ):
        with pytest.raises(ValueError, match="no layer|no such direction|numbers; it must|there is no|whole number"):
            model.run_frames(index, direction, frames, numbers, outputs)
    with pytest.raises(ValueError, match="has no windows"):
        model.run_windows(0, x, out)


def test_models_are_independent_of_the_arrays_they_came_from():
    network = (Maker(9, Int8.encode).linear(6, 5),)
    x = Maker(9).frames(4, 6)
    twin = copy.deepcopy(network)
    engine = native(twin)
    expected = engine.run(x)
    del twin
    assert np.array_equal(engine.run(x), expected)
    assert np.array_equal(reference.run(network[0], x, {}, True)[0], expected)


def test_float_networks_are_close_to_the_reference(isa):
    for network in (*streaming_networks(Float32.encode).values(), *backward_networks(Float32.encode).values()):
        x = Maker(10).frames(25, 6)
        assert np.allclose(native(network).run(x), Engine(network, "reference").run(x), atol=1e-5)


def test_probes_count_what_they_did(isa):
    native_module, weights = extension(), np.ones(64 * 1024 + 5, np.int8)
    assert native_module.probe_int8(isa, 100_000) >= 90_000
    for bytes_there in (0, 1, 63, 2047, len(weights)):
        done = native_module.probe_loaded(isa, weights[:bytes_there], 3)
        assert done % 3 == 0 and (done > 0) == (isa == "amx" and bytes_there == len(weights))
        native_module.probe_read(isa, weights[:bytes_there], 2)
