"""What the maps of a model meet on real speech: the vectors that each of them multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr_compress.compression.base import listen
from asr_compress.compression.gate_statistics import gates_of
from asr_compress.models.lstm import LSTMDirection, reverse_time
from asr_compress.models.maps import Map, factors_of, maps_of
from asr_compress.models.parametrizations import LowRank

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

Add = Callable[[str, Tensor], None]  # a map's name, float (vectors, inputs of its module)


@torch.no_grad()
def watch_inputs(model: nn.Module, batches: Iterable[Batch], add: Add) -> None:
    """Run `model` over `batches` and hand `add` what each map meets, batch by batch; padding left out.

    A convolution's map is handed the frames that the convolution reads, not their patches.
    """
    listen(model, batches, {module: _watch(maps, add) for module, maps in _watched(model).items()})


def _watched(model: nn.Module) -> dict[nn.Module, dict[str, Map]]:
    """Modules that hold maps: for each its tensors with the map, or with the right factor of it."""
    watched: dict[nn.Module, dict[str, Map]] = {}
    factorized = {}
    for module in model.modules():
        for tensor in getattr(module, "parametrizations", {}):
            whole = Map(tensor, module, tensor, "")
            if any(isinstance(part, LowRank) for part in whole.chain):
                factorized[id(factors_of(whole)[0].owner)] = (module, tensor)
    for item in maps_of(model):
        module, tensor = factorized.get(id(item.owner), (item.owner, item.tensor))
        watched.setdefault(module, {})[f"{tensor} {item.tensor}" if item.factor else tensor] = item
    return watched


def _watch(maps: dict[str, Map], add: Add) -> Callable[..., None]:
    def hand(tensor: str, values: Tensor) -> None:
        if tensor in maps:
            add(maps[tensor].name, values)
        elif f"{tensor} original1" in maps:
            left, right = maps[f"{tensor} original0"], maps[f"{tensor} original1"]
            add(right.name, values)
            add(left.name, values @ right.weight.T)

    def watch(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        x = arguments[0]
        lengths = arguments[1] if len(arguments) > 1 else keywords.get("lengths")
        valid = _valid(x, lengths if isinstance(lengths, Tensor) else None)
        if not isinstance(module, LSTMDirection):
            hand("weight", x[valid])
            return
        state = arguments[2] if len(arguments) > 2 else keywords.get("state")
        output = result[0]
        gates, partners = gates_of(module, x, lengths, state, output)
        if module.reverse:
            output = reverse_time(output, lengths)
        start = state[0] if state is not None else torch.zeros_like(output[:, 0])
        hand("weight_ih", x[valid])
        hand("weight_hh", torch.cat([start[:, None], output[:, :-1]], dim=1)[valid])
        if module.weight_hr is not None:
            hand("weight_hr", (gates[:, :, 3] * partners[:, :, 3])[valid])

    return watch


def _valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    """bool, the leading axes of `x`: frames within their utterance."""
    if lengths is None or x.dim() != 3:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return torch.arange(x.shape[1], device=x.device)[None] < lengths.to(x.device)[:, None]
