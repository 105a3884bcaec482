"""Engines that take a known time or fail on purpose."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from asr_compress.evaluation.backends import Backend, Unavailable
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine


class Quick:
    """Says something of every utterance in no time: a fixed random map of its frames."""

    def __init__(self, bundle: Bundle) -> None:
        seed = sum(bundle.network[-1].bias.tobytes())
        shape = (bundle.features.bins, len(bundle.tokens))
        self.map = np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [(x[::2] - x.mean(axis=0)) @ self.map for x in batch]


def quick(model: type[Quick] = Quick, **options) -> Backend:
    return Backend(lambda bundle, device, threads: model(bundle), **options)


class Sleeper:
    """Sleeps for `rtf` times the audio's duration."""

    def __init__(self, bundle: Bundle, rtf: float) -> None:
        self.rtf, self.shift_s = rtf, bundle.features.frame_shift_ms / 1000
        self.quick = Quick(bundle)
        self.calls_s: list[float] = []

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        started = time.perf_counter()
        time.sleep(self.rtf * self.shift_s * sum(len(x) for x in batch))
        logits = self.quick.run(batch)
        self.calls_s.append(time.perf_counter() - started)
        return logits


def sleeper(rtf: float, made: list[Sleeper]) -> Backend:
    """An engine of a known real-time factor; its models are appended to `made`."""

    def load(bundle: Bundle, device: str, threads: int) -> Sleeper:
        made.append(Sleeper(bundle, rtf))
        return made[-1]

    return Backend(load)


class Failing:
    """Fails on every utterance longer than `frames`."""

    def __init__(self, bundle: Bundle, frames: int) -> None:
        self.quick, self.frames = Quick(bundle), frames

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        if any(len(x) > self.frames for x in batch):
            raise RuntimeError("out of memory")
        return self.quick.run(batch)


def failing(frames: int) -> Backend:
    return Backend(lambda bundle, device, threads: Failing(bundle, frames))


def missing(reason: str) -> Backend:
    def load(bundle: Bundle, device: str, threads: int) -> Sleeper:
        raise Unavailable(reason)

    return Backend(load)


class Wrong:
    """Gives logits that have nothing to do with the network."""

    def __init__(self, bundle: Bundle) -> None:
        self.engine = Engine(bundle.network, "reference")

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [-logits for logits in self.engine.run_batch(batch)]


def wrong() -> Backend:
    return Backend(lambda bundle, device, threads: Wrong(bundle), exact=True)
