"""What one core of this machine can do, and how much of it the kernels use: measured in turn, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from asr_compress.runtime.extension import extension
from asr_compress.runtime.formats import Int8
from asr_compress.runtime.native_backend import NativeBackend
from asr_compress.runtime.network import Linear

_SLOT_S = 0.02  # each measurement runs about this long
_ROUNDS = 51  # a burst of a second from elsewhere must not decide
_INPUT_ROWS, _NEAR_WEIGHTS = 60, 1024 * 1024  # rows that the engine gives an input product; twice as many beyond
_NEAR_BYTES = 512 * 1024  # weights that the second-level cache surely holds


@dataclass(frozen=True)
class Fraction:
    """How much of what the machine can do, by rounds: another's work beside ours slows the one and not the other."""

    median: float
    low: float  # a tenth of the rounds lies below
    high: float  # and a tenth above

    @classmethod
    def of(cls, rounds: np.ndarray) -> Fraction:
        return cls(*(float(value) for value in np.quantile(rounds, (0.5, 0.1, 0.9))))

    def __str__(self) -> str:
        return f"{self.median:.0%} ({self.low:.0%}-{self.high:.0%})"


@dataclass(frozen=True)
class Roofline:
    """Of one layer size, one core.

    read_bytes_per_s: sums over as many bytes as the recurrent map has, again and again, so from the cache that holds
    them. recurrent_bytes_per_s: the recurrent product at batch 1, all that it reads and writes: weights, and for each
    row of them a scale, a correction, what is added and the sum. peak_macs_per_s: int8 multiply-accumulates on
    registers. loaded_macs_per_s: the same with weights that come from the second-level cache and activations that are
    nearer, nothing written: where loading is work of its own, as with AMX's tiles; None where it is not.
    vectors_macs_per_s: the peak on vector registers alone, AVX-512's, where tiles do the work; None elsewhere.
    input_macs_per_s: the input product over as many frames as the engine takes at once, 60 or 120. Quantization of the
    rows is no part of either; their packing side by side is. onednn_macs_per_s: the same product by oneDNN, as torch
    calls it, its weights packed before; None where torch has not got it.
    """

    hidden: int
    read_bytes_per_s: float
    recurrent_bytes_per_s: float
    peak_macs_per_s: float
    loaded_macs_per_s: float | None
    vectors_macs_per_s: float | None
    input_macs_per_s: float
    onednn_macs_per_s: float | None
    recurrent_fraction: Fraction
    input_fraction: Fraction
    input_of_loaded: Fraction | None
    input_of_vectors: Fraction | None


@dataclass(frozen=True)
class _Work:
    run: Callable[[int], object]  # so many times
    amount: float  # of bytes or multiply-accumulates, each time


def roofline(hidden: int) -> Roofline:
    """Of a dense int8 LSTM layer with as many inputs as units. Medians of interleaved rounds."""
    weights = np.random.default_rng(0).normal(size=(4 * hidden, hidden)).astype(np.float32)
    encoded = Int8.encode(weights)
    model = NativeBackend((Linear(encoded, np.zeros(4 * hidden, np.float32)),))
    native, chosen = extension(), model.instruction_set
    stored = np.ones(weights.size, np.int8)  # zeros would be one page of the system's, over and over
    near = stored[:_NEAR_BYTES]
    rows = _INPUT_ROWS if weights.size <= _NEAR_WEIGHTS else 2 * _INPUT_ROWS
    macs = weights.size * rows
    work = {
        "read": _Work(lambda repeats: native.probe_read(chosen, stored, repeats), weights.size),
        "recurrent": _Work(lambda repeats: model.probe_product(0, 1, repeats), weights.size + 16 * len(weights)),
        "peak": _Work(lambda n: native.probe_int8(chosen, 10_000 * n), native.probe_int8(chosen, 10_000)),
        "input": _Work(lambda repeats: model.probe_product(0, rows, repeats), macs),
    }
    if loaded := native.probe_loaded(chosen, near, 1):
        work["loaded"] = _Work(lambda repeats: native.probe_loaded(chosen, near, repeats), loaded)
    if chosen == "amx":
        work["vectors"] = _Work(lambda n: native.probe_int8("avx512", 10_000 * n), native.probe_int8("avx512", 10_000))
    if (other := _onednn_product(encoded, rows)) is not None:
        work["onednn"] = _Work(other, macs)
    repeats = {name: _repeats(item.run) for name, item in work.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_ROUNDS):
        for name, item in work.items():
            begin = time.perf_counter()
            item.run(repeats[name])
            times[name].append(time.perf_counter() - begin)
    rates = {name: item.amount * repeats[name] / np.array(times[name]) for name, item in work.items()}
    median = {name: float(np.median(values)) for name, values in rates.items()}
    return Roofline(
        hidden,
        median["read"],
        median["recurrent"],
        median["peak"],
        median.get("loaded"),
        median.get("vectors"),
        median["input"],
        median.get("onednn"),
        Fraction.of(rates["recurrent"] / rates["read"]),
        Fraction.of(rates["input"] / rates["peak"]),
        Fraction.of(rates["input"] / rates["loaded"]) if "loaded" in rates else None,
        Fraction.of(rates["input"] / rates["vectors"]) if "vectors" in rates else None,
    )


