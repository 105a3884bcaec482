"""Streams: a network run piece by piece, with all of its state in the open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from asr_compress.runtime import reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import (
    Bidirectional,
    Conv,
    FrameStack,
    Layer,
    LSTMLayer,
    Network,
    input_width,
    is_streaming,
    output_width,
    time_stride,
)
from asr_compress.runtime.reference import State

RunLayer = Callable[[Layer, np.ndarray, State, bool], tuple[np.ndarray, State]]


def checked_frames(x: np.ndarray, features: int) -> np.ndarray:
    """x as contiguous float32 (frames, features). Raises InputError for any other."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != features:
        raise InputError(f"features have shape {x.shape}; this network takes (frames, {features})")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise InputError("features contain NaN or infinity; check the audio they were made of")
    return x


@dataclass(frozen=True)
class Lookahead:
    """How a network with backward directions is cut into pieces.

    Attributes:
        first: the first layer that reads backwards. Those before it stream by themselves.
        chunk: frames a piece, counted at that layer.
        ahead: further frames that a piece sees, counted likewise.
    """

    first: int
    chunk: int
    ahead: int

    @classmethod
    def of(cls, network: Network, chunk_frames: int | None, look_ahead_frames: int | None) -> Self | None:
        """From counts of input frames, rounded up; None for a network that streams by itself.

        Raises InputError as `Engine.stream` states.
        """
        if is_streaming(network):
            if chunk_frames is not None or look_ahead_frames is not None:
                raise InputError("this network streams exactly; leave chunk_frames and look_ahead_frames out")
            return None
        if chunk_frames is None or look_ahead_frames is None:
            raise InputError(
                "this network reads backwards; state chunk_frames and look_ahead_frames to stream it "
                "approximately, or run whole utterances"
            )
        if chunk_frames < 1 or look_ahead_frames < 0:
            raise InputError(
                f"chunk_frames is {chunk_frames}, look_ahead_frames {look_ahead_frames}; "
                "they must be 1 or more, and 0 or more"
            )
        first = next(i for i in range(len(network)) if not is_streaming(network[i : i + 1]))
        for index, layer in enumerate(network[first:], first):
            if isinstance(layer, (FrameStack, Conv)):
                raise InputError(
                    f"layer {index} ({type(layer).__name__}) looks across frames after a layer that reads "
                    "backwards; such a network cannot be streamed"
                )
        stride = _stride(network[:first])
        return cls(first, -(-chunk_frames // stride), -(-look_ahead_frames // stride))


class Stream:
    """One utterance in pieces. Made by `Engine.stream` and `Engine.resume`; not to be shared by threads.

    Attributes:
        latency_frames: an output whose first input frame is number n is given at the latest when frame
            n + latency_frames has come.
    """

    def __init__(self, network: Network, run_layer: RunLayer, lookahead: Lookahead | None) -> None:
        self._network = network
        self._run_layer = run_layer
        self._lookahead = lookahead
        self._features = input_width(network)
        self._streaming = network if lookahead is None else network[: lookahead.first]
        self._states: dict[str, State] = {}
        self._finished = False
        width = self._features
        for index, layer in enumerate(network):
            for name, part in _stateful_parts(str(index), layer):
                self._states[name] = reference.start(part, width)
            width = layer.width(width)
        if lookahead is not None:
            pending = np.zeros((0, output_width(self._streaming, self._features)), np.float32)
            self._states["lookahead"] = {
                "pending": pending,
                "chunk": np.array(lookahead.chunk, np.int64),
                "ahead": np.array(lookahead.ahead, np.int64),
            }

    @property
    def latency_frames(self) -> int:
        stride, latency = 1, 0
        for layer in self._streaming:
            latency += stride * _frames_ahead(layer)
            stride *= time_stride(layer)
        if self._lookahead is not None:
            latency += stride * (self._lookahead.chunk + self._lookahead.ahead - 1)
        return latency

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Take the next float32 (frames, features), any number; give the logits now known, (frames', tokens).

        Raises InputError for another shape, non-finite values, or a stream that was finished.
        """
        return self._advance(checked_frames(frames, self._features), final=False)

    def finish(self) -> np.ndarray:
        """End the utterance; give the logits that are left, float32 (frames', tokens)."""
        y = self._advance(np.zeros((0, self._features), np.float32), final=True)
        self._finished = True
        return y

    def copy(self) -> Stream:
        """A stream that goes on from here by itself."""
        twin = Stream(self._network, self._run_layer, self._lookahead)
        # States are replaced, never changed in place, so they can be shared.
        twin._states, twin._finished = dict(self._states), self._finished
        return twin

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `Engine.resume` needs, as arrays by name: the caller saves them as it likes.

        Raises InputError once the stream is finished.
        """
        self._check_open()
        return {f"{name}.{key}": array for name, state in self._states.items() for key, array in state.items()}

    @classmethod
    def from_state(cls, network: Network, run_layer: RunLayer, state: Mapping[str, np.ndarray]) -> Stream:
        """As `Engine.resume`."""
        lookahead = None
        if not is_streaming(network):
            if not {"lookahead.chunk", "lookahead.ahead"} <= set(state):
                raise InputError("stream state has no look-ahead; it is not of this network")
            first = next(i for i in range(len(network)) if not is_streaming(network[i : i + 1]))
            chunk, ahead = (int(state[f"lookahead.{name}"]) for name in ("chunk", "ahead"))
            lookahead = Lookahead(first, max(1, chunk), max(0, ahead))
        stream = cls(network, run_layer, lookahead)
        _check_state(state, stream.state())
        for name, part in stream._states.items():
            stream._states[name] = {key: np.array(state[f"{name}.{key}"]) for key in part}
        return stream

    def _check_open(self) -> None:
        if self._finished:
            raise InputError("this stream was finished; start another")

    def _advance(self, x: np.ndarray, final: bool) -> np.ndarray:
        self._check_open()
        for index, layer in enumerate(self._streaming):
            x, state = self._run_layer(layer, x, self._states.get(str(index), {}), final)
            if str(index) in self._states:
                self._states[str(index)] = state
        return x if self._lookahead is None else self._advance_pieces(self._lookahead, x, final)

    def _advance_pieces(self, lookahead: Lookahead, x: np.ndarray, final: bool) -> np.ndarray:
        pending = np.concatenate([self._states["lookahead"]["pending"], x])
        outputs = [np.zeros((0, output_width(self._network, self._features)), np.float32)]
        size = lookahead.chunk + lookahead.ahead
        while len(pending) >= size:
            outputs.append(self._run_piece(lookahead, pending[:size], lookahead.chunk))
            pending = pending[lookahead.chunk :]
        if final and len(pending):
            # No later frames can come: what is left is one piece, and its look-ahead is its own end.
            outputs.append(self._run_piece(lookahead, pending, len(pending)))
            pending = pending[:0]
        self._states["lookahead"] = {**self._states["lookahead"], "pending": pending.copy()}
        return np.concatenate(outputs)

    def _run_piece(self, lookahead: Lookahead, x: np.ndarray, kept: int) -> np.ndarray:
        """Logits of the first `kept` frames of a piece; the rest is only looked at."""
        for index, layer in enumerate(self._network[lookahead.first :], lookahead.first):
            if isinstance(layer, Bidirectional):
                forward = self._run_forward(f"{index}.forward", layer.forward, x, kept)
                x = np.concatenate([forward, self._run_whole(layer.backward, x)], axis=1)
            elif isinstance(layer, LSTMLayer) and not layer.reverse:
                x = self._run_forward(str(index), layer, x, kept)
            else:
                x = self._run_whole(layer, x)
        return x[:kept]

    def _run_forward(self, name: str, layer: LSTMLayer, x: np.ndarray, kept: int) -> np.ndarray:
        y, state = self._run_layer(layer, x[:kept], self._states[name], False)
        self._states[name] = state
        return np.concatenate([y, self._run_layer(layer, x[kept:], state, True)[0]])

    def _run_whole(self, layer: Layer, x: np.ndarray) -> np.ndarray:
        return self._run_layer(layer, x, reference.start(layer, x.shape[1]), True)[0]


def _stateful_parts(name: str, layer: Layer) -> list[tuple[str, Layer]]:
    """The parts of a layer whose state lives from one piece to the next."""
    if isinstance(layer, Bidirectional):
        return [(f"{name}.forward", layer.forward)]
    stateful = isinstance(layer, (FrameStack, Conv)) or (isinstance(layer, LSTMLayer) and not layer.reverse)
    return [(name, layer)] if stateful else []


def _stride(network: Network) -> int:
    return int(np.prod([time_stride(layer) for layer in network], dtype=np.int64))


def _frames_ahead(layer: Layer) -> int:
    """How many frames after the first of its stride a layer's output needs."""
    if isinstance(layer, FrameStack):
        return layer.stack - 1
    if isinstance(layer, Conv):
        return layer.dilation[0] * (layer.kernel[0] - 1) - layer.padding[0]
    return 0


def _check_state(state: Mapping[str, np.ndarray], fresh: Mapping[str, np.ndarray]) -> None:
    if set(state) != set(fresh):
        wrong = sorted(set(state) ^ set(fresh))
        raise InputError(f"stream state is not of this network: {', '.join(wrong[:5])} missing or unknown")
    for name, array in fresh.items():
        got = np.asarray(state[name])
        # The number of frames that wait varies; all else is fixed by the network.
        waiting = name.endswith((".frames", ".pending"))
        fits = got.ndim == array.ndim and got.shape[waiting:] == array.shape[waiting:]
        if got.dtype != array.dtype or not fits or not np.isfinite(got).all():
            raise InputError(f"stream state {name} is {got.dtype} {got.shape}; it must be like {array.shape}, finite")
