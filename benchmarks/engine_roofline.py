"""What one core of this machine can do, and how much of it the kernels use: measured in turn, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asr_compress.runtime.extension import extension
from asr_compress.runtime.formats import Int8
from asr_compress.runtime.native_backend import NativeBackend
from asr_compress.runtime.network import Linear

_SLOT_S = 0.02  # each measurement runs about this long
_ROUNDS = 51  # a burst of a second from elsewhere must not decide
_INPUT_ROWS = 48  # rows that the engine gives an input product


@dataclass(frozen=True)
class Fraction:
    """How much of what the machine can do, by rounds: another's work beside ours slows the one and not the other."""

    median: float
    low: float  # a tenth of the rounds lies below
    high: float  # and a tenth above

    @classmethod
    def of(cls, rounds: np.ndarray) -> Fraction:
        return cls(*(float(value) for value in np.quantile(rounds, (0.5, 0.1, 0.9))))


@dataclass(frozen=True)
class Roofline:
    """Of one layer size, one core.

    read_bytes_per_s: sums over as many bytes as the recurrent map has, again and again, so from the cache that holds
    them. recurrent_bytes_per_s: the recurrent product at batch 1, all that it reads and writes: weights, and for each
    row of them a scale, a correction, what is added and the sum. peak_macs_per_s: int8 multiply-accumulates on
    registers. input_macs_per_s: the input product over 48 frames. Quantization of the rows is no part of either; their
    packing side by side is.
    """

    hidden: int
    read_bytes_per_s: float
    recurrent_bytes_per_s: float
    peak_macs_per_s: float
    input_macs_per_s: float
    recurrent_fraction: Fraction
    input_fraction: Fraction


def roofline(hidden: int) -> Roofline:
    """Of a dense int8 LSTM layer with as many inputs as units. Medians of interleaved rounds."""
    weights = np.random.default_rng(0).normal(size=(4 * hidden, hidden)).astype(np.float32)
    network = (Linear(Int8.encode(weights), np.zeros(4 * hidden, np.float32)),)
    model = NativeBackend(network)
    native, chosen = extension(), model.instruction_set
    stored = np.zeros(weights.size, np.int8)
    work: dict[str, tuple[Callable[[int], object], float]] = {
        "read": (lambda repeats: native.probe_read(chosen, stored, repeats), weights.size),
        "recurrent": (lambda repeats: model.probe_product(0, 1, repeats), weights.size + 16 * len(weights)),
        "peak": (lambda repeats: native.probe_int8(chosen, 10_000 * repeats), native.probe_int8(chosen, 10_000)),
        "input": (lambda repeats: model.probe_product(0, _INPUT_ROWS, repeats), weights.size * _INPUT_ROWS),
    }
    repeats = {name: _repeats(run) for name, (run, _) in work.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_ROUNDS):
        for name, (run, _) in work.items():
            begin = time.perf_counter()
            run(repeats[name])
            times[name].append(time.perf_counter() - begin)
    rates = {name: amount * repeats[name] / np.array(times[name]) for name, (_, amount) in work.items()}
    read, recurrent, peak, product = (float(np.median(rates[name])) for name in ("read", "recurrent", "peak", "input"))
    of_read, of_peak = Fraction.of(rates["recurrent"] / rates["read"]), Fraction.of(rates["input"] / rates["peak"])
    return Roofline(hidden, read, recurrent, peak, product, of_read, of_peak)


def _repeats(run: Callable[[int], object]) -> int:
    """How often to repeat for a slot; also the warm-up."""
    repeats = 1
    while True:
        begin = time.perf_counter()
        run(repeats)
        if time.perf_counter() - begin > _SLOT_S / 2:
            return repeats
        repeats *= 2
