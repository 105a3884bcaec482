"""The engine's invariants: pieces are the whole, a batch is its utterances, each layer is what it says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime import reference
from asr_compress.runtime.engine import Engine, native_instructions
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import Float16, Float32, Int4, Int8
from asr_compress.runtime.network import Bidirectional, ConstantGates, FrameStack, LSTMLayer, output_length
from tests.runtime.networks import Maker, backward_networks, streaming_networks

FORMATS = [Float32, Float16, Int8, Int4]
STREAMING = sorted(streaming_networks())
BACKWARD = sorted(backward_networks())


def frames(count: int, seed: int = 3) -> np.ndarray:
    return Maker(seed).frames(count, 6)


def engine(network, backend: str = "reference") -> Engine:
    return Engine(network, backend=backend)


both_backends = pytest.mark.parametrize(
    "backend",
    [
        "reference",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(native_instructions() is None, reason="the native engine was not built"),
        ),
    ],
)


def in_pieces(stream, x: np.ndarray, cuts: list[int]) -> np.ndarray:
    outputs, begin = [], 0
    for end in [*sorted(min(cut, len(x)) for cut in cuts), len(x)]:
        outputs.append(stream.push(x[begin:end]))
        begin = end
    return np.concatenate([*outputs, stream.finish()])


@both_backends
@pytest.mark.parametrize("encode", [f.encode for f in FORMATS], ids=[f.kind for f in FORMATS])
@pytest.mark.parametrize("name", STREAMING)
@given(length=st.integers(0, 23), cuts=st.lists(st.integers(0, 23), max_size=6))
@settings(max_examples=12, deadline=None)
def test_any_pieces_give_exactly_the_whole(backend, name, encode, length, cuts):
    whole = engine(streaming_networks(encode)[name], backend)
    x = frames(length)
    assert np.array_equal(in_pieces(whole.stream(), x, cuts), whole.run(x))


@both_backends
@pytest.mark.parametrize("networks", [streaming_networks, backward_networks])
def test_lengths_down_to_no_frames(backend, networks):
    for network in networks(Int8.encode).values():
        for length in (0, 1, 2, 5, 9):
            assert engine(network, backend).run(frames(length)).shape == (output_length(network, length), 7)


@both_backends
@pytest.mark.parametrize("networks", [streaming_networks, backward_networks])
def test_a_batch_is_its_utterances(backend, networks):
    for network in networks(Int8.encode).values():
        batch = [frames(length, seed=length) for length in (4, 0, 11, 1)]
        for x, y in zip(batch, engine(network, backend).run_batch(batch), strict=True):
            assert np.array_equal(y, engine(network, backend).run(x))


@both_backends
def test_no_utterances_are_no_outputs(backend):
    assert engine(streaming_networks()["lstm"], backend).run_batch([]) == []


@pytest.mark.parametrize("name", STREAMING)
def test_outputs_come_with_the_stated_latency(name):
    network = streaming_networks()[name]
    stream = engine(network).stream()
    first_given: list[int] = []
    for n in range(40):
        first_given += [n] * len(stream.push(frames(40)[n : n + 1]))
    stride = np.diff(first_given)[0]
    assert (np.diff(first_given) == stride).all()
    # Outputs are given no later than stated, and not all of them earlier.
    assert max(given_at - stride * t for t, given_at in enumerate(first_given)) == stream.latency_frames


@pytest.mark.parametrize("name", BACKWARD)
def test_outputs_of_pieces_come_with_the_stated_latency(name):
    network = backward_networks()[name]
    stream = engine(network).stream(chunk_frames=6, look_ahead_frames=4)
    stride = 60 // output_length(network, 60)
    late = []
    outputs = 0
    for n in range(60):
        for _ in stream.push(frames(60)[n : n + 1]):
            late.append(n - stride * outputs)
            outputs += 1
    assert max(late) == stream.latency_frames


@both_backends
@pytest.mark.parametrize("name", BACKWARD)
@given(length=st.integers(0, 30), cuts=st.lists(st.integers(0, 30), max_size=4), chunk=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_overlapping_pieces_do_not_depend_on_how_frames_arrive(backend, name, length, cuts, chunk):
    whole = engine(backward_networks(Int8.encode)[name], backend)
    x = frames(length)
    at_once = in_pieces(whole.stream(chunk, 5), x, [])
    assert np.array_equal(in_pieces(whole.stream(chunk, 5), x, cuts), at_once)
    assert at_once.shape == whole.run(x).shape


@both_backends
@pytest.mark.parametrize("name", BACKWARD)
def test_a_piece_that_holds_the_utterance_is_exact(backend, name):
    whole = engine(backward_networks(Int8.encode)[name], backend)
    x = frames(17)
    assert np.array_equal(in_pieces(whole.stream(20, 0), x, [3, 9]), whole.run(x))


def test_more_look_ahead_comes_nearer_to_the_whole():
    whole = engine(backward_networks()["bidirectional"])
    x = frames(120)
    errors = [np.abs(in_pieces(whole.stream(6, ahead), x, []) - whole.run(x)).max() for ahead in (0, 4, 40)]
    assert errors[0] > errors[1] > errors[2]


@both_backends
@pytest.mark.parametrize("name", STREAMING)
@given(at=st.integers(0, 17))
@settings(max_examples=8, deadline=None)
def test_a_stream_goes_on_from_its_saved_state(backend, name, at):
    whole = engine(streaming_networks(Int8.encode)[name], backend)
    x = frames(17)
    stream = whole.stream()
    before = stream.push(x[:at])
    saved = {key: array.copy() for key, array in stream.state().items()}
    twin = stream.copy()
    stream.push(x[:5])  # must change neither the copy nor what was saved
    for other in (twin, whole.resume(saved)):
        y = np.concatenate([before, other.push(x[at:]), other.finish()])
        assert np.array_equal(y, whole.run(x))


@both_backends
def test_a_stream_with_look_ahead_goes_on_from_its_saved_state(backend):
    whole = engine(backward_networks()["mixed"], backend)
    x = frames(40)
    stream = whole.stream(6, 4)
    before = stream.push(x[:23])
    resumed = whole.resume(stream.state())
    assert resumed.latency_frames == stream.latency_frames
    y = np.concatenate([before, resumed.push(x[23:]), resumed.finish()])
    assert np.array_equal(y, in_pieces(whole.stream(6, 4), x, []))


def test_state_of_another_network_is_refused():
    networks = streaming_networks()
    state = engine(networks["lstm"]).stream().state()
    with pytest.raises(InputError, match="not of this network"):
        engine(networks["stacked"]).resume(state)
    with pytest.raises(InputError, match="0.h"):
        engine(networks["lstm"]).resume({**state, "0.h": np.zeros(9, np.float32)})
    with pytest.raises(InputError, match="0.c"):
        engine(networks["lstm"]).resume({**state, "0.c": np.full(5, np.nan, np.float32)})
    with pytest.raises(InputError, match="look-ahead"):
        engine(backward_networks()["mixed"]).resume(state)


def test_a_finished_stream_takes_no_more():
    stream = engine(streaming_networks()["lstm"]).stream()
    stream.finish()
    for use in (lambda: stream.push(frames(1)), stream.finish, stream.state):
        with pytest.raises(InputError, match="finished"):
            use()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: engine(streaming_networks()["lstm"]).run(np.zeros((3, 5), np.float32)), r"\(frames, 6\)"),
        (lambda: engine(streaming_networks()["lstm"]).run(np.zeros(6, np.float32)), r"\(frames, 6\)"),
        (lambda: engine(streaming_networks()["lstm"]).run(np.full((3, 6), np.nan)), "NaN"),
        (lambda: engine(streaming_networks()["lstm"]).stream(10, 5), "leave"),
        (lambda: engine(backward_networks()["mixed"]).stream(), "chunk_frames"),
        (lambda: engine(backward_networks()["mixed"]).stream(0, 5), "chunk_frames is 0"),
        (lambda: Engine(streaming_networks()["lstm"], backend="gpu"), "backend is 'gpu'"),
        (lambda: Engine(streaming_networks()["lstm"], threads=0), "threads"),
        (lambda: Engine((FrameStack(2, 2),)), "no layer with weights"),
        (lambda: Engine((*backward_networks()["bidirectional"], Maker().linear(3))), "layer 3"),
        (
            lambda: engine((Maker().bidirectional(6, 2), FrameStack(2, 2), Maker().linear(8))).stream(4, 4),
            "cannot be streamed",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(use, message):
    with pytest.raises(InputError, match=message):
        use()


def test_the_environment_chooses_the_backend(monkeypatch):
    network = streaming_networks()["lstm"]
    monkeypatch.setenv("ASR_COMPRESS_BACKEND", "reference")
    assert Engine(network).backend == "reference"
    monkeypatch.setenv("ASR_COMPRESS_BACKEND", "abacus")
    with pytest.raises(InputError, match="'abacus'"):
        Engine(network)
    assert Engine(network, backend="reference").backend == "reference"


@pytest.mark.parametrize("encode", [Float32.encode, Int8.encode])
def test_a_constant_gate_is_a_row_of_zeros_with_that_bias(encode):
    make = Maker(5)
    w, u, bias = make.matrix(24, 4), make.matrix(24, 6), make.vector(24)
    rows = np.array([0, 5, 6, 13, 20, 23])
    w[rows] = u[rows] = 0
    live = np.delete(np.arange(24), rows)
    dense = LSTMLayer(encode(w), encode(u), bias)
    gates = ConstantGates(rows.astype(np.uint32), bias[rows])
    pruned = LSTMLayer(encode(w[live]), encode(u[live]), bias[live], constant_gates=gates)
    x = make.frames(30, 4)
    state = reference.start(dense, 4)
    assert np.array_equal(reference.run(pruned, x, state, True)[0], reference.run(dense, x, state, True)[0])


def test_a_reversed_layer_reads_from_the_last_frame():
    make = Maker(6)
    forward = make.lstm(4, 3)
    backward = replace(forward, reverse=True)
    x = make.frames(9, 4)
    state = reference.start(forward, 4)
    y = reference.run(forward, x, state, True)[0]
    assert np.array_equal(reference.run(backward, x[::-1], state, True)[0], y[::-1])
    both = reference.run(Bidirectional(forward, backward), x, {}, True)[0]
    assert np.array_equal(both[:, :3], y)
    assert np.array_equal(both[:, 3:], reference.run(backward, x, state, True)[0])


def test_frame_stack_by_hand():
    x = np.arange(5, dtype=np.float32)[:, None]
    for stack, stride, expected in (
        (2, 2, [[0, 1], [2, 3], [4, 0]]),
        (3, 2, [[0, 1, 2], [2, 3, 4], [4, 0, 0]]),
        (1, 3, [[0], [3]]),
    ):
        layer = FrameStack(stack, stride)
        assert reference.run(layer, x, reference.start(layer, 1), True)[0].tolist() == expected


@pytest.mark.parametrize("projection", [None, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_float_lstm_equals_torch(projection, bidirectional):
    torch = pytest.importorskip("torch")
    make = Maker(7)
    layers = [make.lstm(4, 5, projection, reverse=reverse) for reverse in (False, True)[: 1 + bidirectional]]
    module = torch.nn.LSTM(4, 5, proj_size=projection or 0, bidirectional=bidirectional)
    with torch.no_grad():
        for layer, suffix in zip(layers, ("_l0", "_l0_reverse"), strict=False):
            for name, value in (
                ("weight_ih", layer.input_map.dense()),
                ("weight_hh", layer.recurrent_map.dense()),
                ("bias_ih", layer.bias),
                ("bias_hh", np.zeros_like(layer.bias)),
                ("weight_hr", layer.projection.dense() if layer.projection else None),
            ):
                if value is not None:
                    getattr(module, name + suffix).copy_(torch.tensor(value))
        x = make.frames(50, 4)
        wanted = module(torch.tensor(x))[0].numpy()
    layer = Bidirectional(*layers) if bidirectional else layers[0]
    got = reference.run(layer, x, reference.start(layer, 4), True)[0]
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "channels", "bins", "length"),
    [
        ((3, 3), (2, 2), (1, 1), 1, 7, 9),
        ((5, 1), (3, 1), (2, 1), 6, 1, 11),
        ((4, 5), (1, 3), (3, 2), 2, 10, 6),
        ((1, 1), (4, 4), (1, 1), 2, 3, 6),
        ((11, 5), (1, 2), (1, 1), 3, 9, 4),
    ],
)
def test_convolution_equals_torch(kernel, stride, dilation, channels, bins, length):
    torch = pytest.importorskip("torch")
    make = Maker(8)
    layer = make.conv(bins, channels, 4, kernel, stride, dilation)
    x = make.frames(length, bins * channels)
    weights = torch.tensor(layer.map.dense()).reshape(4, *kernel, channels).permute(0, 3, 1, 2)
    left = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    image = torch.tensor(x).reshape(length, bins, channels).permute(2, 0, 1)
    # Enough zeros after the end; the outputs beyond ceil(size / stride) are cut off again.
    image = torch.nn.functional.pad(image, (left[1], 40, left[0], 40))
    y = torch.nn.functional.conv2d(image[None], weights, torch.tensor(layer.bias), stride, 0, dilation)[0]
    y = y[:, : -(-length // stride[0]), : -(-bins // stride[1])].permute(1, 2, 0)
    got = reference.run(layer, x, reference.start(layer, x.shape[1]), True)[0]
    np.testing.assert_allclose(got, y.reshape(y.shape[0], -1).numpy(), atol=1e-5)


@pytest.mark.skipif(native_instructions() is None, reason="the native engine was not built")
@pytest.mark.parametrize("networks", [streaming_networks, backward_networks])
@pytest.mark.parametrize("encode", [f.encode for f in FORMATS], ids=[f.kind for f in FORMATS])
def test_kernels_give_the_numbers_of_the_reference(networks, encode):
    for network in networks(encode).values():
        x = frames(50)
        wanted, got = engine(network, "reference").run(x), engine(network, "native").run(x)
        if encode in (Int8.encode, Int4.encode):
            assert np.array_equal(got, wanted)
        else:
            np.testing.assert_allclose(got, wanted, atol=2e-5)


@both_backends
def test_threads_may_share_an_engine(backend):
    shared = engine(backward_networks(Int8.encode)["mixed"], backend)
    batch = [frames(length, seed=length) for length in (30, 7, 52, 41) * 4]
    wanted = [engine(backward_networks(Int8.encode)["mixed"], backend).run(x) for x in batch]
    with ThreadPoolExecutor(8) as pool:
        for y, expected in zip(pool.map(shared.run, batch), wanted, strict=True):
            assert np.array_equal(y, expected)


@both_backends
def test_streams_share_an_engine(backend):
    shared = engine(streaming_networks(Int8.encode)["stacked"], backend)
    batch = [frames(40, seed=seed) for seed in range(4)]
    streams = [shared.stream() for _ in batch]
    outputs = [
        [stream.push(x[begin : begin + 3]) for x, stream in zip(batch, streams, strict=True)]
        for begin in range(0, 40, 3)
    ]
    for index, (x, stream) in enumerate(zip(batch, streams, strict=True)):
        y = np.concatenate([*(piece[index] for piece in outputs), stream.finish()])
        assert np.array_equal(y, shared.run(x))
