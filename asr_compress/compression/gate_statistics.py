"""What the gates of an LSTM do on real speech: mean and variance of each, and what holding it constant would cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr_compress.compression.base import listen
from asr_compress.models.lstm import LSTMDirection, reverse_time
from asr_compress.models.maps import directions_of
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

_LEAST_FORGOTTEN = 0.01  # of a cell in a frame; a hundred frames are as long as most utterances' words


@dataclass(frozen=True)
class GateStatistics:
    """Of one direction; each float64 `(4, hidden)` in the order i, f, g, o.

    Attributes:
        mean, variance: of the gates after sigmoid or tanh.
        effect: mean square of what the output would lose if the gate were held at its mean, roughly: the variance of a
            gate counts as much as what it multiplies, as long as the cell keeps it, and as far as the output shows it.
    """

    mean: Tensor
    variance: Tensor
    effect: Tensor


class _Sums:
    """Running sums of one direction."""

    def __init__(self, direction: LSTMDirection) -> None:
        zeros = torch.zeros(4, direction.hidden, dtype=torch.float64)
        self.count, self.values, self.squares = 0, zeros.clone(), zeros.clone()
        # The cross terms with what a gate multiplies: sums of w, w v and w v**2 for its squared partner w.
        self.weights, self.weighted, self.weighted_squares = zeros.clone(), zeros.clone(), zeros.clone()

    def add(self, gates: Tensor, partners: Tensor) -> None:
        """`(frames, 4, hidden)` gates and what they multiply."""
        gates, squares = gates.double().cpu(), partners.double().square().cpu()
        self.count += len(gates)
        self.values += gates.sum(0)
        self.squares += gates.square().sum(0)
        self.weights += squares.sum(0)
        self.weighted += (squares * gates).sum(0)
        self.weighted_squares += (squares * gates.square()).sum(0)

    def result(self) -> GateStatistics:
        if self.count == 0:
            raise InputError("gate statistics: an LSTM of the model got no speech; give data that reaches it")
        count = self.count
        mean = self.values / count
        variance = (self.squares / count - mean.square()).clamp_min(0)
        lost = ((self.weighted_squares - 2 * mean * self.weighted + mean.square() * self.weights) / count).clamp_min(0)
        # What the cell loses in a frame it misses for as long as the forget gate holds it, and losses of frames in a
        # row are alike, so they add up as amplitudes. The output sees them through the slope of tanh and its own gate.
        held = 1 / (1 - mean[1]).clamp_min(_LEAST_FORGOTTEN)
        shown = self.squares[3] / count * (1 - self.weights[3] / count).square()
        effect = torch.cat([lost[:3] * held.square() * shown, lost[3:]])
        return GateStatistics(mean, variance, effect)


def gate_statistics(model: nn.Module, batches: Iterable[Batch]) -> dict[str, GateStatistics]:
    """Statistics of every LSTM direction of `model`, by name, over all valid frames of `batches`."""
    directions = directions_of(model)
    sums = {name: _Sums(direction) for name, direction in directions.items()}
    listen(model, batches, {direction: _hook(sums[name]) for name, direction in directions.items()})
    return {name: total.result() for name, total in sums.items()}


def _hook(sums: _Sums) -> Any:
    def watch(direction: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        assert isinstance(direction, LSTMDirection)
        x = arguments[0]
        lengths = arguments[1] if len(arguments) > 1 else keywords.get("lengths")
        state = arguments[2] if len(arguments) > 2 else keywords.get("state")
        gates, partners = gates_of(direction, x, lengths, state, result[0])
        valid = torch.ones(gates.shape[:2], dtype=torch.bool)
        if lengths is not None:
            valid = torch.arange(gates.shape[1])[None] < lengths.cpu()[:, None]
        sums.add(gates[valid.to(gates.device)], partners[valid.to(gates.device)])

    return watch


@torch.no_grad()
def gates_of(
    direction: LSTMDirection, x: Tensor, lengths: Tensor | None, state: Any, output: Tensor
) -> tuple[Tensor, Tensor]:
    """The gates that a direction had when it read `x (batch, frames, inputs)` and gave `output`.

    The states before each frame are the outputs of the frame before, so all frames are computed at once.

    Returns:
        Gates `(batch, frames, 4, hidden)` in the direction's own order of time, and what each multiplies in the cell's
        update: g, the cell before, i and tanh of the cell.
    """
    if direction.reverse:
        x, output = reverse_time(x, lengths), reverse_time(output, lengths)
    h, c = (
        state if state is not None else (x.new_zeros(len(x), direction.outputs), x.new_zeros(len(x), direction.hidden))
    )
    before = torch.cat([h[:, None], output[:, :-1]], dim=1)
    sums = x @ direction.weight_ih.T + before @ direction.weight_hh.T
    for bias in (direction.bias_ih, direction.bias_hh):
        sums = sums if bias is None else sums + bias
    sums = sums.unflatten(-1, (4, direction.hidden))
    i, f, o = (sums[:, :, gate].sigmoid() for gate in (0, 1, 3))
    g = sums[:, :, 2].tanh()
    cells = [c]
    for frame in range(x.shape[1]):
        cells.append(f[:, frame] * cells[-1] + i[:, frame] * g[:, frame])
    stacked = torch.stack(cells, dim=1)
    partners = torch.stack([g, stacked[:, :-1], i, stacked[:, 1:].tanh()], dim=2)
    return torch.stack([i, f, g, o], dim=2), partners
