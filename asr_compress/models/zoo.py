"""The zoo: acoustic models by name, every number in sight.

| family    | what                                                              | source                              |
|-----------|-------------------------------------------------------------------|-------------------------------------|
| lstm      | unidirectional LSTM, layer norm between layers; streams           | Graves et al. 2013                  |
| blstm     | bidirectional LSTM, layer norm between layers                     | Graves et al. 2013; EESEN (2015)    |
| ds2       | two 2-d convolutions, then bidirectional LSTM                     | Amodei et al. 2016                  |
| tdnn-lstm | time-delay layers, then unidirectional LSTM                       | Peddinti et al. 2018                |
| lstmp     | unidirectional LSTM with recurrent projection; streams            | Sak et al. 2014                     |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import (
    Activation,
    Conv,
    Dropout,
    FrameStack,
    Layer,
    LayerNorm,
    Linear,
    Normalize,
    Recurrent,
)
from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class Size:
    """Numbers of one model: `layers` LSTM layers of `hidden` units, each projected to `projection` if that is not 0."""

    layers: int
    hidden: int
    projection: int = 0
    dropout: float = 0.1


def lstm(size: Size, tokens: int, bins: int) -> AcousticModel:
    return AcousticModel(_front(bins, stack=4) + _recurrent(4 * bins, size, False) + _back(size, False, tokens))


def blstm(size: Size, tokens: int, bins: int) -> AcousticModel:
    return AcousticModel(_front(bins, stack=4) + _recurrent(4 * bins, size, True) + _back(size, True, tokens))


def ds2(size: Size, tokens: int, bins: int) -> AcousticModel:
    channels = 16
    first = Conv(1, channels, kernel=(5, 11), stride=(2, 2), bins=bins)
    second = Conv(channels, channels, kernel=(5, 11), stride=(2, 2), bins=first.outputs // channels)
    convolutions: list[Layer] = [first, Activation("clipped_relu"), second, Activation("clipped_relu")]
    norm = LayerNorm(second.outputs)
    return AcousticModel(
        [_normalize(bins), *convolutions, norm, *_recurrent(second.outputs, size, True), *_back(size, True, tokens)]
    )


def tdnn_lstm(size: Size, tokens: int, bins: int) -> AcousticModel:
    width = size.hidden
    time_delay: list[Layer] = []
    inputs = 2 * bins
    # Two stacked frames are 20 ms; strides of 1 and 2 give 40 ms. Contexts of +-1, +-1 and +-3 steps.
    for kernel, stride, dilation in [(3, 1, 1), (3, 2, 1), (3, 1, 3)]:
        conv = Conv(inputs, width, kernel=(kernel, 1), stride=(stride, 1), dilation=(dilation, 1))
        time_delay += [conv, Activation("relu"), LayerNorm(width)]
        inputs = width
    return AcousticModel(
        _front(bins, stack=2) + time_delay + _recurrent(width, size, False) + _back(size, False, tokens)
    )


Builder = Callable[[Size, int, int], AcousticModel]

ZOO: dict[str, tuple[Builder, Size]] = {
    "lstm-tiny": (lstm, Size(layers=2, hidden=128, dropout=0.0)),
    "lstm-small": (lstm, Size(layers=3, hidden=256)),
    "lstm-base": (lstm, Size(layers=4, hidden=384)),
    "lstm-large": (lstm, Size(layers=5, hidden=1024, dropout=0.2)),
    "blstm-tiny": (blstm, Size(layers=3, hidden=64, dropout=0.0)),
    "blstm-small": (blstm, Size(layers=3, hidden=128, dropout=0.2)),
    "blstm-base": (blstm, Size(layers=4, hidden=256, dropout=0.15)),
    "blstm-large": (blstm, Size(layers=5, hidden=320, dropout=0.2)),
    "ds2-tiny": (ds2, Size(layers=1, hidden=96, dropout=0.0)),
    "ds2-small": (ds2, Size(layers=2, hidden=160, dropout=0.2)),
    "ds2-base": (ds2, Size(layers=3, hidden=256, dropout=0.15)),
    "ds2-large": (ds2, Size(layers=5, hidden=320, dropout=0.2)),
    "tdnn-lstm-tiny": (tdnn_lstm, Size(layers=1, hidden=128, dropout=0.0)),
    "tdnn-lstm-small": (tdnn_lstm, Size(layers=2, hidden=256)),
    "tdnn-lstm-base": (tdnn_lstm, Size(layers=3, hidden=384)),
    "tdnn-lstm-large": (tdnn_lstm, Size(layers=4, hidden=768, dropout=0.2)),
    "lstmp-tiny": (lstm, Size(layers=2, hidden=192, projection=64, dropout=0.0)),
    "lstmp-small": (lstm, Size(layers=3, hidden=384, projection=128)),
    "lstmp-base": (lstm, Size(layers=4, hidden=640, projection=256)),
    "lstmp-large": (lstm, Size(layers=5, hidden=1024, projection=512, dropout=0.2)),
}


def build_model(name: str, tokens: int, bins: int = 80) -> AcousticModel:
    """A freshly initialized model of the zoo.

    Args:
        name: a key of `ZOO`.
        tokens: size of the output, the blank included.
        bins: features of an input frame.

    Raises:
        InputError: there is no model of that name.
    """
    if name not in ZOO:
        raise InputError(f"no model {name!r} in the zoo; allowed: {', '.join(ZOO)}")
    builder, size = ZOO[name]
    return builder(size, tokens, bins)


def _normalize(bins: int) -> Normalize:
    return Normalize(torch.zeros(bins), torch.ones(bins))


def _front(bins: int, stack: int) -> list[Layer]:
    return [_normalize(bins), FrameStack(stack, stack)]


def _recurrent(inputs: int, size: Size, bidirectional: bool) -> list[Layer]:
    layers: list[Layer] = []
    for _ in range(size.layers):
        recurrent = Recurrent(inputs, size.hidden, bidirectional, size.projection)
        inputs = recurrent.outputs
        layers += [recurrent, LayerNorm(inputs), Dropout(size.dropout)]
    return layers


def _back(size: Size, bidirectional: bool, tokens: int) -> list[Layer]:
    return [Linear((size.projection or size.hidden) * (1 + bidirectional), tokens)]
