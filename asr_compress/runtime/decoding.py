"""CTC posteriors -> text with word times, frame by frame and without a model of language.

CTC: Graves et al., "Connectionist temporal classification", ICML 2006. A path gives each frame a token; its
labels are the tokens that are left when repeats are joined and blanks (id 0) dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import SPACE, WORD_START, Tokens

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """A word and when the model heard it: the frames where its tokens peak, which may be shorter than the word."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Hypothesis:
    """What was said.

    Attributes:
        text: the words with spaces between; "" for silence.
        words: the words with their times, from the start of the utterance. Phones without a lexicon are a word each.
        score: log probability of the path, language model and word scores included.
        tokens: the labels, blanks and repeats removed.
    """

    text: str
    words: tuple[Word, ...]
    score: float
    tokens: tuple[int, ...]


class Search(Protocol):
    """A decoding in progress. Any division of the frames into pushes gives the same result."""

    def push(self, log_probs: Array) -> None:
        """Take the next frames, (frames, tokens) float32."""

    def partial(self) -> Hypothesis:
        """The best hypothesis so far; later frames can change it."""

    def finish(self) -> Hypothesis:
        """The result. No push may follow."""

    def copy(self) -> Self:
        """A search that goes on from here on its own."""

    def frames(self) -> Array:
        """All frames pushed: a new search that is given them is in the same state."""


class Decoder(Protocol):
    """Turns log probabilities into text; holds no state of an utterance, so one serves them all."""

    def decode(self, log_probs: Array, frame_s: float) -> Hypothesis:
        """A whole utterance, (frames, tokens) float32; frame_s is the time from one frame to the next."""

    def start(self, frame_s: float) -> Search:
        """Begin an utterance that comes in pieces."""


def log_softmax(logits: Array) -> Array:
    """Log probabilities of logits, (frames, tokens) float32; each row's probabilities sum to one."""
    shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def check_frames(log_probs: Array, tokens: Tokens) -> Array:
    """The frames as contiguous float32.

    Raises:
        ValueError: the shape is not (frames, len(tokens)).
        InputError: a value is not a number.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] != len(tokens):
        raise ValueError(f"log_probs have shape {log_probs.shape}; wanted (frames, {len(tokens)})")
    if np.isnan(log_probs).any():
        raise InputError("the model's output is not a number (NaN): its weights or its input are broken")
    return np.ascontiguousarray(log_probs, np.float32)


def greedy(log_probs: Array, tokens: Tokens, frame_s: float) -> Hypothesis:
    """The labels of the best path.

    Args:
        log_probs: (frames, tokens) float32.
        frame_s: time from one frame to the next.
    """
    log_probs = check_frames(log_probs, tokens)
    path = log_probs.argmax(axis=1)
    changes = np.flatnonzero(np.diff(path, prepend=-1))  # where runs of one token begin
    labels = path[changes]
    ends = np.append(changes[1:], len(path))
    spoken = labels != 0
    spans = np.stack([changes[spoken], ends[spoken]], axis=1) * frame_s
    score = float(log_probs.max(axis=1, initial=-np.inf).sum())
    return hypothesis_of_labels(labels[spoken].tolist(), spans.tolist(), tokens, score)


def hypothesis_of_labels(
    labels: Sequence[int], spans_s: Sequence[Sequence[float]], tokens: Tokens, score: float
) -> Hypothesis:
    """Join labels to words at the token set's word boundaries.

    Args:
        labels: token ids, blanks and repeats removed.
        spans_s: start and end of each label.
    """
    words: list[tuple[str, float, float]] = []
    apart = True  # the next label begins a word
    for label, (start_s, end_s) in zip(labels, spans_s, strict=True):
        symbol = tokens.symbols[label]
        if tokens.kind == "char" and symbol == SPACE:
            apart = True
            continue
        if tokens.kind == "phone" or (tokens.kind == "bpe" and symbol.startswith(WORD_START)):
            apart = True
            symbol = symbol.removeprefix(WORD_START)
        if apart or not words:
            words.append((symbol, start_s, end_s))
        else:
            text, first_s, _ = words[-1]
            words[-1] = (text + symbol, first_s, end_s)
        apart = False
    kept = tuple(Word(*word) for word in words if word[0])  # U+2581 can be a piece of its own, with nothing after it
    return Hypothesis(" ".join(word.text for word in kept), kept, score, tuple(labels))


@dataclass(frozen=True)
class GreedyDecoder:
    """Best path decoding: no search, no lexicon, no language model."""

    tokens: Tokens

    def decode(self, log_probs: Array, frame_s: float) -> Hypothesis:
        """See `Decoder.decode`."""
        return greedy(log_probs, self.tokens, frame_s)

    def start(self, frame_s: float) -> GreedySearch:
        """See `Decoder.start`."""
        return GreedySearch(self.tokens, frame_s)


class GreedySearch:
    """Best path decoding of frames that come in pieces."""

    def __init__(self, tokens: Tokens, frame_s: float) -> None:
        self._tokens, self._frame_s = tokens, frame_s
        self._pushed = [np.empty((0, len(tokens)), np.float32)]

    def push(self, log_probs: Array) -> None:
        """See `Search.push`."""
        self._pushed.append(check_frames(log_probs, self._tokens))

    def partial(self) -> Hypothesis:
        """See `Search.partial`."""
        return greedy(self.frames(), self._tokens, self._frame_s)

    def finish(self) -> Hypothesis:
        """See `Search.finish`."""
        return self.partial()

    def copy(self) -> GreedySearch:
        """See `Search.copy`."""
        twin = GreedySearch(self._tokens, self._frame_s)
        twin._pushed = [self.frames()]
        return twin

    def frames(self) -> Array:
        """See `Search.frames`."""
        self._pushed = [np.concatenate(self._pushed)]
        return self._pushed[0]
