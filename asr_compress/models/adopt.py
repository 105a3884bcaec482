"""Take in any torch module: swap its `nn.LSTM`s and `nn.LSTMCell`s for layers that compression can reach into.

The numbers stay the same, and so do the parameters themselves (the same objects, so optimizers and tied weights hold).
"""

from __future__ import annotations

import copy as copying

import torch
from torch import Tensor, nn

from asr_compress.models.lstm import LSTM, LSTMDirection, State
from asr_compress.runtime.errors import InputError

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class LSTMCell(nn.Module):
    """`nn.LSTMCell` around an `LSTMDirection`. State dictionaries of an `nn.LSTMCell` load as they are."""

    def __init__(self, direction: LSTMDirection) -> None:
        super().__init__()
        self.direction = direction
        self.register_load_state_dict_pre_hook(_rename_cell_keys)

    @property
    def input_size(self) -> int:
        return self.direction.inputs

    @property
    def hidden_size(self) -> int:
        return self.direction.hidden

    def forward(self, x: Tensor, hx: State | None = None) -> State:
        """One step from `x (batch, inputs)` and h, c `(batch, hidden)` to the new h, c; or without a batch axis."""
        if x.dim() == 1:
            h, c = self.forward(x[None], None if hx is None else (hx[0][None], hx[1][None]))
            return h[0], c[0]
        _, state = self.direction(x[:, None], None, hx)
        return state


def adopt(module: nn.Module, copy: bool = False) -> nn.Module:
    """`module` with every `nn.LSTM` and `nn.LSTMCell` in it, at any depth, swapped for `LSTM` and `LSTMCell`.

    A module that is itself an `nn.LSTM` is returned as an `LSTM`. One used in several places stays shared. Adopting
    twice changes nothing.

    Args:
        copy: leave `module` as it is and change a deep copy.

    Raises:
        InputError: an LSTM with a forward of its own, with hooks or with parametrizations: what it computes is not
            what its weights say.
    """
    if copy:
        module = copying.deepcopy(module)
    found = {name: child for name, child in module.named_modules(remove_duplicate=False) if _is_foreign(child)}
    for name, child in found.items():
        _check(name or type(module).__name__, child)
    swapped = {id(child): _swap(child) for child in found.values()}
    for name, child in found.items():
        if name == "":
            return swapped[id(child)]
        parent_name, _, key = name.rpartition(".")
        setattr(module.get_submodule(parent_name), key, swapped[id(child)])
    return module


def release(module: nn.Module) -> nn.Module:
    """The way back: each `LSTM` whose layers are alike and whose weights are plain becomes an `nn.LSTM`.

    In place; parameters stay the same objects. An `LSTM` with layers of different sizes or with parametrized weights
    stays, and is as much an ordinary module.
    """
    swapped: dict[int, nn.Module] = {}
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if not (isinstance(child, LSTM) and _is_plain(child)):
            continue
        if id(child) not in swapped:
            swapped[id(child)] = _to_torch(child)
        if name == "":
            return swapped[id(child)]
        parent_name, _, key = name.rpartition(".")
        setattr(module.get_submodule(parent_name), key, swapped[id(child)])
    return module


def _is_foreign(module: nn.Module) -> bool:
    return isinstance(module, nn.LSTM | nn.LSTMCell)


def _check(name: str, module: nn.Module) -> None:
    base = nn.LSTM if isinstance(module, nn.LSTM) else nn.LSTMCell
    if type(module).forward is not base.forward:
        raise InputError(
            f"{name} has a forward of its own ({type(module).__name__}); only a plain {base.__name__} can be adopted"
        )
    if torch.nn.utils.parametrize.is_parametrized(module):
        raise InputError(
            f"{name}: its weights are parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if module._forward_pre_hooks or module._forward_hooks:
        raise InputError(
            f"{name}: it has forward hooks (torch.nn.utils.prune?), which adoption would lose; remove them first"
        )


def _swap(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.LSTMCell):
        direction = LSTMDirection(module.input_size, module.hidden_size, 0, module.bias, device="meta")
        _take_parts(direction, {part: getattr(module, part) for part in PARTS[: 2 + 2 * module.bias]})
        return LSTMCell(direction).train(module.training)
    assert isinstance(module, nn.LSTM)
    own = LSTM(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        module.bias,
        module.batch_first,
        module.dropout,
        module.bidirectional,
        module.proj_size,
        device="meta",
    )
    for own_direction, names in zip(own.directions, module._all_weights, strict=True):
        _take_parts(own_direction, {name.rpartition("_l")[0]: getattr(module, name) for name in names})
    return own.train(module.training)


def _take_parts(direction: nn.Module, parts: dict[str, nn.Parameter]) -> None:
    for name, parameter in parts.items():
        setattr(direction, name, parameter)


def _is_plain(lstm: LSTM) -> bool:
    sizes = {(d.hidden, d.outputs, d.bias_ih is None) for i in range(lstm.num_layers) for d in lstm.layer(i)}
    parametrized = any(torch.nn.utils.parametrize.is_parametrized(d) for d in lstm.directions)
    return sizes == {(lstm.hidden_size, lstm.proj_size or lstm.hidden_size, not lstm.bias)} and not parametrized


def _to_torch(lstm: LSTM) -> nn.LSTM:
    plain = nn.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        lstm.bias,
        lstm.batch_first,
        lstm.dropout,
        lstm.bidirectional,
        lstm.proj_size,
        device="meta",
    )
    for direction, names in zip(lstm.directions, plain._all_weights, strict=True):
        for name in names:
            setattr(plain, name, getattr(direction, name.rpartition("_l")[0]))
    plain.flatten_parameters()
    return plain.train(lstm.training)


def _rename_cell_keys(cell: nn.Module, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
    for part in PARTS:
        if prefix + part in state_dict:
            state_dict[f"{prefix}direction.{part}"] = state_dict.pop(prefix + part)
