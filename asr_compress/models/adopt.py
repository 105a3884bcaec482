"""Take in any torch module: swap its `nn.LSTM`s and `nn.LSTMCell`s for layers that compression can reach into.

The numbers stay the same, and so do the parameters themselves (the same objects, so optimizers and tied weights hold).
"""

from __future__ import annotations

import copy as copying
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr_compress.models.lstm import LSTM, LSTMDirection, ShrunkLSTM, State
from asr_compress.models.parametrizations import LowRank, Mask
from asr_compress.models.quantizers import Quantizer
from asr_compress.runtime.errors import InputError

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
MASKABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


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


def release(module: nn.Module, strict: bool = False) -> nn.Module:
    """The way back: each `LSTM` becomes an `nn.LSTM`, each `LSTMCell` an `nn.LSTMCell`, with the same numbers.

    In place. Masked weights, rows of constant gates among them, become zeros, in `nn.Linear`s and convolutions too.
    Where units were removed, callers still expect the old widths: the LSTM becomes a `ShrunkLSTM`, which is `nn.LSTM`s
    of the units that are left, and an index. Weights that were masked or moved are new parameters; the others stay
    the same objects.

    What has no plain form (`unreleased`) stays as it is, with a warning that says what and why.

    Args:
        strict: whether a module without a plain form is an error; then nothing is changed.

    Raises:
        InputError: with `strict`, if a module has no plain form.
    """
    stays = unreleased(module)
    if stays:
        name, reason = next(iter(stays.items()))
        more = f"; and {len(stays) - 1} more" if len(stays) > 1 else ""
        message = f"{name or type(module).__name__} has no plain form: {reason}{more}"
        if strict:
            raise InputError(f"release: {message}")
        warnings.warn(f"release leaves what it cannot turn into ordinary modules: {message}", stacklevel=2)
    for part in module.modules():
        masked = isinstance(part, MASKABLE) and any(isinstance(one, Mask) for one in _parts_of(part, "weight"))
        if masked and _obstacle(part) is None:
            _fold_masks(part)
    swapped: dict[int, nn.Module] = {}
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(child, LSTM | LSTMCell) or _obstacle(child) is not None:
            continue
        if id(child) not in swapped:
            swapped[id(child)] = _to_torch(child) if isinstance(child, LSTM) else _to_torch_cell(child)
        if name == "":
            return swapped[id(child)]
        parent_name, _, key = name.rpartition(".")
        setattr(module.get_submodule(parent_name), key, swapped[id(child)])
    return module


