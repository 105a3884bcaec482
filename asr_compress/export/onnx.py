"""A network as an ONNX graph, to run the same recognizer in other engines.

Weights are written as the float32 they mean; an engine that wants int8 quantizes them itself. LSTM layers become ONNX's
own LSTM operator, which takes each utterance's length, so that a batch gives what each utterance gives alone.

    inputs:   features (batch, frames, bins) float32, lengths (batch,) int64
    outputs:  logits (batch, frames', tokens) float32, logit_lengths (batch,) int64

Operators: https://onnx.ai/onnx/operators/, opset 17.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from asr_compress.runtime.files import atomic_write
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
    Network,
    Normalize,
    output_width,
    time_stride,
)

OPSET = 17  # the first with LayerNormalization
_IR_VERSION = 8  # as old as the opset allows: older engines read it
# ONNX orders gates input, output, forget, candidate; ours are i, f, g, o.
_GATE_ORDER = (0, 3, 1, 2)


def export(network: Network, bins: int, path: str | Path) -> None:
    """Write the ONNX file, whole or not at all.

    Args:
        bins: features of an input frame.

    Raises:
        InputError: a layer that does not take its input.
        OSError: the file cannot be written.
    """
    model = to_onnx(network, bins)
    with atomic_write(path) as temporary:
        onnx.save(model, temporary)


def to_onnx(network: Network, bins: int) -> onnx.ModelProto:
    """The checked ONNX model of a network; see `export`."""
    tokens = output_width(network, bins)
    graph = _Graph()
    x, lengths = "features", "lengths"
    for index, layer in enumerate(network):
        graph.scope = f"layer{index}"
        x, lengths = _add(graph, layer, x, lengths)
    graph.scope = "out"
    graph.node("Identity", [x], outputs=["logits"])
    graph.node("Identity", [lengths], outputs=["logit_lengths"])
    proto = helper.make_graph(
        graph.nodes,
        "asr_compress",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", "frames", bins]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "logit_frames", tokens]),
            helper.make_tensor_value_info("logit_lengths", TensorProto.INT64, ["batch"]),
        ],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="asr_compress")
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants in the making, named after the layer they belong to."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.scope = ""

    def node(self, operator: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        outputs = outputs or [self._name(operator)]
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=f"{outputs[0] or outputs[1]}_node", **attributes)
        )
        return outputs[0]

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        full = self._name(name)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), full))
        return full

    def integers(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant("ints", values, np.int64)

    def _name(self, kind: str) -> str:
        return f"{self.scope}_{kind}_{len(self.nodes)}_{len(self.constants)}"


def _add(graph: _Graph, layer: Layer, x: str, lengths: str) -> tuple[str, str]:
    """Add a layer; x is (batch, frames, features). Returns the names of its output and of the new lengths."""
    if isinstance(layer, Normalize):
        centered = graph.node("Sub", [x, graph.constant("mean", layer.mean)])
        return graph.node("Mul", [centered, graph.constant("scale", layer.scale)]), lengths
    if isinstance(layer, LayerNorm):
        weights = [graph.constant("weight", layer.weight), graph.constant("bias", layer.bias)]
        return graph.node("LayerNormalization", [x, *weights], axis=-1, epsilon=layer.eps), lengths
    if isinstance(layer, Linear):
        product = graph.node("MatMul", [x, graph.constant("map", layer.map.dense().T)])
        return graph.node("Add", [product, graph.constant("bias", layer.bias)]), lengths
    if isinstance(layer, Activation):
        if layer.kind == "relu":
            return graph.node("Relu", [x]), lengths
        limits = [graph.constant("low", 0.0), graph.constant("high", CLIPPED_RELU_LIMIT)]
        return graph.node("Clip", [x, *limits]), lengths
    if isinstance(layer, FrameStack):
        return _frame_stack(graph, layer, _masked(graph, x, lengths)), _divided(graph, lengths, layer)
    if isinstance(layer, Conv):
        return _conv(graph, layer, _masked(graph, x, lengths)), _divided(graph, lengths, layer)
    return _recurrent(graph, layer, x, lengths), lengths


def _recurrent(graph: _Graph, layer: LSTMLayer | Bidirectional, x: str, lengths: str) -> str:
    short_lengths = graph.node("Cast", [lengths], to=TensorProto.INT32)
    by_time = graph.node("Transpose", [x], perm=[1, 0, 2])
    directions = [layer] if isinstance(layer, LSTMLayer) else [layer.forward, layer.backward]
    if len({(direction.hidden, direction.outputs) for direction in directions}) == 1:
        out = [_lstm(graph, directions, by_time, short_lengths)]
    else:  # one operator has one size
        out = [_lstm(graph, [direction], by_time, short_lengths) for direction in directions]
    return out[0] if len(out) == 1 else graph.node("Concat", out, axis=2)


def _lstm(graph: _Graph, directions: list[LSTMLayer], by_time: str, lengths: str) -> str:
    """ONNX's LSTM, (frames, batch, features) -> (batch, frames, outputs of all directions)."""
    maps = [_full_maps(direction) for direction in directions]
    weights = [graph.constant(name, np.stack(part)) for name, part in zip("WRB", zip(*maps, strict=True), strict=True)]
    way = "bidirectional" if len(directions) == 2 else "reverse" if directions[0].reverse else "forward"
    y = graph.node(
        "LSTM", [by_time, *weights, lengths], direction=way, hidden_size=directions[0].hidden
    )  # (frames, directions, batch, hidden)
    if any(direction.projection is not None for direction in directions):
        projections = [_projection(direction) for direction in directions]
        y = graph.node("Transpose", [y], perm=[2, 1, 0, 3])
        y = graph.node("MatMul", [y, graph.constant("projection", np.stack(projections))])
        batch_first = graph.node("Transpose", [y], perm=[0, 2, 1, 3])
    else:
        batch_first = graph.node("Transpose", [y], perm=[2, 0, 1, 3])
    return graph.node("Reshape", [batch_first, graph.integers(0, 0, -1)])


