"""An LSTM direction's training step on CPUs, through the compiled extension.

torch runs the same mathematics through oneDNN, at about 64 % of the rate of a large product. Here all that does not
depend on the step before is three large products over all frames (inputs forward, inputs and weights backward), padding
is skipped rather than computed, a backward direction reads its frames backwards rather than a reversed copy, and
utterances are shared out to threads that never meet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asr_compress.runtime.extension import extension, instruction_set

_PANEL_ROWS = 64  # of weights that lie side by side in memory for the kernels


def can_train(x: Tensor, weights: list[Tensor]) -> bool:
    """Whether `train_direction` is there for these: a gradient is wanted, in float32, on a CPU, and it was compiled."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and extension() is not None
        and all(tensor.dtype == torch.float32 for tensor in (x, *weights))
        and not torch.is_autocast_enabled("cpu")
    )


def train_direction(
    x: Tensor, lengths: Tensor | None, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of an LSTM from a state of zeros; differentiable once.

    Args:
        x: float32 `(batch, frames, inputs)`.
        lengths: int64 `(batch,)`; None when all frames are valid.
        weight_ih: `(4 * hidden, inputs)`, gates in the order i, f, g, o.
        weight_hh: `(4 * hidden, hidden)`.
        bias: `(4 * hidden,)` or None.
        reverse: from each utterance's own end to its start.

    Returns:
        Outputs `(batch, frames, hidden)`, zero past each utterance's length, and h and c `(batch, hidden)` after its
        own last step; zeros for an utterance without frames.
    """
    batch, frames = x.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), frames)
    lengths = lengths.to(device="cpu", dtype=torch.int64).contiguous()
    output, c = _Direction.apply(x, lengths, weight_ih, weight_hh, bias, reverse)
    if not frames:
        return output, x.new_zeros(batch, weight_hh.shape[1]), c
    last = torch.zeros_like(lengths) if reverse else (lengths - 1).clamp_min(0)
    h = output.gather(1, last[:, None, None].expand(-1, 1, output.shape[2])).squeeze(1)
    return output, h, c


class _Direction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lengths: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        batch, frames, hidden = *x.shape[:2], weight_hh.shape[1]
        gates = functional.linear(x, weight_ih, bias)
        output, cells = x.new_empty(batch, frames, hidden), x.new_empty(batch, frames, hidden)
        extension().lstm_forward(
            instruction_set(), torch.get_num_threads(), reverse, lengths.numpy(), frames, hidden,
            _panels(weight_hh.t()), gates.numpy(), output.numpy(), cells.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(x, lengths, weight_ih, weight_hh, gates, output, cells)
        ctx.reverse, ctx.has_bias = reverse, bias is not None
        if not frames:
            return output, x.new_zeros(batch, hidden)
        last = torch.zeros_like(lengths) if reverse else (lengths - 1).clamp_min(0)
        return output, cells[torch.arange(batch), last]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_cell: Tensor) -> tuple[Tensor | None, ...]:
        x, lengths, weight_ih, weight_hh, gates, output, cells = ctx.saved_tensors
        batch, frames, hidden = output.shape
        d_gates = torch.empty_like(gates)
        extension().lstm_backward(
            instruction_set(), torch.get_num_threads(), ctx.reverse, lengths.numpy(), frames, hidden,
            _panels(weight_hh), gates.numpy(), cells.numpy(),
            d_output.contiguous().numpy(), d_cell.contiguous().numpy(), d_gates.numpy(),
        )  # fmt: skip
        flat = d_gates.view(-1, 4 * hidden)
        before = output.new_zeros(batch, frames, hidden)  # the output of the step before each
        if ctx.reverse:
            before[:, :-1] = output[:, 1:]
        else:
            before[:, 1:] = output[:, :-1]
        return (
            (flat @ weight_ih).view_as(x) if ctx.needs_input_grad[0] else None,
            None,
            flat.t() @ x.reshape(len(flat), -1) if ctx.needs_input_grad[2] else None,
            flat.t() @ before.view(len(flat), -1) if ctx.needs_input_grad[3] else None,
            flat.sum(0) if ctx.has_bias and ctx.needs_input_grad[4] else None,
            None,
        )


def _panels(matrix: Tensor) -> Any:
    """`matrix (depth, rows)` as the kernels read it, numpy float32 `(panels, depth, 64)`; rows padded with zeros."""
    padded = functional.pad(matrix, (0, -matrix.shape[1] % _PANEL_ROWS))
    return padded.unflatten(1, (-1, _PANEL_ROWS)).transpose(0, 1).contiguous().numpy()
