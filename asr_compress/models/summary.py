"""The zoo in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asr_compress.models.convert import to_network
from asr_compress.models.zoo import ZOO, build_model
from asr_compress.runtime.cost import account
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.network import is_streaming, time_stride


@dataclass(frozen=True)
class Summary:
    """One model.

    Attributes:
        parameters: trained numbers, the two biases of an LSTM counted as the one that they add up to.
        macs_per_audio_s: multiply-accumulates for each second of audio.
        frame_s: time from one output frame to the next.
        streams: whether it needs only a bounded number of later frames.
    """

    name: str
    parameters: int
    macs_per_audio_s: float
    frame_s: float
    streams: bool


def summarize_zoo(tokens: int) -> list[Summary]:
    """Every model of the zoo with an output of `tokens`, the blank included, and the default features."""
    features = FeatureConfig()
    found = []
    for name in ZOO:
        network = to_network(build_model(name, tokens, features.bins))
        cost = account(network, 1000 / features.frame_shift_ms).total
        stride = int(np.prod([time_stride(layer) for layer in network]))
        frame_s = stride * features.frame_shift_ms / 1000
        found.append(Summary(name, cost.parameters, cost.macs_per_s, frame_s, is_streaming(network)))
    return found
