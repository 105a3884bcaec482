"""The compiled backend of the engine: describes a network to the extension `_native`, which packs and runs it.

Where the extension was not built, the engine uses the numpy reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from asr_compress.runtime import reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import extension, instruction_set
from asr_compress.runtime.formats import (
    BlockSparseInt4,
    BlockSparseInt8,
    Int4,
    Int8,
    IntegerFormat,
    LowRank,
    WeightFormat,
)
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
    input_width,
    output_length,
    output_width,
)
from asr_compress.runtime.reference import State


class NativeBackend:
    """A network packed for the kernels of one instruction set. Threads may share it: weights are only read."""

    name = "native"

    def __init__(self, network: Network, threads: int = 1) -> None:
        """Raises InputError where the extension is missing or a map is beyond what its kernels take."""
        chosen = instruction_set()
        if chosen is None:
            raise InputError(
                "the native engine was not built; install asr-compress where there is a C++ compiler, or use "
                "backend 'reference'"
            )
        self._network = network
        self._threads = threads
        self._tokens = output_width(network, input_width(network))
        layers, width = [], input_width(network)
        for layer in network:
            layers.append(_describe(layer, width))
            width = layer.width(width)
        try:
            self._model = extension().Model(layers, chosen)
        except ValueError as error:
            raise InputError(f"the native engine cannot take this network: {error}") from None
        self._places: dict[int, tuple[int, int]] = {}  # id of a layer or direction: its layer and direction
        for index, layer in enumerate(network):
            parts = (layer.forward, layer.backward) if isinstance(layer, Bidirectional) else (layer,)
            for direction, part in enumerate(parts):
                self._places[id(part)] = (index, direction)

    @property
    def instruction_set(self) -> str:
        return self._model.instruction_set

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed weights."""
        return self._model.weight_bytes

    def probe_product(self, layer: int, rows: int, repeats: int) -> None:
        """For benchmarks: the bare product of a linear layer with so many rows, quantized before, again and again."""
        self._model.probe_product(layer, rows, repeats)

    def run_batch(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole utterances, float32 (frames, features) each -> (frames', tokens), in one call of the extension."""
        lengths = [output_length(self._network, len(x)) for x in batch]
        outputs = [np.empty((length, self._tokens), np.float32) for length in lengths]
        self._model.run([np.ascontiguousarray(x, np.float32) for x in batch], outputs, self._threads)
        return outputs

    def run_layer(self, layer: Layer, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
        """As `reference.run`, for a layer of this network or a direction of one."""
        index, direction = self._places[id(layer)]
        x = np.ascontiguousarray(x, np.float32)
        if isinstance(layer, FrameStack):
            return reference.run(layer, x, state, final)  # only moves numbers
        if isinstance(layer, Conv):
            return self._run_conv(index, layer, x, state, final)
        y = np.empty((len(x), layer.width(x.shape[1])), np.float32)
        if not isinstance(layer, LSTMLayer):
            self._model.run_frames(index, 0, x, np.empty(0, np.float32), y)
            return y, state
        recurrent = np.concatenate([state["h"], state["c"]])
        self._model.run_frames(index, direction, x, recurrent, y)
        if layer.reverse:  # needs whole utterances: the state goes in as it starts and nobody reads it after
            return y, state
        return y, {"h": recurrent[: layer.outputs], "c": recurrent[layer.outputs :]}

    def _run_conv(self, index: int, layer: Conv, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
        span = layer.dilation[0] * (layer.kernel[0] - 1) + 1
        frames, windows, state = reference.window_frames(x, state, span, layer.stride[0], layer.padding[0], final)
        y = np.empty((windows, layer.width(x.shape[1])), np.float32)
        self._model.run_windows(index, np.ascontiguousarray(frames), y)
        return y, state


@singledispatch
def _describe(layer: Layer, width: int) -> tuple[Any, ...]:
    """A layer that takes `width` features, as _native.Model reads it: a name, then its arguments."""
    raise InputError(f"the native engine has no layer {type(layer).__name__}")


@_describe.register
def _(layer: Normalize, width: int) -> tuple[Any, ...]:
    return "normalize", layer.mean, layer.scale


@_describe.register
def _(layer: FrameStack, width: int) -> tuple[Any, ...]:
    return "frame_stack", width, layer.stack, layer.stride


@_describe.register
def _(layer: Conv, width: int) -> tuple[Any, ...]:
    sizes = (*layer.kernel, *layer.stride, *layer.dilation, layer.in_channels, layer.bins)
    return "conv", _describe_map(layer.map), layer.bias, *sizes


@_describe.register
def _(layer: Activation, width: int) -> tuple[Any, ...]:
    high = CLIPPED_RELU_LIMIT if layer.kind == "clipped_relu" else float(np.finfo(np.float32).max)
    return "clamp", width, 0.0, high


@_describe.register
def _(layer: LSTMLayer, width: int) -> tuple[Any, ...]:
    return "reverse_lstm" if layer.reverse else "lstm", _describe_direction(layer)


@_describe.register
def _(layer: Bidirectional, width: int) -> tuple[Any, ...]:
    return "bidirectional", _describe_direction(layer.forward), _describe_direction(layer.backward)


@_describe.register
def _(layer: LayerNorm, width: int) -> tuple[Any, ...]:
    return "layer_norm", layer.weight, layer.bias, layer.eps


@_describe.register
def _(layer: Linear, width: int) -> tuple[Any, ...]:
    return "linear", _describe_map(layer.map), layer.bias


def _describe_direction(layer: LSTMLayer) -> tuple[Any, ...]:
    constant = layer.constant_gates
    return (
        _describe_map(layer.input_map),
        _describe_map(layer.recurrent_map),
        layer.bias,
        None if layer.projection is None else _describe_map(layer.projection),
        np.zeros(0, np.uint32) if constant is None else constant.rows,
        np.zeros(0, np.float32) if constant is None else constant.values,
    )


@singledispatch
def _describe_map(weights: WeightFormat) -> tuple[Any, ...]:
    """A map as _native.Model reads it. Formats without a kernel of their own run as the float32 they mean."""
    return "float32", *weights.shape, np.ascontiguousarray(weights.dense(), np.float32)


@_describe_map.register
def _(weights: IntegerFormat) -> tuple[Any, ...]:
    # Ternary, binary, codebooks and scattered int8: the sums are those of int8 with zeros written out.
    codes = np.ascontiguousarray(weights.integers(), np.int8)
    if not np.array_equal(codes, weights.integers()):
        raise InputError(f"the native engine has no kernel for {weights.kind} beyond 8 bits")
    return "int8", *weights.shape, codes, weights.scales, weights.input_scale or 0.0


@_describe_map.register
def _(weights: Int8) -> tuple[Any, ...]:
    return "int8", *weights.shape, weights.codes, weights.scales, weights.input_scale or 0.0


@_describe_map.register
def _(weights: Int4) -> tuple[Any, ...]:
    scale = weights.input_scale or 0.0
    return "int4", *weights.shape, weights.group, weights.codes, weights.multipliers, weights.scales, scale


@_describe_map.register
def _(weights: BlockSparseInt8) -> tuple[Any, ...]:
    return "block_int8", *weights.shape, *_pattern(weights), weights.codes, weights.scales, weights.input_scale or 0.0


@_describe_map.register
def _(weights: BlockSparseInt4) -> tuple[Any, ...]:
    scale = weights.input_scale or 0.0
    return (
        "block_int4", *weights.shape, *_pattern(weights),
        weights.codes, weights.multipliers, weights.scales, scale,
    )  # fmt: skip


@_describe_map.register
def _(weights: LowRank) -> tuple[Any, ...]:
    return "low_rank", _describe_map(weights.left), _describe_map(weights.right)


def _pattern(weights: BlockSparseInt8 | BlockSparseInt4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of each section, blocks of each strip, column of each block."""
    pattern = weights.pattern
    return np.array(pattern.sections, np.uint32), pattern.counts, pattern.columns.astype(np.uint16)
