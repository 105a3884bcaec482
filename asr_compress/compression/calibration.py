"""Fixed scales for activations: what each map meets on real speech, and the range that serves it best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor, nn

from asr_compress.compression.map_inputs import watch_inputs
from asr_compress.models.maps import maps_of
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
    watch_inputs(model, batches, lambda name, values: seen[name].add(values))
    silent = [name for name, one in seen.items() if not one.met]
    if silent:
        raise InputError(f"calibration: no speech reached {silent[0]}; give data that does, or keep its scale dynamic")
    return seen
