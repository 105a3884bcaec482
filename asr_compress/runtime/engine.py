"""Runs a network: whole utterances, batches, or streams with explicit state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from asr_compress.runtime import reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import instruction_set
from asr_compress.runtime.native_backend import NativeBackend
from asr_compress.runtime.network import Layer, Network, input_width, output_width
from asr_compress.runtime.reference import State
from asr_compress.runtime.stream import Lookahead, Stream, checked_frames

BACKENDS = ("auto", "native", "reference")
BACKEND_VARIABLE = "ASR_COMPRESS_BACKEND"


def native_instructions() -> str | None:
    """The kernels in use: "amx", "avx512", "avxvnni", "avx2", "neon" or "portable"; None without compiled ones."""
    return instruction_set()


class Backend(Protocol):
    """What computes. It is made for one network, and threads may share it."""

    name: str

    def run_batch(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole utterances, each float32 (frames, features) -> (frames', tokens)."""

    def run_layer(self, layer: Layer, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
        """A piece of one layer of the network, or of a direction of a layer; see `reference.run`."""


class ReferenceBackend:
    """The numpy reference."""

    name = "reference"

    def __init__(self, network: Network) -> None:
        self._network = network

    def run_batch(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole utterances, one after the other."""
        return [self._run(x) for x in batch]

    def run_layer(self, layer: Layer, x: np.ndarray, state: State, final: bool) -> tuple[np.ndarray, State]:
        """A piece of one layer."""
        return reference.run(layer, x, state, final)

    def _run(self, x: np.ndarray) -> np.ndarray:
        for layer in self._network:
            x, _ = reference.run(layer, x, reference.start(layer, x.shape[1]), True)
        return x


class Engine:
    """A network ready to run.

    Attributes:
        network: as given.
        features, tokens: widths of input and output frames.
        backend: "native" or "reference": what was chosen.
    """

    def __init__(self, network: Network, backend: str = "auto", threads: int = 1) -> None:
        """Prepare a network.

        Args:
            network: layers from features to logits.
            backend: "native" (compiled kernels), "reference" (numpy, slow), or "auto": what the environment
                variable ASR_COMPRESS_BACKEND says, else native where it was built, else reference.
            threads: how many cores one call may use; the reference leaves this to numpy.

        Raises:
            InputError: layers that do not fit each other, an unknown backend, or native where it is missing.
        """
        if threads < 1:
            raise InputError(f"threads is {threads}; it must be 1 or more")
        self.network = network
        self.features = input_width(network)
        self.tokens = output_width(network, self.features)
        self._backend = _make_backend(network, backend, threads)
        self.backend = self._backend.name

    def run(self, features: np.ndarray) -> np.ndarray:
        """Logits of a whole utterance: float32 (frames, features) -> (frames', tokens).

        Raises InputError for another shape, or values that are not finite.
        """
        return self.run_batch([features])[0]

    def run_batch(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Logits of utterances of any lengths; each equals what `run` gives for it alone.

        Raises InputError for another shape, or values that are not finite.
        """
        return self._backend.run_batch([checked_frames(x, self.features) for x in batch])

    def stream(self, chunk_frames: int | None = None, look_ahead_frames: int | None = None) -> Stream:
        """A new stream over this engine's weights; any number may run at once.

        A network without backward directions needs no arguments and gives exactly what `run` gives. One with
        them is run in overlapping pieces, which is an approximation: each piece of `chunk_frames` sees
        `look_ahead_frames` more and the exact past (latency-controlled bidirectional LSTM, Zhang et al. 2016,
        https://arxiv.org/abs/1510.08983). Both count input frames and are rounded up to whole output frames.

        Raises InputError if the network needs the arguments and they are missing, or the other way round.
        """
        lookahead = Lookahead.of(self.network, chunk_frames, look_ahead_frames)
        return Stream(self.network, self._backend.run_layer, lookahead)

    def resume(self, state: Mapping[str, np.ndarray]) -> Stream:
        """The stream whose `state()` was saved. Raises InputError if the state is not one of this network."""
        return Stream.from_state(self.network, self._backend.run_layer, state)


def _make_backend(network: Network, backend: str, threads: int) -> Backend:
    if backend == "auto":
        backend = os.environ.get(BACKEND_VARIABLE, "auto")
    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if backend == "reference" or (backend == "auto" and instruction_set() is None):
        return ReferenceBackend(network)
    return NativeBackend(network, threads)
