"""The maps of a model, by name: every weight matrix that a compression pass can work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr_compress.models.adopt import LSTMCell
from asr_compress.models.layers import Conv, Linear, Recurrent
from asr_compress.models.lstm import LSTM, LSTMDirection
from asr_compress.models.parametrizations import LowRank, Mask, as_matrix, stored_sections
from asr_compress.models.quantizers import Quantizer
from asr_compress.runtime.errors import InputError

PARTS = {"weight_ih": "input", "weight_hh": "recurrent", "weight_hr": "projection"}
KINDS = ("input", "recurrent", "projection", "linear", "conv")
AUXILIARY = "auxiliary"  # submodule in which passes keep what only training needs; it is no part of the model


@dataclass(frozen=True, eq=False)
class Map:
    """One weight of a model.

    Attributes:
        name: `layers.2.forward.recurrent`, `layers.8`; a factor of a factorized map ends in `.left` or `.right`.
        owner: the module that holds the tensor.
        tensor: its attribute in `owner`.
        kind: "input", "recurrent" and "projection" of an LSTM, "linear" or "conv".
        direction: the LSTM direction whose gates i, f, g, o the rows are, in this order; None for other maps.
        factor: whether the tensor is a factor of a map.
    """

    name: str
    owner: nn.Module
    tensor: str
    kind: str
    direction: LSTMDirection | None = None
    factor: bool = False

    @property
    def weight(self) -> Tensor:
        """What the model computes with: `(rows, cols)`, or `(out, in, time, bins)` of a convolution."""
        return getattr(self.owner, self.tensor)

    @property
    def matrix(self) -> Tensor:
        """`weight` as float32 `(rows, cols)` in the order of a `Network`, detached."""
        return as_matrix(self.weight.detach()).float()

    @property
    def trained(self) -> nn.Parameter:
        """The parameter behind `weight`."""
        if self.chain:
            return cast(nn.Parameter, parametrizations_of(self.owner, self.tensor).original)
        return getattr(self.owner, self.tensor)

    @property
    def chain(self) -> list[nn.Module]:
        """The parametrizations between `trained` and `weight`, in order."""
        if not parametrize.is_parametrized(self.owner, self.tensor):
            return []
        modules = parametrizations_of(self.owner, self.tensor)._modules
        return [part for key, part in modules.items() if key.isdigit() and part is not None]

    @property
    def gates(self) -> int:
        """4 where rows are gates, else 1."""
        return 1 if self.direction is None else 4

    @property
    def live(self) -> np.ndarray | None:
        """int64, the rows that are stored and computed, where the LSTM has constant gates; None when all are."""
        if self.direction is None:
            return None
        constant = constant_rows(self.direction)
        return np.flatnonzero(~constant) if constant.any() else None

    @property
    def sections(self) -> tuple[int, ...]:
        """Stored rows of each gate."""
        return stored_sections(len(self.weight), self.gates, self.live)

    def masks(self) -> list[Mask]:
        return [part for part in self.chain if isinstance(part, Mask)]

    def quantizer(self) -> Quantizer | None:
        return next((part for part in self.chain if isinstance(part, Quantizer)), None)

    def install(self, part: nn.Module) -> None:
        """Put `part` behind the parametrizations that are there."""
        parametrize.register_parametrization(self.owner, self.tensor, part.to(self.trained.device))

    def remove(self) -> None:
        """Take all parametrizations off; what they computed becomes the trained weight."""
        if self.chain:
            with torch.enable_grad():  # without gradients, torch makes the product of factors no parameter
                parametrize.remove_parametrizations(self.owner, self.tensor, leave_parametrized=True)

    def uninstall(self, part: nn.Module) -> None:
        """Take one parametrization of a plain weight off; the others stay, and the weight as the model computes it."""
        value, others = self.weight.detach().clone(), [other for other in self.chain if other is not part]
        parametrize.remove_parametrizations(self.owner, self.tensor, leave_parametrized=False)
        with torch.no_grad():
            self.trained.copy_(value)
        for other in others:
            self.install(other)

    def replace_trained(self, parameter: nn.Parameter) -> None:
        """Put another parameter, of any shape, behind the parametrizations or in place of the weight."""
        if self.chain:
            parametrizations_of(self.owner, self.tensor).original = parameter
        else:
            setattr(self.owner, self.tensor, parameter)


def parametrizations_of(owner: nn.Module, tensor: str) -> nn.Module:
    """torch's list of parametrizations of `owner.tensor`, which holds the trained tensors."""
    return cast(nn.ModuleDict, owner.parametrizations)[tensor]


def factors_of(item: Map) -> tuple[Map, Map]:
    """Left `(rows, rank)` and right `(rank, cols)` factor of a factorized map."""
    owner = parametrizations_of(item.owner, item.tensor)
    left = Map(f"{item.name}.left", owner, "original0", item.kind, item.direction, factor=True)
    return left, Map(f"{item.name}.right", owner, "original1", item.kind, factor=True)


