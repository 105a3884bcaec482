"""An LSTM whose every layer and direction is a module of its own, numerically equal to `nn.LSTM`.

Compression needs a handle on each map (input, recurrent, projection) of each layer and direction: parametrizations
on them express masks, fake quantization, low rank and codebooks. `nn.LSTM` keeps them in one flat list instead.

A backward direction reverses each utterance by its own length rather than packing. Packed sequences leave torch's
fast CPU path and cost five to six times as much; reversal costs nothing and is just as blind to padding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from asr_compress.models.activations import Activations, quantized_steps
from asr_compress.models.lstm_training import can_train, train_direction

State = tuple[Tensor, Tensor]  # h (batch, output) and c (batch, hidden)
SATURATED = 1e4  # a gate's input at which sigmoid is 0 or 1 in every float type


class LSTMDirection(nn.Module):
    """One layer of an LSTM in one direction. Gate order i, f, g, o (input, forget, candidate, output).

    Attributes:
        weight_ih: input map `(4 * hidden, inputs)`.
        weight_hh: recurrent map `(4 * hidden, outputs)`.
        bias_ih, bias_hh: `(4 * hidden,)` each, or None; their sum is what counts.
        weight_hr: projection `(outputs, hidden)`, or None; with one, outputs < hidden (Sak et al. 2014).
        hidden_places, output_places: int64, where the units and outputs that are left stood before pruning; None
            where all are left. An `LSTM` uses them to keep the shapes that its callers know.
        activations: quantizers of what the maps meet, to train with the engine's arithmetic step by step; None runs
            `lstm_training` where it can, torch's own fast LSTM elsewhere.
    """

    hidden_places: Tensor | None
    output_places: Tensor | None
    activations: Activations | None

    def __init__(
        self, inputs: int, hidden: int, projection: int = 0, bias: bool = True, reverse: bool = False, **factory: Any
    ) -> None:
        super().__init__()
        self.inputs, self.hidden, self.reverse = inputs, hidden, reverse
        self.outputs = projection or hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs, **factory))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, self.outputs, **factory))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden, **factory)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden, **factory)) if bias else None
        self.weight_hr = nn.Parameter(torch.empty(projection, hidden, **factory)) if projection else None
        self.register_buffer("hidden_places", None)
        self.register_buffer("output_places", None)
        self.register_module("activations", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """`nn.LSTM`'s start: uniform in +-1/sqrt(hidden)."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def weights(self) -> list[Tensor]:
        """The tensors in the order of `nn.LSTM._flat_weights`, as parametrizations leave them."""
        tensors = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.weight_hr]
        return [tensor for tensor in tensors if tensor is not None]

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None, to_ends: bool = False
    ) -> tuple[Tensor, State]:
        """Run over time.

        Args:
            x: `(batch, frames, inputs)`.
            lengths: int64 `(batch,)`, valid frames of each utterance; None when all frames are valid.
            state: `h (batch, outputs)` and `c (batch, hidden)` to start from; zeros when None.
            to_ends: with `lengths`, give zeros past each utterance's length and the state of its own last valid frame.

        Returns:
            `(batch, frames, outputs)` and the last state. Without `to_ends`, frames past an utterance's length are
            unspecified, and so is the last state with unequal lengths.
        """
        weights = self.weights()
        if state is None and self.activations is None and can_train(x, weights):
            return self._train(x, lengths, weights)
        if to_ends and lengths is not None:
            return self._forward_to_ends(x, lengths, state)
        if self.reverse:
            x = reverse_time(x, lengths)
        output, state = self._steps(x, weights, state)
        return (reverse_time(output, lengths) if self.reverse else output), state

    def _train(self, x: Tensor, lengths: Tensor | None, weights: list[Tensor]) -> tuple[Tensor, State]:
        weight_ih, weight_hh, *others = weights
        bias = others[0] + others[1] if self.bias_ih is not None else None
        if self.weight_hr is None:
            output, h, c = train_direction(x, lengths, weight_ih, weight_hh, bias, self.reverse)
            return output, (h, c)
        # Without the projection in the loop: the recurrent map times it is one map of the unprojected output.
        projection = others[-1]
        output, h, c = train_direction(x, lengths, weight_ih, weight_hh @ projection, bias, self.reverse)
        return output @ projection.T, (h @ projection.T, c)

    def _forward_to_ends(self, x: Tensor, lengths: Tensor, state: State | None) -> tuple[Tensor, State]:
        lengths = lengths.to(x.device)
        valid = (torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None])[:, :, None]
        x = torch.where(valid, x, x.new_zeros(()))
        if self.reverse:
            x = reverse_time(x, lengths)
        # torch returns the state after the padding and keeps the cells in between to itself. One more input, 1 on
        # padding, shuts the input gate and opens the forget gate there: the cell stands still, to the last bit.
        weights = self.weights()
        stop = weights[0].new_zeros(4, self.hidden)
        stop[0], stop[1] = -SATURATED, SATURATED
        weights[0] = torch.cat([weights[0], stop.view(-1, 1)], dim=1)
        output, (_, c) = self._steps(torch.cat([x, (~valid).to(x.dtype)], dim=-1), weights, state)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, output.shape[2])
        start = state[0] if state is not None else self._zero_state(x)[0]
        h = torch.where(lengths[:, None] > 0, output.gather(1, last).squeeze(1), start)
        output = torch.where(valid, output, output.new_zeros(()))
        return (reverse_time(output, lengths) if self.reverse else output), (h, c)

    def _steps(self, x: Tensor, weights: list[Tensor], state: State | None) -> tuple[Tensor, State]:
        h, c = state if state is not None else self._zero_state(x)
        if self.activations is not None:
            return quantized_steps(self.activations, x, weights, h, c)
        ambiguous = self.weight_hr is not None and self.hidden == self.outputs
        if ambiguous:  # torch takes h and c of equal size to mean that there is no projection: one more, silent, unit
            projection = nn.functional.pad(weights[-1], (0, 1))
            weights = [*(_with_silent_unit(weight, self.hidden) for weight in weights[:-1]), projection]
            c = nn.functional.pad(c, (0, 1))
        output, h, c = torch._VF.lstm(
            x, (h[None], c[None]), weights, self.bias_ih is not None, 1, 0.0, self.training, False, True
        )
        return output, (h[0], c[0, :, : self.hidden])

    def _zero_state(self, x: Tensor) -> State:
        return x.new_zeros(len(x), self.outputs), x.new_zeros(len(x), self.hidden)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.hidden}, outputs={self.outputs}, reverse={self.reverse}"


