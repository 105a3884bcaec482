"""torch's dynamic int8 quantization, which knows `nn.LSTM` and `nn.Linear` only: the layers are swapped for those."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from asr_compress.models.layers import Layer, Linear, Recurrent
from asr_compress.models.lstm import LSTMDirection, reverse_time


class StockRecurrent(Layer):
    """A `Recurrent` layer made of one `nn.LSTM` a direction; the backward one reverses each utterance by its length."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        directions = [cast(LSTMDirection, direction) for direction in layer.directions]
        self.lstms = nn.ModuleList(_stock_lstm(direction) for direction in directions)
        self.reversed = [direction.reverse for direction in directions]

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, frames, inputs)` -> `(batch, frames, outputs)`."""
        outputs = []
        for lstm, backward in zip(self.lstms, self.reversed, strict=True):
            y = lstm(reverse_time(x, lengths) if backward else x)[0]
            outputs.append(reverse_time(y, lengths) if backward else y)
        return torch.cat(outputs, dim=-1), lengths


class StockLinear(Layer):
    """A `Linear` layer around `nn.Linear`."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.linear = nn.Linear(inputs, outputs)
        self.linear.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})

    def map(self, x: Tensor) -> Tensor:
        """`(batch, frames, inputs)` -> `(batch, frames, outputs)`."""
        return cast(Tensor, self.linear(x))


def quantized(layers: Any) -> nn.ModuleList:
    """The layers with int8 LSTMs and linear maps; the others stay as they are.

    Raises RuntimeError where this build of torch has no quantized kernels.
    """
    stock = nn.ModuleList(_stock(layer) for layer in layers)
    return cast(nn.ModuleList, torch.ao.quantization.quantize_dynamic(stock, {nn.LSTM, nn.Linear}, dtype=torch.qint8))


def _stock(layer: nn.Module) -> nn.Module:
    if isinstance(layer, Recurrent):
        return StockRecurrent(layer)
    return StockLinear(layer) if isinstance(layer, Linear) else layer


def _stock_lstm(direction: LSTMDirection) -> nn.LSTM:
    lstm = nn.LSTM(direction.inputs, direction.hidden, bias=direction.bias_ih is not None, batch_first=True)
    names = [name for name, _ in lstm.named_parameters()]
    lstm.load_state_dict(dict(zip(names, (weight.detach() for weight in direction.weights()), strict=True)))
    return lstm
