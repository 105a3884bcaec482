"""Fixed scales for activations: what each map meets on real speech, and the range that serves it best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.compression.base import outputs_of
from asr_compress.compression.gate_statistics import gates_of
from asr_compress.models.lstm import LSTMDirection, reverse_time
from asr_compress.models.maps import Map, factors_of, maps_of
from asr_compress.models.parametrizations import LowRank
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

Method = Literal["minmax", "percentile", "mse"]
_SAMPLES_A_BATCH = 20_000


class Seen:
    """Magnitudes that a map met: the largest, and a sample of all."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._samples: list[np.ndarray] = []

    def add(self, values: Tensor) -> None:
        magnitudes = values.detach().abs().reshape(-1).float()
        if len(magnitudes) == 0:
            return
        self.largest = max(self.largest, float(magnitudes.max()))
        self._samples.append(magnitudes[:: max(1, len(magnitudes) // _SAMPLES_A_BATCH)].cpu().numpy())

    @property
    def met(self) -> bool:
        return bool(self._samples)

    def scale(self, method: Method, percentile: float) -> float:
        """The activation scale: the range that `method` finds, over 127.

        | method     | range                                                                     |
        |------------|---------------------------------------------------------------------------|
        | minmax     | the largest magnitude                                                     |
        | percentile | the magnitude that `percentile` percent stay below                        |
        | mse        | of 100 ranges up to the largest, the one with the least mean square error |
        """
        if self.largest == 0:
            return 1.0
        if method == "minmax":
            return self.largest / 127
        samples = np.concatenate(self._samples)
        if method == "percentile":
            return max(float(np.percentile(samples, percentile)), 1e-6 * self.largest) / 127
        scales = self.largest / 127 * np.arange(1, 101) / 100
        errors = [np.square(samples - np.minimum(np.rint(samples / s), 127) * s).mean() for s in scales]
        return float(scales[int(np.argmin(errors))])


def activation_ranges(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Seen]:
    """What each map of `model` meets on `batches`, by the map's name; padding left out.

    Raises:
        InputError: a map met nothing.
    """
    seen = {item.name: Seen() for item in maps_of(model)}
    hooks = [
        module.register_forward_hook(_watch(maps, seen), with_kwargs=True) for module, maps in _watched(model).items()
    ]
    try:
        for _ in outputs_of(model, batches):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    silent = [name for name, one in seen.items() if not one.met]
    if silent:
        raise InputError(f"calibration: no speech reached {silent[0]}; give data that does, or keep its scale dynamic")
    return seen


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


def _watch(maps: dict[str, Map], seen: dict[str, Seen]) -> Callable[..., None]:
    def add(tensor: str, values: Tensor) -> None:
        if tensor in maps:
            seen[maps[tensor].name].add(values)
        elif f"{tensor} original1" in maps:
            left, right = maps[f"{tensor} original0"], maps[f"{tensor} original1"]
            seen[right.name].add(values)
            seen[left.name].add(values @ right.weight.T)

    def watch(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        x = arguments[0]
        lengths = arguments[1] if len(arguments) > 1 else keywords.get("lengths")
        valid = _valid(x, lengths if isinstance(lengths, Tensor) else None)
        if not isinstance(module, LSTMDirection):
            add("weight", x[valid])
            return
        state = arguments[2] if len(arguments) > 2 else keywords.get("state")
        output = result[0]
        gates, partners = gates_of(module, x, lengths, state, output)
        if module.reverse:
            output = reverse_time(output, lengths)
        start = state[0] if state is not None else torch.zeros_like(output[:, 0])
        add("weight_ih", x[valid])
        add("weight_hh", torch.cat([start[:, None], output[:, :-1]], dim=1)[valid])
        if module.weight_hr is not None:
            add("weight_hr", (gates[:, :, 3] * partners[:, :, 3])[valid])

    return watch


def _valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    """bool, the leading axes of `x`: frames within their utterance."""
    if lengths is None or x.dim() != 3:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return torch.arange(x.shape[1], device=x.device)[None] < lengths.to(x.device)[:, None]