def _onednn_product(weights: Int8, rows: int) -> Callable[[int], object] | None:
    """The product as torch's compiler emits it for a quantized linear layer: bytes in, float32 out."""
    codes = np.random.default_rng(1).integers(0, 256, (rows, weights.codes.shape[1]), np.uint8)
    x, scales = torch.from_numpy(codes), torch.from_numpy(weights.scales.astype(np.float32))
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    try:
        packed = torch.ops.onednn.qlinear_prepack(torch.tensor(weights.codes), list(x.shape))

        def product() -> torch.Tensor:
            return torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 0, packed, scales, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
            )

        found = product().numpy()
    except (AttributeError, RuntimeError):
        return None
    wanted = (codes.astype(np.float32) @ weights.codes.astype(np.float32).T) * weights.scales
    if not np.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max())):
        return None
    return lambda repeats: [product() for _ in range(repeats)]


def _repeats(run: Callable[[int], object]) -> int:
    """How often to repeat for a slot; also the warm-up."""
    repeats = 1
    while True:
        begin = time.perf_counter()
        run(repeats)
        if time.perf_counter() - begin > _SLOT_S / 2:
            return repeats
        repeats *= 2


def markdown(roofs: Sequence[Roofline]) -> str:
    """A table of bytes and one of multiply-accumulates."""
    lines = [
        "In parentheses what a tenth of the rounds fell below, and what a tenth rose above. oneDNN: the same product, "
        "called through torch.",
        "",
        "| layer | reading its cache GB/s | recurrent product GB/s | of it |",
        "|---|---|---|---|",
    ]
    for roof in roofs:
        read, recurrent = roof.read_bytes_per_s / 1e9, roof.recurrent_bytes_per_s / 1e9
        lines.append(f"| H {roof.hidden} | {read:.1f} | {recurrent:.1f} | {roof.recurrent_fraction} |")
    lines += [
        "",
        "Int8, GOP/s: peaks of registers (vectors: those of AVX-512, where tiles do the work), the product, its share.",
        "",
        "| layer | peak | with loads | of vectors | input product | of peak | with loads | of vectors | oneDNN |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for roof in roofs:
        cells = (
            _giga(roof.peak_macs_per_s),
            _giga(roof.loaded_macs_per_s) or "the same",
            _giga(roof.vectors_macs_per_s) or "the same",
            _giga(roof.input_macs_per_s),
            str(roof.input_fraction),
            str(roof.input_of_loaded or "the same"),
            str(roof.input_of_vectors or "the same"),
            _giga(roof.onednn_macs_per_s) or "n/a",
        )
        lines.append(f"| H {roof.hidden} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _giga(macs_per_s: float | None) -> str:
    return "" if macs_per_s is None else f"{2 * macs_per_s / 1e9:.0f}"
