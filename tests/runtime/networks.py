"""Small random networks of every layer kind, for the tests of the runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asr_compress.runtime.formats import Float32, WeightFormat
from asr_compress.runtime.network import (
    Activation,
    Bidirectional,
    Conv,
    FrameStack,
    LayerNorm,
    Linear,
    LSTMLayer,
    Network,
    Normalize,
)

Encode = Callable[[np.ndarray], WeightFormat]
TOKENS = 7


class Maker:
    """Draws layers from a seed; `encode` is the format of their maps."""

    def __init__(self, seed: int = 0, encode: Encode = Float32.encode, scale: float = 0.4) -> None:
        self.random = np.random.default_rng(seed)
        self.encode = encode
        self.scale = scale

    def matrix(self, rows: int, cols: int) -> np.ndarray:
        return (self.random.normal(size=(rows, cols)) * self.scale).astype(np.float32)

    def vector(self, size: int) -> np.ndarray:
        return self.random.normal(size=size).astype(np.float32)

    def map(self, rows: int, cols: int) -> WeightFormat:
        return self.encode(self.matrix(rows, cols))

    def frames(self, count: int, features: int) -> np.ndarray:
        return self.random.normal(size=(count, features)).astype(np.float32)

    def linear(self, features: int, outputs: int = TOKENS) -> Linear:
        return Linear(self.map(outputs, features), self.vector(outputs))

    def lstm(self, features: int, hidden: int, projection: int | None = None, reverse: bool = False) -> LSTMLayer:
        return LSTMLayer(
            self.map(4 * hidden, features),
            self.map(4 * hidden, projection or hidden),
            self.vector(4 * hidden),
            self.map(projection, hidden) if projection else None,
            reverse=reverse,
        )

    def bidirectional(self, features: int, hidden: int, projection: int | None = None) -> Bidirectional:
        return Bidirectional(
            self.lstm(features, hidden, projection), self.lstm(features, hidden, projection, reverse=True)
        )

    def norm(self, features: int) -> LayerNorm:
        return LayerNorm(self.vector(features), self.vector(features))

    def normalize(self, features: int) -> Normalize:
        return Normalize(self.vector(features), self.vector(features))

    def conv(self, bins: int, channels: int, outputs: int, kernel=(3, 3), stride=(2, 2), dilation=(1, 1)) -> Conv:
        cols = kernel[0] * kernel[1] * channels
        return Conv(self.map(outputs, cols), self.vector(outputs), kernel, stride, dilation, channels, bins)


def streaming_networks(encode: Encode = Float32.encode) -> dict[str, Network]:
    """Networks over 6 features without backward directions."""
    make = Maker(1, encode)
    return {
        "lstm": (make.lstm(6, 5), make.linear(5)),
        "projected": (make.normalize(6), make.lstm(6, 9, 4), make.norm(4), make.lstm(4, 5), make.linear(5)),
        "stacked": (make.normalize(6), FrameStack(3, 2), make.lstm(18, 5), make.linear(5)),
        "skipping": (FrameStack(2, 5), make.lstm(12, 5), make.linear(5)),
        "tdnn": (
            make.conv(1, 6, 8, (3, 1), (1, 1), (2, 1)),
            Activation("relu"),
            make.conv(1, 8, 5, (4, 1), (3, 1), (1, 1)),
            make.lstm(5, 4),
            make.linear(4),
        ),
        "deep_speech": (
            make.conv(6, 1, 4, (5, 3), (2, 2), (1, 1)),
            Activation("clipped_relu"),
            make.conv(3, 4, 3, (2, 2), (1, 2), (3, 1)),
            make.lstm(6, 5),
            make.linear(5),
        ),
    }


def backward_networks(encode: Encode = Float32.encode) -> dict[str, Network]:
    """Networks over 6 features that read backwards."""
    make = Maker(2, encode)
    return {
        "bidirectional": (make.bidirectional(6, 5), make.bidirectional(10, 4, 3), make.linear(6)),
        "stacked": (
            make.normalize(6),
            FrameStack(2, 2),
            make.bidirectional(12, 5),
            make.norm(10),
            make.linear(10),
        ),
        "mixed": (
            make.conv(6, 1, 4, (3, 3), (2, 2)),
            Activation("clipped_relu"),
            make.lstm(12, 5),
            make.bidirectional(5, 4),
            make.lstm(8, 5),
            make.lstm(5, 4, reverse=True),
            make.linear(4),
        ),
    }