def _with_silent_unit(weight: Tensor, hidden: int) -> Tensor:
    """`(4 * hidden, ...)` -> `(4 * (hidden + 1), ...)`, a row of zeros after each gate."""
    padding = weight.new_zeros(4, 1, *weight.shape[1:])
    return torch.cat([weight.unflatten(0, (4, hidden)), padding], dim=1).flatten(0, 1)


def reverse_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse the valid frames of each utterance of `x (batch, frames, features)`; padding stays where it is."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = lengths.to(x.device)[:, None] - 1 - time
    index = torch.where(index >= 0, index, time)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


class LSTM(nn.Module):
    """`nn.LSTM` with its constructor, its calls and its numbers, built of `LSTMDirection`s.

    `directions` holds them in the order layer 0 forward, layer 0 backward, layer 1 forward, ... State dictionaries of
    an `nn.LSTM` load as they are.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        width = (proj_size or hidden_size) * self.num_directions
        self.directions = nn.ModuleList(
            LSTMDirection(
                input_size if layer == 0 else width, hidden_size, proj_size, bias, reverse, device=device, dtype=dtype
            )
            for layer in range(num_layers)
            for reverse in (False, True)[: self.num_directions]
        )
        self.register_load_state_dict_pre_hook(_rename_flat_keys)

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def layer(self, index: int) -> list[LSTMDirection]:
        """The directions of layer `index`, forward first."""
        first = index * self.num_directions
        return [d for d in self.directions[first : first + self.num_directions] if isinstance(d, LSTMDirection)]

    def forward(
        self, x: Tensor | PackedSequence, hx: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Any, State]:
        """`nn.LSTM.forward`, and `lengths` as a faster way than packing.

        Args:
            x: `(frames, batch, inputs)`, `(batch, frames, inputs)` with `batch_first`, unbatched `(frames, inputs)`,
                or packed.
            hx: `h (layers * directions, batch, outputs)` and `c (layers * directions, batch, hidden)`.
            lengths: int64 `(batch,)`. The returned state is then that of each utterance's last valid frame, and output
                frames past an utterance's length are zero, just as when unpacking.

        Returns:
            The output, shaped (or packed) as the input, and `(h, c)` shaped as `hx`.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, hx)
        unbatched = x.dim() == 2
        if unbatched:
            x = x.unsqueeze(0 if self.batch_first else 1)
            hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1)) if hx is not None else None
        if not self.batch_first:
            x = x.transpose(0, 1)
        output, (h, c) = self._run(x, hx, lengths)
        if not self.batch_first:
            output = output.transpose(0, 1).contiguous()  # as nn.LSTM's is: callers may `view` it
        if unbatched:
            return output.squeeze(0 if self.batch_first else 1), (h.squeeze(1), c.squeeze(1))
        return output, (h, c)

    def _forward_packed(self, x: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        padded, lengths = pad_packed_sequence(x, batch_first=True)  # restores the caller's order
        output, state = self._run(padded, hx, lengths)
        # Packed by the same order as x: sorting anew could order utterances of equal length otherwise.
        if x.sorted_indices is not None:
            output, lengths = output[x.sorted_indices], lengths[x.sorted_indices.cpu()]
        packed = pack_padded_sequence(output, lengths, batch_first=True)
        return PackedSequence(packed.data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), state

    def _run(self, x: Tensor, hx: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        if lengths is not None and bool((lengths == x.shape[1]).all()):
            lengths = None
        last: list[State] = []
        for index in range(self.num_layers):
            outputs = []
            for direction in self.layer(index):
                state = None if hx is None else (hx[0][len(last)], hx[1][len(last)])
                output, end = self._run_direction(direction, x, lengths, state)
                if index + 1 == self.num_layers:
                    output = _scatter(output, direction.output_places, self.proj_size or self.hidden_size)
                outputs.append(output)
                last.append(end)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            if self.dropout and index + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))

    def _run_direction(
        self, direction: LSTMDirection, x: Tensor, lengths: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        """Callers see states of the size before pruning; what was pruned is zero in them."""
        if state is not None:
            state = (_gather(state[0], direction.output_places), _gather(state[1], direction.hidden_places))
        output, (h, c) = direction(x, lengths, state, to_ends=True)
        h = _scatter(h, direction.output_places, self.proj_size or self.hidden_size)
        return output, (h, _scatter(c, direction.hidden_places, self.hidden_size))

    def flatten_parameters(self) -> None:
        """Nothing to do: there is no flat buffer. Here so that callers of `nn.LSTM` need no change."""

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        return f"{sizes}, bidirectional={self.bidirectional}"


class ShrunkLSTM(nn.Module):
    """`nn.LSTM`s of fewer units in a row, called like the one `nn.LSTM` that they were: same shapes, same numbers.

    Callers see zeros where units were removed, in the output and in the states.

    Attributes:
        stages: each an `nn.LSTM` of all neighboring layers of one size.
        hidden_places, output_places: int64 `(layers * directions, units)` and `(layers * directions, outputs)`, where
            units and outputs stand in what callers see. Units that only fill a narrow direction or layer up stand past
            the end, at `hidden_size` and `output_size`.
        output_size: outputs of a direction in what callers see.
    """

    hidden_places: Tensor
    output_places: Tensor

    def __init__(
        self, like: LSTM, stages: Sequence[nn.LSTM], hidden_places: Tensor, output_places: Tensor, output_size: int
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = like.input_size, like.hidden_size, like.num_layers
        self.bias, self.batch_first, self.dropout = like.bias, like.batch_first, like.dropout
        self.bidirectional, self.proj_size, self.output_size = like.bidirectional, like.proj_size, output_size
        self.stages = nn.ModuleList(stages)
        self.register_buffer("hidden_places", hidden_places)
        self.register_buffer("output_places", output_places)

    def forward(self, x: Tensor | PackedSequence, hx: State | None = None) -> tuple[Tensor | PackedSequence, State]:
        """`nn.LSTM.forward`: padded, unbatched or packed `x`, and states of `hidden_size` and `output_size` units."""
        directions = 2 if self.bidirectional else 1
        ends: list[State] = []
        first = 0
        for index, stage in enumerate(self._lstms()):
            last = first + stage.num_layers * directions
            outputs = self.output_places[first:last, : stage.proj_size or stage.hidden_size]
            hidden = self.hidden_places[first:last, : stage.hidden_size]
            state = None if hx is None else (_narrow(hx[0][first:last], outputs), _narrow(hx[1][first:last], hidden))
            x, (h, c) = stage(x, state)
            ends.append((_widen(h, outputs, self.output_size), _widen(c, hidden, self.hidden_size)))
            if index + 1 < len(self.stages):
                x = _with_data(x, nn.functional.dropout(_data(x), self.dropout, self.training))
            first = last
        of_directions = _data(x).unflatten(-1, (directions, -1))
        output = _scatter_past_end(of_directions, outputs[-directions:], self.output_size).flatten(-2)
        return _with_data(x, output), (torch.cat([h for h, _ in ends]), torch.cat([c for _, c in ends]))

    def flatten_parameters(self) -> None:
        """`nn.LSTM.flatten_parameters` of each stage."""
        for stage in self._lstms():
            stage.flatten_parameters()

    def _lstms(self) -> list[nn.LSTM]:
        return [cast(nn.LSTM, stage) for stage in self.stages]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def _gather(x: Tensor, places: Tensor | None) -> Tensor:
    return x if places is None else x.index_select(-1, places)


def _scatter(x: Tensor, places: Tensor | None, size: int) -> Tensor:
    """`x (..., n)` at `places` of zeros `(..., size)`: what pruned units would give."""
    if places is None:
        return x
    return x.new_zeros(*x.shape[:-1], size).index_copy(-1, places, x)


def _narrow(state: Tensor, places: Tensor) -> Tensor:
    """`(layers, ..., size)` -> `(layers, ..., units)`; zeros for what stands past the end."""
    moved = nn.functional.pad(state, (0, 1)).movedim(0, -2)
    return moved.gather(-1, places.expand(*moved.shape[:-1], -1)).movedim(-2, 0).contiguous()


def _widen(state: Tensor, places: Tensor, size: int) -> Tensor:
    """`(layers, ..., units)` -> `(layers, ..., size)`, the inverse of `_narrow`."""
    return _scatter_past_end(state.movedim(0, -2), places, size).movedim(-2, 0).contiguous()


def _scatter_past_end(x: Tensor, places: Tensor, size: int) -> Tensor:
    """`x (..., directions, units)` at `places (directions, units)` of zeros `(..., directions, size)`."""
    wide = x.new_zeros(*x.shape[:-1], size + 1).scatter(-1, places.expand(x.shape), x)
    return wide[..., :size].contiguous()


def _data(x: Tensor | PackedSequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def _with_data(x: Tensor | PackedSequence, data: Tensor) -> Tensor | PackedSequence:
    if not isinstance(x, PackedSequence):
        return data
    return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)


def _rename_flat_keys(lstm: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """`weight_ih_l1_reverse` -> `directions.3.weight_ih`, in place, when a state dictionary is an `nn.LSTM`'s."""
    flat = [key for key in state_dict if key.startswith(prefix) and "_l" in key[len(prefix) :].partition(".")[0]]
    bidirectional = any(key.endswith("_reverse") for key in flat)
    for key in flat:
        name, _, place = key[len(prefix) :].rpartition("_l")
        layer = int(place.removesuffix("_reverse"))
        position = layer * (2 if bidirectional else 1) + place.endswith("_reverse")
        state_dict[f"{prefix}directions.{position}.{name}"] = state_dict.pop(key)


# torch warns that weights not in one chunk of memory cost cuDNN a copy at each call. They cannot be in one here:
# parametrized weights are computed afresh at each call.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
