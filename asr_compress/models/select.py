"""Taking hidden units and projection units out of an LSTM, with everything that is tied to them.

Removing hidden unit k of a direction removes row k of its four gates in both maps and both biases, and column k of its
projection; without a projection also column k of its recurrent map, its output feature and what reads that. Removing
projection unit p removes row p of the projection, column p of the recurrent map, its output feature and what reads it.
The same selections in another order permute the units, which changes nothing that comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import Activation, Conv, Dropout, FrameStack, LayerNorm, Linear, Recurrent
from asr_compress.models.lstm import LSTM, LSTMDirection
from asr_compress.models.maps import Map, map_of
from asr_compress.models.parametrizations import LowRank, Mask
from asr_compress.models.quantizers import Quantizer
from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class Reader:
    """What reads an output of a direction: columns of a map, or features of a layer norm.

    Attributes:
        part: the map, or the layer norm.
        columns: int64 `(readings, outputs)`, the columns (or features) that read each output of the direction; stacked
            frames read an output several times.
    """

    part: Map | LayerNorm
    columns: Tensor


@dataclass(frozen=True)
class Site:
    """A direction in its surroundings.

    Attributes:
        name: `layers.2.forward`.
        readers: what reads its outputs; empty where only its caller knows.
        adopted: whether it belongs to an `LSTM`, whose callers keep seeing the shapes of before: states, and outputs of
            the last layer, in which what was removed is zero.
        fixed: why the number of its outputs cannot change; None if it can.
    """

    name: str
    direction: LSTMDirection
    readers: tuple[Reader, ...]
    adopted: bool
    fixed: str | None = None

    def change_outputs(self) -> None:
        """Raises InputError if the outputs cannot change."""
        if self.fixed is not None:
            raise InputError(f"{self.name}: {self.fixed}")


def sites_of(model: nn.Module) -> list[Site]:
    """Every direction of `model`'s LSTM layers, with what reads it."""
    sites: list[Site] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, AcousticModel):
            for index, layer in enumerate(module.layers):
                if isinstance(layer, Recurrent):
                    sites += _recurrent_sites(module, index, layer, f"{prefix}layers.{index}")
        elif isinstance(module, LSTM):
            for index in range(module.num_layers):
                sites += _stack_sites(module, index, f"{prefix}{index}")
    return sites


def _side(direction: LSTMDirection) -> str:
    return "backward" if direction.reverse else "forward"


def _recurrent_sites(model: AcousticModel, index: int, layer: Recurrent, name: str) -> Iterator[Site]:
    offset = 0
    for direction in layer.directions:
        assert isinstance(direction, LSTMDirection)
        features = torch.arange(offset, offset + direction.outputs)[None]
        readers, fixed = [], None
        for reader in _readers(model, index + 1, features, layer.outputs):
            if isinstance(reader, str):
                fixed = reader
            else:
                readers.append(reader)
        yield Site(f"{name}.{_side(direction)}", direction, tuple(readers), adopted=False, fixed=fixed)
        offset += direction.outputs


def _readers(model: AcousticModel, index: int, features: Tensor, width: int) -> Iterator[Reader | str]:
    """What reads int64 `features (readings, outputs)` of the `width` that layer `index` gets, or why they are fixed."""
    layer = model.layers[index] if index < len(model.layers) else None
    if layer is None:
        yield "its outputs are the model's"
    elif isinstance(layer, Dropout | Activation):
        yield from _readers(model, index + 1, features, width)
    elif isinstance(layer, LayerNorm):
        yield Reader(layer, features)
        yield from _readers(model, index + 1, features, width)
    elif isinstance(layer, FrameStack):
        stacked = torch.cat([features + frame * width for frame in range(layer.stack)])
        yield from _readers(model, index + 1, stacked, width * layer.stack)
    elif isinstance(layer, Recurrent):
        for direction in layer.directions:
            assert isinstance(direction, LSTMDirection)
            yield Reader(map_of(direction, "weight_ih"), features)
    elif isinstance(layer, Linear):
        yield Reader(Map("linear", layer, "weight", "linear"), features)
    elif isinstance(layer, Conv) and layer.bins == 1:
        yield Reader(Map("conv", layer, "weight", "conv"), features)
    else:
        yield f"layers.{index} ({type(layer).__name__}) reads its outputs in a way that fixes their number"


def _stack_sites(lstm: LSTM, index: int, name: str) -> Iterator[Site]:
    offset = 0
    for direction in lstm.layer(index):
        features = torch.arange(offset, offset + direction.outputs)[None]
        following = lstm.layer(index + 1) if index + 1 < lstm.num_layers else ()
        readers = tuple(Reader(map_of(reader, "weight_ih"), features) for reader in following)
        yield Site(f"{name}.{_side(direction)}", direction, readers, adopted=True)
        offset += direction.outputs


