"""Fair timing: pinned threads, variants in turn, and numbers that say how much they vary."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

PERCENTILES = (50, 90, 99)
ENOUGH_FOR_P99 = 1000  # below it the 99th percentile is the worst ten or fewer, and says little


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of repeated measurements of one thing."""

    median: float
    minimum: float
    maximum: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError without values."""
        if not len(values):
            raise ValueError("a spread needs at least one measurement")
        return cls(float(np.median(values)), float(min(values)), float(max(values)), len(values))

    def inverse(self) -> Spread:
        """The spread of 1 / x for positive x: real-time factor to speed and back."""
        return Spread(1 / self.median, 1 / self.maximum, 1 / self.minimum, self.count)


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """p50 and p90 of latencies, and p99 from 1000 of them up."""
    wanted = [p for p in PERCENTILES if p < 99 or len(values) >= ENOUGH_FOR_P99]
    return {p: float(np.percentile(values, p)) for p in wanted} if len(values) else {}


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """The items from another start each turn, so that none always follows the same one or always comes first."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


class ThreadPinning:
    """Limits every thread pool in the process, and the process to as many cores.

    BLAS and OpenMP pools are limited through threadpoolctl where it is installed, torch through its own setting.
    Engines that are told their number of threads when they are built (ONNX Runtime, OpenVINO, the native one) are not
    touched. What was pinned is in `pinned`, for the record.
    """

    def __init__(self, pin_cores: bool = True) -> None:
        self.pin_cores = pin_cores and hasattr(os, "sched_setaffinity")
        self.pinned: list[str] = ["process to cores"] if self.pin_cores else []
        self._pools = _thread_pools()
        if self._pools is not None:
            self.pinned.append("BLAS and OpenMP pools")
        if "torch" in sys.modules:
            self.pinned.append("torch")

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Within this context, `count` threads and cores."""
        with ExitStack() as undo:
            if self.pin_cores:
                allowed = os.sched_getaffinity(0)
                undo.callback(os.sched_setaffinity, 0, allowed)
                os.sched_setaffinity(0, sorted(allowed)[:count])
            if self._pools is not None:
                undo.enter_context(self._pools.limit(limits=count))
            torch: Any = sys.modules.get("torch")
            if torch is not None:
                undo.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(count)
            yield


def _thread_pools() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
