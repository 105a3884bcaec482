"""Quantized activations in torch, by the engine's arithmetic: frame by frame, x and h apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr_compress.models.quantizers import straight_through

INVERSE_MAX = 1 / 127  # rounded to the type of the activations, as `runtime.arithmetic` states
NEARLY_ZERO = 2.0**-100


def quantize(x: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """`runtime.arithmetic.quantize_rows` (or `quantize_static`): integers as floats `(..., n)`, scales `(..., 1)`."""
    if scale is None:
        largest = x.abs().amax(dim=-1, keepdim=True)
        scales = torch.where(largest < NEARLY_ZERO, torch.ones_like(largest), largest * INVERSE_MAX)
    else:
        scales = torch.full_like(x[..., :1], scale)
    return (x * (1 / scales)).round().clamp(-127, 127), scales


class ActivationQuantizer(nn.Module):
    """What a map with integer weights gets of `x (..., features)`; gradients pass straight through.

    Attributes:
        scale: fixed, from calibration; None takes each frame's own maximum.
    """

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        codes, scales = quantize(x.detach(), self.scale)
        return straight_through(x, codes * scales)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class Activations(nn.Module):
    """The quantizers of one LSTM direction: of its inputs, its recurrent inputs and its projection's inputs."""

    def __init__(self, inputs: nn.Module, recurrent: nn.Module, projection: nn.Module) -> None:
        """Args: a quantizer, or `nn.Identity` where the map is not of integers."""
        super().__init__()
        self.inputs, self.recurrent, self.projection = inputs, recurrent, projection


def quantized_steps(
    quantizers: Activations, x: Tensor, weights: list[Tensor], h: Tensor, c: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """An LSTM in a loop over `x (batch, frames, inputs)`, as the reference engine runs it.

    Args:
        weights: in the order of `LSTMDirection.weights`.
        h, c: `(batch, outputs)` and `(batch, hidden)`.

    Returns:
        `(batch, frames, outputs)` and the last h and c.
    """
    hidden = c.shape[1]
    projection = weights[-1] if len(weights) % 2 else None
    from_input = quantizers.inputs(x) @ weights[0].T
    if len(weights) >= 4:
        from_input = from_input + (weights[2] + weights[3])
    outputs = []
    for frame in range(x.shape[1]):
        gates = quantizers.recurrent(h) @ weights[1].T + from_input[:, frame]
        i, f, g, o = gates.split(hidden, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        if projection is not None:
            h = quantizers.projection(h) @ projection.T
        outputs.append(h)
    return torch.stack(outputs, dim=1), (h, c)
