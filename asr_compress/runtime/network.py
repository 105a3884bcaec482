"""A model as plain data: layers in order, each map in some weight format. No torch, no behavior.

The engine runs it, the numpy reference defines it, accounting and exports read it. A network maps features
(frames, features) to logits (frames', tokens); both are float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import WeightFormat
from asr_compress.runtime.formats.base import checked_size, checked_tensor

GATES = ("i", "f", "g", "o")  # input, forget, candidate, output: the order of rows in every LSTM map
ACTIVATIONS = ("relu", "clipped_relu")
_SMALLEST_GATE = 2.0**-24  # nearer to 0 or 1 float32 cannot tell
CLIPPED_RELU_LIMIT = 20.0  # Deep Speech's (Hannun et al. 2014, section 2)


@dataclass(frozen=True, eq=False)
class Normalize:
    """(x - mean) * scale, each feature by itself: global mean and variance normalization.

    mean, scale: float32 (features,).
    """

    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        _set_array(self, "mean", (None,))
        _set_array(self, "scale", self.mean.shape)

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        return _expect(inputs, self.mean.shape[0])


@dataclass(frozen=True)
class FrameStack:
    """Output t is frames [t * stride, t * stride + stack) side by side, zeros past the end.

    T frames give ceil(T / stride).
    """

    stack: int
    stride: int

    def __post_init__(self) -> None:
        checked_size("stack", self.stack, 1)
        checked_size("stride", self.stride, 1)

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in."""
        return inputs * self.stack


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution over time and frequency, as one map over patches.

    An input frame is (bins, in_channels) flattened row by row, an output frame (ceil(bins / stride),
    out_channels). map: (out_channels, kernel_time * kernel_bins * in_channels), a patch in that order.
    bias: float32 (out_channels,). kernel, stride, dilation: (time, bins). Padding is zeros, dilation *
    (kernel - 1) // 2 of them before the first frame (and bin), so that ceil(T / stride) frames come out.
    Where the map is of integers, all input frames that an output frame reads are quantized with one scale.
    A TDNN layer has bins == 1.
    """

    map: WeightFormat
    bias: np.ndarray
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    in_channels: int
    bins: int

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            pair = getattr(self, name)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(f"{name} is {pair!r}; it must be (time, bins)")
            object.__setattr__(self, name, tuple(checked_size(name, size, 1) for size in pair))
        checked_size("in_channels", self.in_channels, 1)
        checked_size("bins", self.bins, 1)
        rows = _expect_map("map", self.map, None, self.kernel[0] * self.kernel[1] * self.in_channels)
        _set_array(self, "bias", (rows,))

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before the first frame, and before the first bin."""
        time, bins = (d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel, strict=True))
        return time, bins

    @property
    def out_bins(self) -> int:
        return -(-self.bins // self.stride[1])

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        _expect(inputs, self.bins * self.in_channels)
        return self.out_bins * self.map.shape[0]


@dataclass(frozen=True)
class Activation:
    """Elementwise: "relu" is max(x, 0), "clipped_relu" is min(max(x, 0), 20)."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise InputError(f"activation is {self.kind!r}; it must be one of {', '.join(ACTIVATIONS)}")

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in."""
        return inputs


@dataclass(frozen=True, eq=False)
class ConstantGates:
    """Gate rows that never change; their weights are neither stored nor computed.

    rows: uint32 (n,) ascending, among the 4H gate rows in order i, f, g, o. values: float32 (n,), what the
    row's bias would be: the gate is sigmoid(value), or tanh(value) for the candidate. So a constant gate is a
    row of zero weights to the bit, and a calibrated mean is stored as its inverse sigmoid or tanh.
    """

    rows: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", checked_tensor("rows", self.rows, np.uint32, (None,)))
        if np.any(np.diff(self.rows.astype(np.int64)) <= 0):
            raise InputError("rows of constant gates must ascend without repeats")
        _set_array(self, "values", self.rows.shape)

    @classmethod
    def of_gates(cls, rows: np.ndarray, gates: np.ndarray, hidden: int) -> Self:
        """From gate values, such as means over data, for a layer of `hidden` units.

        rows: integers (n,) ascending. gates: floats (n,), in (0, 1), or in (-1, 1) for candidates; values at the
        ends or beyond are taken as the nearest that a gate reaches.
        """
        rows = np.asarray(rows, np.int64)
        gates = np.asarray(gates, np.float64)
        candidate = rows // max(hidden, 1) == GATES.index("g")
        # tanh(x) = 2 sigmoid(2x) - 1, so both have one inverse.
        shares = np.where(candidate, (gates + 1) / 2, gates)
        shares = np.clip(shares, _SMALLEST_GATE, 1 - _SMALLEST_GATE)
        values = np.log(shares / (1 - shares)) / np.where(candidate, 2, 1)
        return cls(rows.astype(np.uint32), values.astype(np.float32))

    @property
    def count(self) -> int:
        return int(self.rows.shape[0])


@dataclass(frozen=True, eq=False)
class LSTMLayer:
    """One direction of one LSTM layer. Rows are gates in the order i, f, g, o, each H units.

    input_map: (4H, features). recurrent_map: (4H, P). bias: float32 (4H,), b_ih + b_hh. projection: (P, H)
    or None, then P == H. With constant gates the two maps and the bias have only the other rows, in order.
    A layer with `reverse` reads its input from the last frame to the first; output t still belongs to
    frame t.
    """

    input_map: WeightFormat
    recurrent_map: WeightFormat
    bias: np.ndarray
    projection: WeightFormat | None = None
    constant_gates: ConstantGates | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.reverse, bool):
            raise InputError(f"reverse is {self.reverse!r}; it must be true or false")
        rows = _expect_map("input_map", self.input_map, None, None)
        constant = np.zeros(0, np.uint32) if self.constant_gates is None else self.constant_gates.rows
        total = rows + constant.size
        if total % 4:
            raise InputError(f"{rows} computed and {constant.size} constant rows are not four equal gates")
        if constant.max(initial=0) >= max(total, 1):
            raise InputError(f"constant gate row {constant.max()} is beyond the {total} rows")
        outputs = self.hidden
        if self.projection is not None:
            outputs = _expect_map("projection", self.projection, None, self.hidden)
        _expect_map("recurrent_map", self.recurrent_map, rows, outputs)
        _set_array(self, "bias", (rows,))

    @property
    def hidden(self) -> int:
        """H: units, each with one cell."""
        constants = 0 if self.constant_gates is None else self.constant_gates.count
        return (self.input_map.shape[0] + constants) // 4

    @property
    def outputs(self) -> int:
        """P: features out, and the width of the recurrent state."""
        return self.recurrent_map.shape[1]

    @property
    def live_rows(self) -> np.ndarray:
        """int64: which of the 4H gate rows are computed, ascending."""
        rows = np.arange(4 * self.hidden)
        if self.constant_gates is None:
            return rows
        return np.delete(rows, self.constant_gates.rows.astype(np.int64))

    @property
    def gate_sizes(self) -> tuple[int, int, int, int]:
        """Computed rows of each gate i, f, g, o."""
        i, f, g, o = np.bincount(self.live_rows // max(self.hidden, 1), minlength=4).tolist()
        return i, f, g, o

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        _expect(inputs, self.input_map.shape[1])
        return self.outputs


@dataclass(frozen=True, eq=False)
class Bidirectional:
    """Two directions over the same input; their outputs side by side, forward first."""

    forward: LSTMLayer
    backward: LSTMLayer

    def __post_init__(self) -> None:
        for name, layer, reverse in (("forward", self.forward, False), ("backward", self.backward, True)):
            if not isinstance(layer, LSTMLayer) or layer.reverse != reverse:
                raise InputError(f"{name} must be an LSTM layer with reverse={reverse}")
        if self.forward.input_map.shape[1] != self.backward.input_map.shape[1]:
            raise InputError(
                f"forward takes {self.forward.input_map.shape[1]} features, "
                f"backward {self.backward.input_map.shape[1]}; they must be equal"
            )

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        return self.forward.width(inputs) + self.backward.width(inputs)


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias over the features of each frame.

    weight, bias: float32 (features,). Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    weight: np.ndarray
    bias: np.ndarray
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _set_array(self, "weight", (None,))
        _set_array(self, "bias", self.weight.shape)
        if isinstance(self.eps, bool) or not isinstance(self.eps, (int, float)) or not 0 < self.eps < 1:
            raise InputError(f"eps is {self.eps!r}; it must lie between 0 and 1")

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        return _expect(inputs, self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Linear:
    """map: (outputs, features); bias: float32 (outputs,)."""

    map: WeightFormat
    bias: np.ndarray

    def __post_init__(self) -> None:
        _set_array(self, "bias", (_expect_map("map", self.map, None, None),))

    def width(self, inputs: int) -> int:
        """Features out for `inputs` features in. Raises InputError if the layer does not take that many."""
        _expect(inputs, self.map.shape[1])
        return self.map.shape[0]


Layer = Normalize | FrameStack | Conv | Activation | LSTMLayer | Bidirectional | LayerNorm | Linear
Network = tuple[Layer, ...]


def input_width(network: Network) -> int:
    """Features that the network takes. Raises InputError if no layer says."""
    factor = 1  # what the layers so far multiply the width by
    for layer in network:
        if isinstance(layer, FrameStack):
            factor *= layer.stack
        elif not isinstance(layer, Activation):
            wanted = _input_width(layer)
            if wanted % factor:
                raise InputError(f"{type(layer).__name__} takes {wanted} features, no multiple of {factor} frames")
            return wanted // factor
    raise InputError("the network has no layer with weights, so nothing says how many features it takes")


def _input_width(layer: Normalize | Conv | LSTMLayer | Bidirectional | LayerNorm | Linear) -> int:
    if isinstance(layer, Normalize):
        return layer.mean.shape[0]
    if isinstance(layer, LayerNorm):
        return layer.weight.shape[0]
    if isinstance(layer, Conv):
        return layer.bins * layer.in_channels
    if isinstance(layer, Bidirectional):
        layer = layer.forward
    return layer.input_map.shape[1] if isinstance(layer, LSTMLayer) else layer.map.shape[1]


def output_width(network: Network, features: int) -> int:
    """Tokens out for `features` in. Raises InputError naming the first layer that does not fit its input."""
    width = features
    for index, layer in enumerate(network):
        try:
            width = layer.width(width)
        except InputError as error:
            raise InputError(f"layer {index} ({type(layer).__name__}): {error}") from None
    return width


def time_stride(layer: Layer) -> int:
    """Input frames for each output frame of one layer."""
    if isinstance(layer, FrameStack):
        return layer.stride
    return layer.stride[0] if isinstance(layer, Conv) else 1


def output_length(network: Network, frames: int) -> int:
    """Output frames for `frames` input frames."""
    for layer in network:
        frames = -(-frames // time_stride(layer))
    return frames


def is_streaming(network: Network) -> bool:
    """Whether outputs need only a bounded number of later frames: no layer reads the utterance backwards."""
    return not any(isinstance(layer, Bidirectional) or getattr(layer, "reverse", False) for layer in network)


def walk(network: Network) -> Iterator[tuple[str, WeightFormat]]:
    """Every map with its stable name: "3.forward.recurrent_map", "5.map"."""
    for index, layer in enumerate(network):
        yield from _walk_part(str(index), layer)


def _walk_part(prefix: str, part: Any) -> Iterator[tuple[str, WeightFormat]]:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, WeightFormat):
            yield f"{prefix}.{field.name}", value
        elif isinstance(value, LSTMLayer):
            yield from _walk_part(f"{prefix}.{field.name}", value)


def replace_maps(network: Network, maps: Mapping[str, WeightFormat]) -> Network:
    """The network with the named maps (as `walk` names them) in other formats.

    Raises InputError for a name the network does not have, or a map of a shape that its layer cannot take.
    """
    known = {name for name, _ in walk(network)}
    for name in maps:
        if name not in known:
            raise InputError(f"no map is named {name!r}; there are {', '.join(sorted(known))}")
    return tuple(_replace_part(str(index), layer, maps) for index, layer in enumerate(network))


def _replace_part(prefix: str, part: Any, maps: Mapping[str, WeightFormat]) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        name, value = f"{prefix}.{field.name}", getattr(part, field.name)
        if isinstance(value, WeightFormat) and name in maps:
            changes[field.name] = maps[name]
        elif isinstance(value, LSTMLayer):
            changes[field.name] = _replace_part(name, value, maps)
    return dataclasses.replace(part, **changes) if changes else part


def _set_array(layer: Any, name: str, shape: tuple[int | None, ...]) -> None:
    object.__setattr__(layer, name, checked_tensor(name, np.asarray(getattr(layer, name)), np.float32, shape))


def _expect(inputs: int, features: int) -> int:
    if inputs != features:
        raise InputError(f"gets {inputs} features but takes {features}")
    return features


def _expect_map(name: str, weights: Any, rows: int | None, cols: int | None) -> int:
    """The rows of a map; its shape must be (rows, cols) where these are given."""
    if not isinstance(weights, WeightFormat):
        raise InputError(f"{name} is {type(weights).__name__}; it must be a weight format")
    got = weights.shape
    if (rows is not None and got[0] != rows) or (cols is not None and got[1] != cols):
        raise InputError(f"{name} has shape {got}; it must be ({_any(rows)}, {_any(cols)})")
    return got[0]


def _any(size: int | None) -> str:
    return "any" if size is None else str(size)
