"""What every engine looks like to the harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Unavailable(Exception):
    """This engine cannot run this model here; the message is the reason that stands beside the n/a."""


class Model(Protocol):
    """A network loaded into an engine."""

    def run(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """Features of utterances, each (frames, bins) float32 with at least one frame -> logits (frames', tokens).

        The result is on the host: a device has finished when this returns.
        """


def pad(batch: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """float32 (batch, frames, bins) with zeros past each utterance, and int64 lengths (batch,)."""
    lengths = np.array([len(x) for x in batch], np.int64)
    padded = np.zeros((len(batch), int(lengths.max()), batch[0].shape[1]), np.float32)
    for row, x in zip(padded, batch, strict=True):
        row[: len(x)] = x
    return padded, lengths


def cut(logits: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """(batch, frames', tokens) -> each utterance's own frames."""
    return [row[:length] for row, length in zip(logits, lengths, strict=True)]
