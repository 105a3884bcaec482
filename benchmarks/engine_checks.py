"""What this engine owes by itself, without peers: cost linear in time, two threads against one, shares of a recognizer.

Random weights; a few rounds in turns, medians where one number stands alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread

import numpy as np

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.decoding import GreedyDecoder
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.extension import extension, instruction_set
from asr_compress.runtime.features import FeatureConfig, log_mel_numpy
from asr_compress.runtime.formats import Int8
from asr_compress.runtime.network import Network, replace_maps, walk
from asr_compress.runtime.recognizer import Recognizer
from asr_compress.runtime.tokens import Tokens
from benchmarks.engine_shapes import FEATURES, Shape, recognizer, to_network

LENGTHS = (100, 300, 1000, 3000)
THREAD_BATCHES = (1, 16)
ZOO = ("blstm-base", "lstm-base")
_AUDIO_S = 10
_ROUNDS = 9
_STAGES = ("features_s", "model_s", "decode_s")
_SHARES = ("features", "engine", "decoding")
_THREAD_FRAMES = 300
_THREAD_ROUNDS = 1 + 25  # the first is warm-up
_REGISTER_DOTS = 50_000_000
_TWO_CORES = 1.7
_SYMBOLS = ("<blank>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_THREADS = (
    "shape", "batch", "one ms", "two ms", "ratio (min-max)", "of registers alone",
    f"ratio where registers gain {_TWO_CORES}",
)  # fmt: skip
Timed = Callable[[], object]


@dataclass(frozen=True)
class Length:
    """Dense int8 at batch 1, one thread: seconds for so many frames."""

    shape: str
    frames: int
    seconds: float


@dataclass(frozen=True)
class Threads:
    """Dense int8 with one thread and with two, and what the machine allows; seconds of each round.

    registers_one_s, registers_two_s: multiply-accumulates that need no memory, on one core and shared by two. The two
    cores of a virtual machine can be two threads of one core of its host for a while: then a second one gains nothing.
    """

    shape: str
    batch: int
    one_s: tuple[float, ...]
    two_s: tuple[float, ...]
    registers_one_s: tuple[float, ...]
    registers_two_s: tuple[float, ...]

    @property
    def ratios(self) -> np.ndarray:
        return np.divide(self.one_s, self.two_s)

    @property
    def registers_ratios(self) -> np.ndarray:
        return np.divide(self.registers_one_s, self.registers_two_s)

    @property
    def ratios_with_two_cores(self) -> np.ndarray:
        """Of the rounds before and after which registers alone gained `_TWO_CORES` or more from the second core."""
        gained = self.registers_ratios >= _TWO_CORES
        return self.ratios[1:][gained[:-1] & gained[1:]]


@dataclass(frozen=True)
class Shares:
    """A zoo model, dense int8, from samples to greedy text, seconds of each stage for `audio_s`; features twice."""

    model: str
    audio_s: float
    features_s: float
    engine_s: float
    decoding_s: float
    features_numpy_s: float

    @property
    def total_s(self) -> float:
        return self.features_s + self.engine_s + self.decoding_s


def lengths(shape: Shape, frames: Sequence[int] = LENGTHS) -> list[Length]:
    """Time by number of frames."""
    engine = Engine(_network(shape), "native")
    inputs = {count: _frames(count) for count in frames}
    taken = _interleaved({str(count): partial(engine.run, x) for count, x in inputs.items()})
    return [Length(shape.name, count, taken[str(count)]) for count in frames]


def threads(shapes: Sequence[Shape], batches: Sequence[int] = THREAD_BATCHES) -> list[Threads]:
    """One thread against two; the process must have two cores to itself. All take turns: no case has a bad moment."""
    cases = [(shape, batch) for shape in shapes for batch in batches]
    found: dict[tuple[Shape, int], list[list[float]]] = {case: [] for case in cases}
    work = {case: _one_and_two(*case) for case in cases}
    for _ in range(_THREAD_ROUNDS):
        for case in cases:
            found[case].append([_seconds(run) for run in work[case]])
    return [Threads(shape.name, batch, *zip(*found[shape, batch][1:], strict=True)) for shape, batch in cases]


def _one_and_two(shape: Shape, batch: int) -> tuple[Timed, Timed, Timed, Timed]:
    """In the order of the times in `Threads`."""
    network = _network(shape)
    one, two = Engine(network, "native", 1), Engine(network, "native", 2)
    x = [_frames(_THREAD_FRAMES) for _ in range(batch)]
    return lambda: one.run_batch(x), lambda: two.run_batch(x), _registers_twice, _registers_on_two


def _seconds(run: Timed) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _registers() -> None:
    """Some 20 to 60 ms of multiply-accumulates on registers."""
    extension().probe_int8(instruction_set(), _REGISTER_DOTS)


def _registers_twice() -> None:
    _registers()
    _registers()


def _registers_on_two() -> None:
    other = Thread(target=_registers)
    other.start()
    _registers()
    other.join()


def shares(name: str) -> Shares:
    """Where a recognizer of the zoo spends its time on ten seconds of noise; torch makes the model, no more."""
    import torch

    from asr_compress.models.convert import to_network as convert
    from asr_compress.models.zoo import build_model

    torch.manual_seed(0)
    features, tokens = FeatureConfig(), Tokens("char", _SYMBOLS)
    network = convert(build_model(name, len(tokens), features.bins).eval())
    network = replace_maps(network, {path: Int8.encode(weights.dense()) for path, weights in walk(network)})
    made = Recognizer(Bundle(network, features, tokens), GreedyDecoder(tokens), "native")
    samples = np.random.default_rng(0).normal(0, 0.1, _AUDIO_S * features.sample_rate_hz).astype(np.float32)
    rounds, numpy_s = [], []
    for _ in range(1 + _ROUNDS):
        rounds.append(made.transcribe(samples).timings)
        begin = time.perf_counter()
        log_mel_numpy(samples, features)
        numpy_s.append(time.perf_counter() - begin)
    features_s, engine_s, decoding_s = (float(np.median([getattr(t, s) for t in rounds[1:]])) for s in _STAGES)
    return Shares(name, _AUDIO_S, features_s, engine_s, decoding_s, float(np.median(numpy_s[1:])))


def _network(shape: Shape) -> Network:
    return to_network(recognizer(shape, 0), Int8.encode, Int8.encode)


def _frames(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, FEATURES)).astype(np.float32)


def _interleaved(work: dict[str, Timed]) -> dict[str, float]:
    """Median seconds of each, in turns, the first turn left out."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(1 + _ROUNDS):
        for name, run in work.items():
            times[name].append(_seconds(run))
    return {name: float(np.median(taken[1:])) for name, taken in times.items()}