def unreleased(module: nn.Module) -> dict[str, str]:
    """Modules that `release` leaves as they are, by name, with the reason."""
    reasons = {name: _obstacle(child) for name, child in module.named_modules()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


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


def _obstacle(module: nn.Module) -> str | None:
    """Why a module of ours, or one with parametrizations of ours, has no plain form; None if it has one."""
    if isinstance(module, MASKABLE):
        parts = _parts_of(module, "weight")
        if not any(isinstance(part, Mask | LowRank | Quantizer) for part in parts):
            return None
        others = set(cast(nn.ModuleDict, module.parametrizations)) - {"weight"}
        return _why_not_folded("weight", parts) or (f"{others.pop()} is parametrized too" if others else None)
    if not isinstance(module, LSTM | LSTMCell):
        return None
    for path, child in module.named_modules():
        if child._forward_pre_hooks or child._forward_hooks:
            return "it has forward hooks, which would be lost"
        if not isinstance(child, LSTMDirection):
            continue
        if child.activations is not None:
            return f"{path} quantizes its activations, as the engine does"
        for name in PARTS:
            reason = _why_not_folded(f"{path}.{name}", _parts_of(child, name))
            if reason is not None:
                return reason
    return None


def _parts_of(owner: nn.Module, name: str) -> list[nn.Module]:
    """The parametrizations of `owner.name`, in order."""
    if not parametrize.is_parametrized(owner, name):
        return []
    chain = cast(nn.ModuleDict, owner.parametrizations)[name]
    return [part for key, part in chain._modules.items() if key.isdigit() and part is not None]


def _why_not_folded(name: str, parts: Sequence[nn.Module]) -> str | None:
    for part in parts:
        if isinstance(part, LowRank):
            return f"{name} is factorized"
        if isinstance(part, Quantizer):
            return f"{name} is quantized to {part.numbers}"
        if not isinstance(part, Mask):
            return f"{name} is parametrized ({type(part).__name__})"
    return None


def _fold_masks(owner: nn.Module) -> None:
    folded = _plain_parameter(owner, "weight")
    # torch's own removal takes `weight` off the class, which deep copies share, and writes into the parameter, which
    # another module may share.
    del owner.parametrizations
    owner.__class__ = type(owner).__bases__[0]
    owner.register_parameter("weight", folded)


def _plain_parameter(owner: nn.Module, name: str) -> nn.Parameter:
    """The parameter itself, or a new one that holds what masks leave of it."""
    if not parametrize.is_parametrized(owner, name):
        return getattr(owner, name)
    original = cast(nn.ModuleDict, owner.parametrizations)[name].original
    return nn.Parameter(getattr(owner, name).detach().clone(), requires_grad=cast(Tensor, original).requires_grad)


def _to_torch_cell(cell: LSTMCell) -> nn.LSTMCell:
    direction = cell.direction
    plain = nn.LSTMCell(direction.inputs, direction.hidden, direction.bias_ih is not None, device="meta")
    for name, _ in list(plain.named_parameters()):
        setattr(plain, name, _plain_parameter(direction, name))
    return plain.train(cell.training)


@dataclass(frozen=True)
class _Layout:
    """A direction within the `nn.LSTM` to come.

    Attributes:
        hidden, outputs: its units and outputs there.
        units, places: int64, which of these each unit `(hidden,)` and each output `(outputs,)` becomes.
    """

    hidden: int
    outputs: int
    units: Tensor
    places: Tensor


def _to_torch(lstm: LSTM) -> nn.LSTM | ShrunkLSTM:
    output_size = max(
        (lstm.proj_size or lstm.hidden_size) if direction.output_places is not None else direction.outputs
        for direction in _directions(lstm)
    )
    ambiguous = any(d.weight_hr is not None and d.hidden <= d.outputs for d in _directions(lstm))
    if {(d.hidden, d.outputs) for d in _directions(lstm)} == {(lstm.hidden_size, output_size)} and not ambiguous:
        layouts = [
            _Layout(d.hidden, d.outputs, _places(d.hidden_places, d.hidden), _places(d.output_places, d.outputs))
            for d in _directions(lstm)
        ]
        return _build(lstm, range(lstm.num_layers), layouts)
    layouts = [layout for index in range(lstm.num_layers) for layout in _compact(lstm.layer(index))]
    sizes = [(layout.hidden, layout.outputs) for layout in layouts[:: lstm.num_directions]]
    runs = [list(run) for _, run in groupby(range(lstm.num_layers), key=lambda index: sizes[index])]
    stages = [_build(lstm, range(run[0], run[-1] + 1), layouts) for run in runs]
    hidden_places = [_places(d.hidden_places, d.hidden) for d in _directions(lstm)]
    output_places = [_places(d.output_places, d.outputs) for d in _directions(lstm)]
    shrunk = ShrunkLSTM(
        lstm,
        stages,
        _table(hidden_places, max(hidden for hidden, _ in sizes), lstm.hidden_size),
        _table(output_places, max(outputs for _, outputs in sizes), output_size),
        output_size,
    )
    return shrunk.to(stages[0].all_weights[0][0].device).train(lstm.training)


def _directions(lstm: LSTM) -> list[LSTMDirection]:
    return [direction for index in range(lstm.num_layers) for direction in lstm.layer(index)]


def _compact(layer: Sequence[LSTMDirection]) -> list[_Layout]:
    """Both directions as wide as the wider one; `nn.LSTM` has one size for both, and more units than outputs."""
    outputs = max(direction.outputs for direction in layer)
    hidden = max(direction.hidden for direction in layer)
    if layer[0].weight_hr is not None:
        hidden = max(hidden, outputs + 1)
    return [_Layout(hidden, outputs, torch.arange(d.hidden), torch.arange(d.outputs)) for d in layer]


def _build(lstm: LSTM, run: range, layouts: Sequence[_Layout]) -> nn.LSTM:
    """The layers of `run`, all of one size, as an `nn.LSTM`; `layouts` of all directions of `lstm`."""
    count = lstm.num_directions
    first = layouts[run[0] * count]
    projected = _directions(lstm)[run[0] * count].weight_hr is not None
    inputs = lstm.input_size if run[0] == 0 else count * layouts[run[0] * count - 1].outputs
    plain = nn.LSTM(
        inputs,
        first.hidden,
        len(run),
        lstm.bias,
        lstm.batch_first,
        bidirectional=lstm.bidirectional,
        proj_size=first.outputs if projected else 0,
        device="meta",
    )
    plain.dropout = lstm.dropout  # given to the constructor, it warns where there is one layer
    chosen = [(index, direction) for index in run for direction in lstm.layer(index)]
    for position, ((index, direction), names) in enumerate(zip(chosen, plain._all_weights, strict=True)):
        layout = layouts[run[0] * count + position]
        below = layouts[(index - 1) * count : index * count] if index else []
        parts = _moved(direction, layout, below)
        for name in names:
            setattr(plain, name, parts[name.rpartition("_l")[0]])
    plain.flatten_parameters()
    return plain.train(lstm.training)


def _moved(direction: LSTMDirection, layout: _Layout, below: Sequence[_Layout]) -> dict[str, nn.Parameter]:
    """The parameters of `direction` as `layout` orders them, reading what the layer `below` gives, if there is one."""
    rows = torch.cat([layout.units + gate * layout.hidden for gate in range(4)])
    columns, width = torch.arange(direction.inputs), direction.inputs
    if below:
        columns = torch.cat([part.places + index * part.outputs for index, part in enumerate(below)])
        width = sum(part.outputs for part in below)
    height = 4 * layout.hidden
    shapes = {
        "weight_ih": ((rows, height), (columns, width)),
        "weight_hh": ((rows, height), (layout.places, layout.outputs)),
        "bias_ih": ((rows, height),),
        "bias_hh": ((rows, height),),
        "weight_hr": ((layout.places, layout.outputs), (layout.units, layout.hidden)),
    }
    moved = {}
    for name, axes in shapes.items():
        if getattr(direction, name) is not None:
            before = _plain_parameter(direction, name)
            after: Tensor = before
            for axis, (places, size) in enumerate(axes):
                after = _spread(after, axis, places, size)
            moved[name] = before if after is before else nn.Parameter(after.detach(), before.requires_grad)
    return moved


def _spread(x: Tensor, axis: int, places: Tensor, size: int) -> Tensor:
    """`x` itself where nothing moves; else its slices along `axis` at `places` of `size` zeros."""
    if torch.equal(places, torch.arange(size)):
        return x
    zeros = x.new_zeros([size if index == axis else length for index, length in enumerate(x.shape)])
    return zeros.index_copy(axis, places.to(x.device), x)


def _places(places: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if places is None else places.cpu()


def _table(rows: Sequence[Tensor], width: int, filler: int) -> Tensor:
    return torch.stack([nn.functional.pad(row, (0, width - len(row)), value=filler) for row in rows])


def _rename_cell_keys(cell: nn.Module, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
    for part in PARTS:
        if prefix + part in state_dict:
            state_dict[f"{prefix}direction.{part}"] = state_dict.pop(prefix + part)
