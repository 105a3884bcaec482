"""This engine against the others: one interleaved run, outputs compared before anything is timed.

    python -m benchmarks.engine --json benchmarks/engine.json
    python -m benchmarks.engine --seeds 1 2 3 --batches 1
    python -m benchmarks.engine --threads 2 --batches 1 16 --fixed-only
    python -m benchmarks.engine --checks-only
    asr-compress benchmark --suite engine --seeds 1 --seeds 2

Every engine takes one turn a round, in an order that rotates, with its threads pinned, for --rounds rounds and at least
two seconds. The table has the median and the ratio to the best peer: the median of the rounds' ratios, with the least
and the largest for this engine's formats. Peers far behind the best take one turn. A peer that cannot
run here is n/a, with the reason. Pruned variants are other models than the peers run: their ratios say what pruning
buys in speed, at whatever accuracy it costs. Without peers, in the same run: one core's roofline, time by number of
frames, two threads against one, and the shares of features, engine and decoding in a recognizer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_compress.evaluation.environment import environment
from asr_compress.evaluation.timing import ThreadPinning
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.files import atomic_write
from asr_compress.runtime.formats import Float32, Int8
from benchmarks import engine_checks, engine_roofline
from benchmarks.engine_checks import Length, Shares, Threads
from benchmarks.engine_peers import PEERS, torch_float32
from benchmarks.engine_roofline import Roofline, roofline
from benchmarks.engine_shapes import FEATURES, FIXED, VARIANTS, Shape, Variant, drawn, recognizer, to_network

FRAMES_PER_S = 100
OWN = "asr_compress"
Run = Callable[[np.ndarray], np.ndarray]
_WARM_UP_ROUNDS = 1
_LEAST_S = 2.0  # small shapes take more rounds, or a moment's disturbance would decide
_MOST_ROUNDS = 50
_FAR_BEHIND = 2.5  # peers so many times slower than the fastest one are timed once
_REST_S = 0.005  # peers' threads spin for a moment when they are done, on the core that the next one's want
_TRIES = 3  # before that is said of one
_COMPARED_FRAMES = 100  # outputs are compared on so many
# Relative difference to the float32 outputs, over all of them. Random weights are harder to quantize than trained ones.
_LIMITS = {"float32": 1e-3, "f32": 1e-3, "bf": 0.05, "int8": 0.2, "int4": 0.6}


@dataclass(frozen=True)
class Case:
    """One table: a shape, a batch, threads, frames an utterance."""

    shape: Shape
    batch: int
    threads: int
    frames: int
    drawn: bool = False  # from a seed

    @property
    def title(self) -> str:
        return f"{self.shape.name}, batch {self.batch}, {self.threads} thread(s), {self.frames} frames"


@dataclass(frozen=True)
class Timing:
    """One engine on one case. error: relative difference of its outputs to float32's."""

    name: str
    own: bool
    times_s: tuple[float, ...] = ()
    error: float = 0.0
    reason: str = ""  # why there are no times

    @property
    def median_s(self) -> float:
        return float(np.median(self.times_s))


Results = Sequence[tuple[Case, list[Timing]]]


def measure(case: Case, seed: int, rounds: int) -> list[Timing]:
    """All engines on one case, interleaved."""
    module = recognizer(case.shape, seed)
    x = np.random.default_rng(seed).normal(size=(case.batch, case.frames, FEATURES)).astype(np.float32)
    start = np.ascontiguousarray(x[:, :_COMPARED_FRAMES])
    engines, unavailable = {}, []
    for name, own, make in _engines(module, case.threads):
        try:
            run, reference = make()
            error = _difference(run(start), reference(start))
        except Exception as failure:
            unavailable.append(Timing(name, own, reason=" ".join(str(failure).split())[:120] or type(failure).__name__))
            continue
        limit = next(value for key, value in _LIMITS.items() if key in name)
        if not error < limit:
            unavailable.append(Timing(name, own, reason=f"its outputs differ from float32 by {error:.1%}"))
            continue
        engines[name] = (own, run, error)
    rest_s = _REST_S if case.threads > 1 else 0.0
    times = _interleave({name: run for name, (_, run, _) in engines.items()}, x, start, rounds, rest_s)
    timed = [Timing(name, own, tuple(times[name]), error) for name, (own, _, error) in engines.items()]
    return sorted(timed, key=lambda timing: timing.median_s) + unavailable