def markdown(found: Sequence[Length | Threads | Shares]) -> str:
    """The tables, as Markdown."""
    lengths = [
        (item.shape, item.frames, f"{1e3 * item.seconds:.1f}", f"{1e6 * item.seconds / item.frames:.1f}")
        for item in found
        if isinstance(item, Length)
    ]
    threads = [
        (
            item.shape,
            item.batch,
            *(f"{1e3 * float(np.median(taken)):.1f}" for taken in (item.one_s, item.two_s)),
            _spread(item.ratios),
            _spread(item.registers_ratios),
            f"{np.median(kept):.2f} ({len(kept)} rounds)" if len(kept := item.ratios_with_two_cores) else "n/a: none",
        )
        for item in found
        if isinstance(item, Threads)
    ]
    shares = [_shares_row(item) for item in found if isinstance(item, Shares)]
    one_core = "n/a: the process may use one core only"
    parts = [
        "## Time by length, dense int8, one thread",
        _table(("shape", "frames", "ms", "us a frame"), lengths),
        "## Two threads against one, dense int8",
        _table(_THREADS, threads) if threads else one_core,
        "## Shares of a recognizer, dense int8, one thread, greedy",
        _table(("model", "real-time factor", *_SHARES, "features x real time", "the same by numpy"), shares),
    ]
    return "\n\n".join(parts) + "\n"


def _spread(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f})"


def _shares_row(item: Shares) -> tuple[str, ...]:
    parts = [f"{part / item.total_s:.0%}" for part in (item.features_s, item.engine_s, item.decoding_s)]
    speeds = [f"{item.audio_s / seconds:.0f}" for seconds in (item.features_s, item.features_numpy_s)]
    return item.model, f"{item.total_s / item.audio_s:.5f}", *parts, *speeds


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