def gate_rows(direction: LSTMDirection, units: Tensor) -> Tensor:
    """int64: the rows of the four gates of hidden `units`, gate by gate."""
    return torch.cat([units + gate * direction.hidden for gate in range(4)])


@torch.no_grad()
def select_hidden(model: nn.Module, name: str, units: Tensor) -> None:
    """Keep hidden `units` (int64, in this order) of the direction called `name` and drop the others.

    Raises:
        InputError: a map is factorized, in blocks or quantized: it cannot lose rows or columns.
    """
    site = _site(model, name)
    direction = site.direction
    if direction.weight_hr is None:
        site.change_outputs()
    rows = gate_rows(direction, units)
    for tensor in ("weight_ih", "weight_hh"):
        _select(map_of(direction, tensor), rows, dim=0)
    for tensor in ("bias_ih", "bias_hh"):
        if getattr(direction, tensor) is not None:
            _select(Map(tensor, direction, tensor, "bias"), rows, dim=0)
    if site.adopted:
        direction.hidden_places = _places(direction.hidden_places, direction.hidden, units)
    direction.hidden = len(units)
    if direction.weight_hr is not None:
        _select(map_of(direction, "weight_hr"), units, dim=1)
    else:
        _select_outputs(site, units)


@torch.no_grad()
def select_projection(model: nn.Module, name: str, units: Tensor) -> None:
    """Keep projection `units` (int64, in this order) of a direction. Raises InputError as `select_hidden` does."""
    site = _site(model, name)
    site.change_outputs()
    _select(map_of(site.direction, "weight_hr"), units, dim=0)
    _select_outputs(site, units)


def _site(model: nn.Module, name: str) -> Site:
    # Found anew for each selection: the columns of one direction move when those of its twin go.
    return next(site for site in sites_of(model) if site.name == name)


def _select_outputs(site: Site, units: Tensor) -> None:
    site.change_outputs()
    direction = site.direction
    _select(map_of(direction, "weight_hh"), units, dim=1)
    gone = torch.ones(direction.outputs, dtype=torch.bool)
    gone[units] = False
    for reader in site.readers:
        _reorder(reader, units, gone)
    if site.adopted:
        direction.output_places = _places(direction.output_places, direction.outputs, units)
    direction.outputs = len(units)


def _reorder(reader: Reader, units: Tensor, gone: Tensor) -> None:
    """The reader's columns in their new order: those of kept units take the kept places, one after the other."""
    width = len(reader.part.weight) if isinstance(reader.part, LayerNorm) else reader.part.weight.shape[1]
    order = torch.arange(width)
    for columns in reader.columns:
        order[columns[~gone]] = columns[units]
    dropped = torch.zeros(width, dtype=torch.bool)
    dropped[reader.columns[:, gone].reshape(-1)] = True
    chosen = order[~dropped]
    if not isinstance(reader.part, LayerNorm):
        _select(reader.part, chosen, dim=1)
        if isinstance(reader.part.owner, LSTMDirection):
            reader.part.owner.inputs = len(chosen)
        elif isinstance(reader.part.owner, Conv):
            reader.part.owner.in_channels = len(chosen)
        return
    norm = reader.part
    for name in ("weight", "bias"):
        _select(Map(name, norm, name, "norm"), chosen, dim=0)
    if norm.live is not None:
        live = norm.live[chosen.to(norm.live.device)]
        norm.live = None if bool(live.all()) else live


def _places(before: Tensor | None, size: int, units: Tensor) -> Tensor:
    return (torch.arange(size) if before is None else before.cpu())[units.cpu()]


def _select(item: Map, kept: Tensor, dim: int) -> None:
    """Keep rows (dim 0) or columns (dim 1) of a map, of its masks too."""
    for part in item.chain:
        if isinstance(part, LowRank | Quantizer) or (isinstance(part, Mask) and part.unit == "block"):
            what = "in blocks" if isinstance(part, Mask) else "factorized" if isinstance(part, LowRank) else "quantized"
            raise InputError(f"{item.name} is {what}; remove units before that")
    trained = item.trained
    kept = kept.to(trained.device)
    chosen = nn.Parameter(trained.index_select(dim, kept), requires_grad=trained.requires_grad)
    item.replace_trained(chosen)
    for mask in item.masks():
        mask.mask = mask.mask.index_select(dim, kept)


def removable(model: AcousticModel) -> dict[int, Sequence[int]]:
    """LSTM layers whose input is as wide as their output: index -> indices of all layers that would go with it."""
    found: dict[int, Sequence[int]] = {}
    for index, layer in enumerate(model.layers):
        if isinstance(layer, Recurrent) and all(
            isinstance(d, LSTMDirection) and d.inputs == layer.outputs for d in layer.directions
        ):
            end = index + 1
            while end < len(model.layers) and isinstance(model.layers[end], LayerNorm | Dropout):
                end += 1
            found[index] = range(index, end)
    return found
