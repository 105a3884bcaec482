"""Taking times on a device: marks between stages, and the seconds between two marks.

A GPU works behind the program's back, so a mark there is an event in its queue; the seconds between two events are
known once the device has passed both. On a CPU a mark is a reading of the clock. Code that times stages takes a
`Stopwatch` and is the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from asr_compress.runtime.errors import InputError

DEVICES = ("cpu", "cuda")


class Stopwatch(Protocol):
    """Marks points in time on one device."""

    def mark(self) -> Any:
        """This point, in the order of the device's work."""

    def seconds(self, start: Any, end: Any) -> float:
        """From one mark to a later one; waits until the device has passed both."""


class ClockStopwatch:
    """For devices that finish a call before they return from it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    def mark(self) -> float:
        """See `Stopwatch.mark`."""
        return self._clock()

    def seconds(self, start: float, end: float) -> float:
        """See `Stopwatch.seconds`."""
        return end - start


class EventStopwatch:
    """For devices with a queue: `event()` gives an object with `record`, `synchronize` and `elapsed_time` (in ms).

    Work of the host between two events counts too: an event is recorded when the host gets to it, and the copy of a
    result to the host waits for the queue.
    """

    def __init__(self, event: Callable[[], Any]) -> None:
        self._event = event

    def mark(self) -> Any:
        """See `Stopwatch.mark`."""
        event = self._event()
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """See `Stopwatch.seconds`."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def stopwatch(device: str) -> Stopwatch:
    """The stopwatch of a device.

    Raises:
        InputError: an unknown device, or one that this machine does not have.
    """
    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise InputError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if kind == "cpu":
        return ClockStopwatch()
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch sees no CUDA device on this machine")
    return EventStopwatch(lambda: torch.cuda.Event(enable_timing=True))
