"""What the LSTM layers of a model gave in its last forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import Recurrent


def recurrent_layers(model: AcousticModel) -> list[Recurrent]:
    """The LSTM layers, the first is number 0."""
    return [layer for layer in model.layers if isinstance(layer, Recurrent)]


class LayerOutputs:
    """Watches layers of a model until it is closed."""

    def __init__(self, model: AcousticModel, numbers: list[int]) -> None:
        self._last: dict[int, tuple[Tensor, Tensor]] = {}
        found = recurrent_layers(model)
        self._hooks = [found[number].register_forward_hook(self._keep(number)) for number in numbers]

    def _keep(self, number: int) -> Any:
        def keep(module: nn.Module, arguments: Any, result: tuple[Tensor, Tensor]) -> None:
            self._last[number] = result

        return keep

    def take(self, number: int, utterances: int) -> tuple[Tensor, Tensor]:
        """`(utterances, frames, features)` and int64 lengths of the first `utterances`; others are other views."""
        hidden, lengths = self._last[number]
        return hidden[:utterances].float(), lengths[:utterances]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._last.clear()
