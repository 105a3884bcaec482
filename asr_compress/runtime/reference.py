"""The numpy reference: what each layer computes, in plain sight. It is slow, and it defines the numbers.

A layer is a function of frames and of an explicit state, so that an utterance may come in pieces:
`run(layer, x, state, final) -> (y, state)`. `final` says that no more frames follow. A whole utterance is one
final piece. Pieces give what the whole gives: products treat each frame by itself, and everything that looks
across frames is in the state.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from asr_compress.runtime import arithmetic
from asr_compress.runtime.network import (
    CLIPPED_RELU_LIMIT,
    Activation,
    Bidirectional,
    Conv,
    FrameStack,
    Layer,
    LayerNorm,
    Linear,
    LSTMLayer,
    Normalize,
)

State = dict[str, np.ndarray]
_PATCH_BLOCK_BYTES = 2**24  # patches of a convolution overlap; this much of them exists at a time


def start(layer: Layer, inputs: int) -> State:
    """The state of a layer that takes `inputs` features, before the first frame."""
    if isinstance(layer, LSTMLayer):
        return {"h": np.zeros(layer.outputs, np.float32), "c": np.zeros(layer.hidden, np.float32)}
    if isinstance(layer, FrameStack):
        return _start_window(0, inputs)
    if isinstance(layer, Conv):
        return _start_window(layer.padding[0], inputs)
    return {}


@singledispatch
def run(layer: Layer, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    """Frames of one layer.

    Args:
        layer: any layer of a network.
        x: float32 (frames, features), the next frames.
        state: what `start` or the last `run` gave; it is not changed.
        final: no frames follow. Layers that read backwards need the whole utterance as one final piece.

    Returns:
        float32 (frames', features') that are now known, and the next state.
    """
    raise TypeError(f"no layer: {type(layer).__name__}")


@run.register
def _(layer: Normalize, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    return (x - layer.mean) * layer.scale, state


@run.register
def _(layer: Activation, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    y = np.maximum(x, np.float32(0))
    return np.minimum(y, np.float32(CLIPPED_RELU_LIMIT)) if layer.kind == "clipped_relu" else y, state


@run.register
def _(layer: LayerNorm, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    return arithmetic.layer_norm(x, layer.weight, layer.bias, layer.eps), state


@run.register
def _(layer: Linear, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    return layer.map.product(x) + layer.bias, state


@run.register
def _(layer: FrameStack, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    windows, state = _windows(x, state, layer.stack, layer.stride, 0, final)
    return windows.reshape(windows.shape[0], layer.stack * x.shape[1]), state


@run.register
def _(layer: Conv, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    kernel, dilation = layer.kernel[0], layer.dilation[0]
    span = dilation * (kernel - 1) + 1
    windows, state = _windows(x, state, span, layer.stride[0], layer.padding[0], final)
    taps = windows[:, ::dilation]
    # All that an output frame reads has one scale, so that it is quantized once for all bins of output.
    quantized = layer.map.quantized_input(taps.reshape(taps.shape[0], kernel * x.shape[1]))
    y = np.empty((taps.shape[0], layer.out_bins * layer.map.shape[0]), np.float32)
    frame_bytes = layer.out_bins * layer.map.shape[1] * 4
    block = max(1, _PATCH_BLOCK_BYTES // max(frame_bytes, 1))
    for begin in range(0, taps.shape[0], block):
        part = slice(begin, begin + block)
        if quantized is None:
            products = layer.map.product(_patches(layer, taps[part]))
        else:
            codes, scales = quantized[0][part].reshape(taps[part].shape), quantized[1][part]
            products = layer.map.product_of_codes(_patches(layer, codes), np.repeat(scales, layer.out_bins))
        y[part] = (products + layer.bias).reshape(-1, y.shape[1])
    return y, state


@run.register
def _(layer: LSTMLayer, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    if layer.reverse:
        return run_lstm(layer, x[::-1], state)[0][::-1], state
    return run_lstm(layer, x, state)


@run.register
def _(layer: Bidirectional, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
    width = x.shape[1]
    forward, _ = run(layer.forward, x, start(layer.forward, width), True)
    backward, _ = run(layer.backward, x, start(layer.backward, width), True)
    return np.concatenate([forward, backward], axis=1), state


def run_lstm(layer: LSTMLayer, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """One direction over float32 (frames, features), first frame first whatever `layer.reverse` says.

    Returns float32 (frames, P) and the state after the last frame.
    """
    # The input's half of the work knows no recurrence: one product for all frames.
    from_input = layer.input_map.product(x) + layer.bias
    h, c = state["h"][None], state["c"][None]
    y = np.empty((x.shape[0], layer.outputs), np.float32)
    live = layer.live_rows
    gates = np.empty((1, 4 * layer.hidden), np.float32)
    if layer.constant_gates is not None:
        gates[0, layer.constant_gates.rows] = layer.constant_gates.values
    for t in range(x.shape[0]):
        gates[:, live] = layer.recurrent_map.product(h) + from_input[t]
        c, h = arithmetic.lstm_cell(gates, c)
        if layer.projection is not None:
            h = layer.projection.product(h)
        y[t] = h
    return y, {"h": h[0], "c": c[0]}


def _start_window(left: int, width: int) -> State:
    # frames: those from the start of the next window on, `left` zeros before the first. skip: where the
    # stride is longer than the window, how many coming frames lie before the next window.
    return {"frames": np.zeros((left, width), np.float32), "skip": np.zeros((), np.int64)}


def _windows(x: np.ndarray, state: State, span: int, stride: int, left: int, final: bool) -> tuple[np.ndarray, State]:
    """Windows of `span` frames every `stride`: float32 (windows, span, features), and the next state."""
    frames, count, state = window_frames(x, state, span, stride, left, final)
    starts = np.arange(count)[:, None] * stride
    return frames[starts + np.arange(span)], state


def window_frames(
    x: np.ndarray, state: State, span: int, stride: int, left: int, final: bool
) -> tuple[np.ndarray, int, State]:
    """The frames that the next windows read, float32 (frames, features), how many windows, and the next state.

    Window t begins at frame t * stride - left. All that are whole come out; at the end also those, filled up
    with zeros, that make it ceil(frames / stride) windows in all.
    """
    skip = int(state["skip"])
    frames = np.concatenate([state["frames"], x[skip:]])
    skip = max(0, skip - x.shape[0])
    if final:
        count = max(0, -(-(len(frames) - left) // stride))
        missing = max(0, (count - 1) * stride + span - len(frames)) if count else 0
        frames = np.concatenate([frames, np.zeros((missing, frames.shape[1]), np.float32)])
    else:
        count = max(0, (len(frames) - span) // stride + 1)
    used = count * stride
    rest = {"frames": frames[used:].copy(), "skip": np.array(skip + max(0, used - len(frames)), np.int64)}
    return frames, count, rest


def _patches(layer: Conv, taps: np.ndarray) -> np.ndarray:
    """(frames, kernel_time, bins * channels) of any type -> (frames * out_bins, columns of the map)."""
    frames, times, _ = taps.shape
    kernel, stride, dilation = layer.kernel[1], layer.stride[1], layer.dilation[1]
    left = layer.padding[1]
    length = (layer.out_bins - 1) * stride + dilation * (kernel - 1) + 1
    padded = np.zeros((frames, times, max(length, left + layer.bins), layer.in_channels), taps.dtype)
    padded[:, :, left : left + layer.bins] = taps.reshape(frames, times, layer.bins, layer.in_channels)
    bins = np.arange(layer.out_bins)[:, None] * stride + np.arange(kernel) * dilation
    patches = padded[:, :, bins]  # (frames, times, out_bins, kernel, channels)
    return patches.transpose(0, 2, 1, 3, 4).reshape(frames * layer.out_bins, layer.map.shape[1])