def _projection(layer: LSTMLayer) -> np.ndarray:
    """What outputs are made of hidden units by: (hidden, outputs)."""
    identity = np.eye(layer.hidden, dtype=np.float32)
    return identity if layer.projection is None else np.ascontiguousarray(layer.projection.dense().T)


def _full_maps(layer: LSTMLayer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input map, recurrent map and both biases of a direction, constant gates written out, in ONNX's gate order.

    ONNX's LSTM has no projection. The same numbers come out when the recurrent map takes the unprojected state through
    the product of recurrent map and projection, at the price of a larger product.
    """
    hidden, live = layer.hidden, layer.live_rows
    inputs = np.zeros((4 * hidden, layer.input_map.shape[1]), np.float32)
    recurrent = np.zeros((4 * hidden, layer.recurrent_map.shape[1]), np.float32)
    bias = np.zeros(4 * hidden, np.float32)
    inputs[live], recurrent[live], bias[live] = layer.input_map.dense(), layer.recurrent_map.dense(), layer.bias
    if layer.constant_gates is not None:
        bias[layer.constant_gates.rows] = layer.constant_gates.values
    if layer.projection is not None:
        recurrent = recurrent @ layer.projection.dense()
    order = np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in _GATE_ORDER])
    return inputs[order], recurrent[order], np.concatenate([bias[order], np.zeros_like(bias)])


def _frame_stack(graph: _Graph, layer: FrameStack, x: str) -> str:
    """Frames t * stride + k for each k of the stack, side by side; zeros past the end."""
    count = _frames(graph, x, layer.stride)
    zeros = graph.integers(0, 0, 0, 0, layer.stack + layer.stride, 0)
    padded = graph.node("Pad", [x, zeros])
    axis, step = graph.integers(1), graph.integers(layer.stride)
    parts = []
    for k in range(layer.stack):
        part = graph.node("Slice", [padded, graph.integers(k), graph.integers(2**31), axis, step])
        parts.append(graph.node("Slice", [part, graph.integers(0), count, axis]))
    return graph.node("Concat", parts, axis=2)


def _conv(graph: _Graph, layer: Conv, x: str) -> str:
    """A frame is (bins, channels) flattened; ONNX wants (batch, channels, frames, bins)."""
    outputs, (kernel_time, kernel_bins) = layer.map.shape[0], layer.kernel
    kernel = layer.map.dense().reshape(outputs, kernel_time, kernel_bins, layer.in_channels).transpose(0, 3, 1, 2)
    count = _frames(graph, x, layer.stride[0])
    image = graph.node("Reshape", [x, graph.integers(0, 0, layer.bins, layer.in_channels)])
    image = graph.node("Transpose", [image], perm=[0, 3, 1, 2])
    span_time, span_bins = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel, strict=True))
    before_time, before_bins = layer.padding
    after_bins = max(0, (layer.out_bins - 1) * layer.stride[1] + span_bins + 1 - layer.bins - before_bins)
    # More zeros after the last frame than any length needs; what they add is cut off.
    after_time = span_time + layer.stride[0]
    zeros = graph.integers(0, 0, before_time, before_bins, 0, 0, after_time, after_bins)
    image = graph.node("Pad", [image, zeros])
    image = graph.node(
        "Conv",
        [image, graph.constant("kernel", kernel), graph.constant("bias", layer.bias)],
        kernel_shape=list(layer.kernel),
        strides=list(layer.stride),
        dilations=list(layer.dilation),
    )
    image = graph.node("Slice", [image, graph.integers(0), count, graph.integers(2)])
    image = graph.node("Slice", [image, graph.integers(0), graph.integers(layer.out_bins), graph.integers(3)])
    frames = graph.node("Transpose", [image], perm=[0, 2, 3, 1])
    return graph.node("Reshape", [frames, graph.integers(0, 0, layer.out_bins * outputs)])


def _masked(graph: _Graph, x: str, lengths: str) -> str:
    """x with zeros past each utterance's length, for layers that look beyond a frame."""
    frames = graph.node("Squeeze", [_shape(graph, x, 1), graph.integers(0)])
    time = graph.node("Range", [graph.constant("zero", 0, np.int64), frames, graph.constant("one", 1, np.int64)])
    valid = graph.node("Less", [time, graph.node("Unsqueeze", [lengths, graph.integers(1)])])
    mask = graph.node("Unsqueeze", [graph.node("Cast", [valid], to=TensorProto.FLOAT), graph.integers(2)])
    return graph.node("Mul", [x, mask])


def _frames(graph: _Graph, x: str, stride: int) -> str:
    """ceil(frames / stride) of x, an int64 vector of one."""
    return _ceil_divided(graph, _shape(graph, x, 1), stride)


def _divided(graph: _Graph, lengths: str, layer: Layer) -> str:
    return _ceil_divided(graph, lengths, time_stride(layer))


def _ceil_divided(graph: _Graph, value: str, divisor: int) -> str:
    if divisor == 1:
        return value
    return graph.node("Div", [graph.node("Add", [value, graph.integers(divisor - 1)]), graph.integers(divisor)])


def _shape(graph: _Graph, x: str, axis: int) -> str:
    return graph.node("Shape", [x], start=axis, end=axis + 1)
