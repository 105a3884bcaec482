"""The recognizers of the engine's benchmark: two that are fixed, and any number drawn from a seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.runtime.formats import (
    BlockSparseFloat32,
    BlockSparseInt8,
    Float32,
    Int4,
    Int8,
    WeightFormat,
)
from asr_compress.runtime.formats.block_sparse import as_blocks
from asr_compress.runtime.network import Bidirectional, Linear, LSTMLayer, Network

FEATURES = 80
TOKENS = 32


@dataclass(frozen=True)
class Shape:
    """A stack of LSTM layers and a linear one, over 80 features, to 32 tokens."""

    hidden: int
    layers: int
    bidirectional: bool
    projection: int = 0

    @property
    def name(self) -> str:
        projection = f"-p{self.projection}" if self.projection else ""
        return f"{self.layers}x{'BiLSTM' if self.bidirectional else 'LSTM'}-{self.hidden}{projection}"

    @classmethod
    def named(cls, name: str) -> Shape:
        """Inverse of `name`. Raises ValueError for what is no name of a shape."""
        match = re.fullmatch(r"(\d+)x(Bi)?LSTM-(\d+)(?:-p(\d+))?", name)
        if not match:
            raise ValueError(f"{name!r} is no shape; write 5xLSTM-1024, 5xBiLSTM-320 or 3xLSTM-640-p256")
        layers, both, hidden, projection = match.groups()
        return cls(int(hidden), int(layers), bool(both), int(projection or 0))

    @property
    def outputs(self) -> int:
        """Features after the last LSTM layer."""
        return (self.projection or self.hidden) * (2 if self.bidirectional else 1)


FIXED = (Shape(1024, 5, False), Shape(320, 5, True))


def drawn(seed: int, count: int = 6) -> tuple[Shape, ...]:
    """Hidden sizes 128 to 768 in steps of 16, 2 to 6 layers, half of them bidirectional, a third projected."""
    random = np.random.default_rng(seed)
    shapes = []
    for index in range(count):
        hidden = int(random.integers(8, 49)) * 16
        layers = int(random.integers(2, 7))
        shapes.append(Shape(hidden, layers, index % 2 == 1, hidden // 2 if index % 3 == 2 else 0))
    return tuple(shapes)


class Recognizer(nn.Module):
    """The shape as a torch user would write it: one `nn.LSTM`, one `nn.Linear`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            FEATURES, shape.hidden, shape.layers,
            batch_first=True, bidirectional=shape.bidirectional, proj_size=shape.projection,
        )  # fmt: skip
        self.linear = nn.Linear(shape.outputs, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, features) -> (batch, frames, tokens)."""
        return self.linear(self.lstm(x)[0])


def recognizer(shape: Shape, seed: int) -> Recognizer:
    """Random weights, twice torch's initial range: about the spread that training gives."""
    torch.manual_seed(seed)
    module = Recognizer(shape).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False).mul_(2)
    return module


Encode = Callable[[np.ndarray], WeightFormat]


def to_network(module: Recognizer, encode: Encode, encode_linear: Encode) -> Network:
    """The same recognizer for this project's engine; `encode` gives the LSTM maps their format."""

    def direction(layer: int, reverse: bool) -> LSTMLayer:
        def array(name: str) -> np.ndarray:
            return getattr(module.lstm, f"{name}_l{layer}{'_reverse' if reverse else ''}").detach().numpy()

        projection = encode(array("weight_hr")) if module.lstm.proj_size else None
        bias = array("bias_ih") + array("bias_hh")
        maps = encode(array("weight_ih")), encode(array("weight_hh"))
        return LSTMLayer(*maps, bias, projection, reverse=reverse)

    layers: list[LSTMLayer | Bidirectional | Linear] = []
    for index in range(module.lstm.num_layers):
        if module.lstm.bidirectional:
            layers.append(Bidirectional(direction(index, False), direction(index, True)))
        else:
            layers.append(direction(index, False))
    linear = module.linear
    layers.append(Linear(encode_linear(linear.weight.detach().numpy()), linear.bias.detach().numpy()))
    return tuple(layers)


def block_pruned(sparsity: float, kind: type[BlockSparseInt8] | type[BlockSparseFloat32]) -> Encode:
    """Keeps the same number of blocks of 16 x 4 in each strip, those of the largest norm."""

    def encode(weights: np.ndarray) -> WeightFormat:
        sections = (weights.shape[0] // 4,) * 4 if weights.shape[0] % 64 == 0 else (weights.shape[0],)
        norms = np.square(as_blocks(weights, sections)).sum(axis=(1, 3))
        kept = max(1, round(norms.shape[1] * (1 - sparsity)))
        keep = np.zeros(norms.shape, bool)
        np.put_along_axis(keep, np.argpartition(-norms, kept - 1, axis=1)[:, :kept], True, axis=1)
        return kind.encode(weights, keep, sections)

    return encode


@dataclass(frozen=True)
class Variant:
    """A format of this engine, and the float32 model whose outputs it must resemble."""

    name: str
    encode: Encode
    meant: Encode = Float32.encode  # pruned variants are compared with the pruned float32 model


VARIANTS = (
    Variant("int8", Int8.encode),
    Variant("int4", Int4.encode),
    Variant("75 % blocks int8", block_pruned(0.75, BlockSparseInt8), block_pruned(0.75, BlockSparseFloat32)),
    Variant("90 % blocks int8", block_pruned(0.9, BlockSparseInt8), block_pruned(0.9, BlockSparseFloat32)),
)