def map_of(direction: LSTMDirection, tensor: str, name: str = "") -> Map:
    """The map behind `weight_ih`, `weight_hh` or `weight_hr` of an LSTM direction called `name`."""
    part = PARTS[tensor]
    return Map(f"{name}.{part}", direction, tensor, part, None if part == "projection" else direction)


def constant_rows(direction: LSTMDirection) -> np.ndarray:
    """bool (4H,): gate rows that masks of rows have taken out of both maps; such a gate is its bias alone."""
    constant = np.ones(4 * direction.hidden, np.bool_)
    for tensor in ("weight_ih", "weight_hh"):
        dropped = np.zeros_like(constant)
        for mask in map_of(direction, tensor).masks():
            if mask.unit == "row":
                dropped |= ~mask.mask.flatten(1).any(dim=1).cpu().numpy()
        constant &= dropped
    return constant


def make_constant(direction: LSTMDirection, keep: Tensor) -> None:
    """Take the gate rows that bool `keep (4H,)` leaves out of both maps: each becomes the constant of its bias."""
    for tensor in ("weight_ih", "weight_hh"):
        item = map_of(direction, tensor)
        item.install(Mask(keep.cpu()[:, None].expand(item.weight.shape).clone(), "row"))


def maps_of(model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> list[Map]:
    """The maps of `model` in order, chosen by shell patterns on their names, or by kind.

    Args:
        exclude: may also name modules whose matrices are no maps (`unknown_parts`); they are none of the result anyhow.

    Raises:
        InputError: a pattern that is no kind matches no map.
    """
    found = list(_walk(model))
    for pattern in [*include, *exclude]:
        if pattern in (*KINDS, "*") or any(_matches(item, pattern) for item in found):
            continue
        if pattern in exclude and any(fnmatchcase(name, pattern) for name in unknown_parts(model)):
            continue
        names = ", ".join(item.name for item in found)
        raise InputError(f"no map matches {pattern!r}; kinds are {', '.join(KINDS)}, names {names}")
    return [
        item
        for item in found
        if any(_matches(item, pattern) for pattern in include)
        and not any(_matches(item, pattern) for pattern in exclude)
    ]


def directions_of(model: nn.Module) -> dict[str, LSTMDirection]:
    """The LSTM directions of `model` by name: `layers.2.forward`."""
    return {name: module for name, module in _named(model) if isinstance(module, LSTMDirection)}


def unknown_parts(model: nn.Module) -> dict[str, str]:
    """Modules that hold matrices which are no `Map`, with what they are."""
    unknown = {}
    for name, module in _named(model):
        if isinstance(module, LSTMDirection | Linear | Conv | nn.Linear | nn.Conv1d | nn.Conv2d):
            continue
        if isinstance(module, parametrize.ParametrizationList):
            continue
        shapes = [tuple(p.shape) for p in module.parameters(recurse=False) if p.dim() >= 2]
        if shapes:
            unknown[name] = (
                f"{type(module).__name__} with a weight of {' x '.join(map(str, shapes[0]))} is no known layer"
            )
    return unknown


def _matches(item: Map, pattern: str) -> bool:
    return pattern == item.kind or fnmatchcase(item.name, pattern)


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with names in which directions are called forward and backward."""
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        if path == AUXILIARY or path.startswith(f"{AUXILIARY}."):
            continue
        if isinstance(module, Recurrent | LSTM | LSTMCell):
            names |= _direction_names(path, module)
        yield names.get(id(module), path), module


def _direction_names(path: str, module: Recurrent | LSTM | LSTMCell) -> dict[int, str]:
    prefix = f"{path}." if path else ""
    if isinstance(module, LSTMCell):
        return {id(module.direction): f"{prefix}cell"}
    names = {}
    for index, direction in enumerate(module.directions):
        side = "backward" if direction.reverse else "forward"
        layer = f"{index // module.num_directions}." if isinstance(module, LSTM) else ""
        names[id(direction)] = f"{prefix}{layer}{side}"
    return names


def _walk(model: nn.Module) -> Iterator[Map]:
    for name, module in _named(model):
        if isinstance(module, LSTMDirection):
            for tensor in PARTS:
                if getattr(module, tensor) is not None:
                    yield from _with_factors(map_of(module, tensor, name))
        elif isinstance(module, Linear | nn.Linear):
            yield from _with_factors(Map(name, module, "weight", "linear"))
        elif isinstance(module, Conv | nn.Conv1d | nn.Conv2d):
            yield from _with_factors(Map(name, module, "weight", "conv"))


def _with_factors(item: Map) -> Iterator[Map]:
    if not any(isinstance(part, LowRank) for part in item.chain):
        yield item
        return
    yield from factors_of(item)