def _interleave(
    engines: dict[str, Run], x: np.ndarray, start: np.ndarray, rounds: int, rest_s: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each engine, one turn a round, the first left out.

    Peers that are far behind the best on `start` are timed once, having warmed up on `start` alone.
    """
    short = {name: min(_seconds(run, start) for _ in range(_TRIES)) for name, run in engines.items()}
    best = min((seconds for name, seconds in short.items() if not name.startswith(OWN)), default=float("inf"))
    close = [name for name in engines if name.startswith(OWN) or short[name] <= _FAR_BEHIND * best]
    times: dict[str, list[float]] = {name: [] for name in engines}
    turn, start_s = 0, time.perf_counter()
    while turn < _WARM_UP_ROUNDS + rounds or (turn < _MOST_ROUNDS and time.perf_counter() - start_s < _LEAST_S):
        names = list(engines) if turn == _WARM_UP_ROUNDS else close
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(rest_s)
            times[name].append(_seconds(engines[name], x))
        turn += 1
    return {name: taken[_WARM_UP_ROUNDS:] if name in close else taken for name, taken in times.items()}


def _seconds(run: Run, x: np.ndarray) -> float:
    begin = time.perf_counter()
    run(x)
    return time.perf_counter() - begin


def _engines(module: Any, threads: int) -> Iterator[tuple[str, bool, Callable[[], tuple[Run, Run]]]]:
    """Name, whether it is ours, and what makes (engine, the float32 model whose outputs it must give)."""
    exact = _once(torch_float32(module, threads))

    def peer(make: Callable[[Any, int], Run]) -> tuple[Run, Run]:
        return make(module, threads), exact

    def own(variant: Variant) -> tuple[Run, Run]:
        engine = Engine(to_network(module, variant.encode, Int8.encode), "native", threads)
        meant = exact
        if variant.meant is not Float32.encode:
            pruned = Engine(to_network(module, variant.meant, Float32.encode), "native", 1)
            meant = _batched(pruned)
        return _batched(engine), meant

    for name, make in PEERS.items():
        yield name, False, partial(peer, make)
    for variant in VARIANTS:
        yield f"{OWN} {variant.name}", True, partial(own, variant)


def _once(run: Run) -> Run:
    """The same answer for every engine, computed for the first."""
    answers: list[np.ndarray] = []

    def answer(x: np.ndarray) -> np.ndarray:
        if not answers:
            answers.append(run(x))
        return answers[0]

    return answer


def _batched(engine: Any) -> Run:
    return lambda x: np.stack(engine.run_batch(list(x)))


def _difference(y: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


def table(case: Case, timings: Sequence[Timing]) -> str:
    """Markdown."""
    audio_s = case.batch * case.frames / FRAMES_PER_S
    best = best_peer(timings)
    lines = [
        f"### {case.title}",
        "",
        "| engine | median ms | min | max | real-time factor | to the best peer | difference to float32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in timings:
        if not t.times_s:
            lines.append(f"| {t.name} | n/a: {t.reason} | | | | | |")
            continue
        median, low, high = (1000 * s for s in (t.median_s, min(t.times_s), max(t.times_s)))
        ratio = "" if best is None else _spread(ratios(best, t)) if t.own else f"{np.median(ratios(best, t)):.2f} x"
        factor = t.median_s / audio_s
        lines.append(f"| {t.name} | {median:.1f} | {low:.1f} | {high:.1f} | {factor:.5f} | {ratio} | {t.error:.2%} |")
    return "\n".join(lines) + "\n"


def best_peer(timings: Sequence[Timing]) -> Timing | None:
    """The fastest engine that is not ours; None where no peer could run."""
    return min((t for t in timings if t.times_s and not t.own), key=lambda t: t.median_s, default=None)


def ratios(peer: Timing, own: Timing) -> np.ndarray:
    """How many times as fast as the peer, round by round; one number where either was timed once."""
    if len(peer.times_s) != len(own.times_s):
        return np.array([peer.median_s / own.median_s])
    return np.array(peer.times_s) / np.array(own.times_s)


def _spread(values: np.ndarray) -> str:
    return f"**{np.median(values):.2f} x** ({values.min():.2f}-{values.max():.2f})"


def summary(results: Results) -> str:
    """Ratios of this engine's formats to the best peer: each fixed shape's, and the median of the drawn ones'.

    In parentheses the least and the largest: of the rounds of a fixed shape, of the shapes that were drawn.
    """
    shapes = list(dict.fromkeys(case.shape for case, _ in results if not case.drawn))
    lines = ["| batch | threads | format | " + "".join(f"{s.name} | " for s in shapes) + "drawn shapes, median |"]
    lines.append("|" + "---|" * (len(shapes) + 4))
    for batch, threads in sorted({(case.batch, case.threads) for case, _ in results}):
        here = [(c, t) for c, t in results if (c.batch, c.threads) == (batch, threads)]
        for variant in VARIANTS:
            found: dict[Shape | None, list[np.ndarray]] = {}
            for case, timings in here:
                best = best_peer(timings)
                own = next((t for t in timings if t.times_s and t.name == f"{OWN} {variant.name}"), None)
                if best and own:
                    found.setdefault(None if case.drawn else case.shape, []).append(ratios(best, own))
            cells = [_spread(np.concatenate(found[shape])) if shape in found else "n/a" for shape in shapes]
            cells.append(_spread(np.array([np.median(r) for r in found[None]])) if None in found else "n/a")
            lines.append(f"| {batch} | {threads} | {variant.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1], help="each draws six shapes")
    parser.add_argument("--fixed-only", action="store_true", help="only 5xLSTM-1024 and 5xBiLSTM-320")
    parser.add_argument("--shapes", type=Shape.named, nargs="+", help="in place of the fixed ones: 2xBiLSTM-32, say")
    parser.add_argument("--checks-only", action="store_true", help="no peers: roofline, length, threads, shares")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--frames", type=int, default=1000, help="frames of 10 ms for each fixed shape at batch 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all times there, and the tables beside it as .md")
    return parser.parse_args(argv)


def cases(arguments: argparse.Namespace) -> Iterator[tuple[Case, int]]:
    """What is measured, and the seed of its weights."""
    for threads in [] if arguments.checks_only else arguments.threads:
        for batch in arguments.batches:
            for shape in fixed(arguments):
                yield Case(shape, batch, threads, max(50, arguments.frames // (1 if batch == 1 else 3))), 0
            for seed in [] if arguments.fixed_only else arguments.seeds:
                lengths = np.random.default_rng(seed).permutation([50, 150, 300, 500, 1000, 3000])
                for shape, frames in zip(drawn(seed), lengths.tolist(), strict=True):
                    yield Case(shape, batch, threads, max(50, frames // batch), True), seed


def fixed(arguments: argparse.Namespace) -> tuple[Shape, ...]:
    """The shapes that no seed draws."""
    return tuple(arguments.shapes or FIXED)


def checks(shapes: Sequence[Shape], pinning: ThreadPinning) -> list[Length | Threads | Shares]:
    """What needs no peers. Two threads only where the process may use two cores."""
    found: list[Length | Threads | Shares] = []
    with pinning.threads(1):
        for shape in shapes:
            found += engine_checks.lengths(shape)
        found += map(engine_checks.shares, engine_checks.ZOO)
    if len(os.sched_getaffinity(0)) > 1:
        with pinning.threads(2):
            found += engine_checks.threads(shapes)
    return found


def main(argv: Sequence[str] | None = None, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the suite; show the tables and write them. Returns everything measured, as JSON values."""
    arguments = _arguments(argv)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(max(arguments.threads))
    warnings.filterwarnings("ignore")
    pinning = ThreadPinning()
    results: list[tuple[Case, list[Timing]]] = []
    shapes = fixed(arguments)
    with pinning.threads(1):
        roofs = [roofline(shape.hidden) for shape in shapes]
    checked = checks(shapes, pinning)
    command = "python -m benchmarks.engine " + " ".join(sys.argv[1:] if argv is None else argv)
    record: dict[str, Any] = {}
    for case, seed in cases(arguments):
        with pinning.threads(case.threads):
            assert torch.get_num_threads() == case.threads
            timings = measure(case, seed, arguments.rounds)
        results.append((case, timings))
        show(table(case, timings))
        record = written(arguments.json, command, pinning, roofs, checked, results)  # what an end too early leaves
    record = record or written(arguments.json, command, pinning, roofs, checked, results)
    show(report(command, record["environment"], roofs, checked, results).split("## Every case")[0])
    return record


def written(
    path: Path | None,
    command: str,
    pinning: ThreadPinning,
    roofs: Sequence[Roofline],
    checked: Sequence[Any],
    results: Results,
) -> dict[str, Any]:
    """Everything measured so far, as JSON values; also in `path` and as a page beside it, if there is one."""
    record: dict[str, Any] = {
        "command": command,
        "environment": environment(),
        "pinned": pinning.pinned,
        "roofline": [asdict(roof) for roof in roofs],
        "checks": [{"check": type(item).__name__.lower(), **asdict(item)} for item in checked],
        "cases": [{**asdict(case), "timings": [asdict(t) for t in timings]} for case, timings in results],
    }
    if path:
        for file, text in (
            (path, json.dumps(record, indent=1) + "\n"),
            (path.with_suffix(".md"), report(command, record["environment"], roofs, checked, results)),
        ):
            with atomic_write(file) as half:
                half.write_text(text)
    return record


def report(
    command: str, record: dict[str, Any], roofs: Sequence[Roofline], checked: Sequence[Any], results: Results
) -> str:
    """The whole page, in Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    lines = [
        "# The engine against others",
        "",
        f"`{command}`",
        "",
        f"{record['cpu']}, {record['cores']} cores, {', '.join(record['instruction_sets'])}; this engine with "
        f"{record['kernels']}; load {record['load']} when it ended; {packages}; "
        f"commit {record['commit']}, {record['date']}.",
        "",
        *(["## Ratio to the best peer", "", summary(results)] if results else []),
        "## One core's roofline",
        "",
        engine_roofline.markdown(roofs),
    ]
    lines += [engine_checks.markdown(checked), "## Every case", ""] + [
        table(case, timings) for case, timings in results
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
