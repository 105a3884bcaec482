"""Beam search by flashlight-text, where the extension with the package's own search was not built.

It takes hypotheses with the same words since the last few for different ones, so that it needs a beam several times
as wide for the same text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.decoding import Array, Hypothesis, Word, check_frames, hypothesis_of_labels
from asr_compress.runtime.decoding_config import DecodingConfig
from asr_compress.runtime.search_graph import SearchGraph
from asr_compress.runtime.tokens import Tokens

_LOG_10 = math.log(10)  # KenLM scores in log10, acoustic scores are natural logarithms
_NEVER = -1e4  # log probability of what cannot be; -inf would make differences of scores NaN
_SURE_BLANK = 0.99  # neighbors with a blank at least this probable are taken as one: a quarter less time


class FlashlightSearch:
    """A beam search in progress."""

    def __init__(self, tokens: Tokens, graph: SearchGraph, config: DecodingConfig, frame_s: float) -> None:
        self._tokens, self._graph, self._config, self._frame_s = tokens, graph, config, frame_s
        self._merger = _FrameMerger(_SURE_BLANK)
        self._pushed = [np.empty((0, len(tokens)), np.float32)]
        self._spans: list[tuple[int, int]] = []  # first frame and frame after the last, of each frame searched
        self._decoder = _flashlight_decoder(tokens, graph, config)
        self._decoder.decode_begin()

    def push(self, log_probs: Array) -> None:
        """See `Search.push`."""
        log_probs = check_frames(log_probs, self._tokens)
        self._pushed.append(log_probs)
        self._advance(*self._merger.push(self._config.scored(log_probs)))

    def partial(self) -> Hypothesis:
        """The best hypothesis so far. With a lexicon, of complete words only; see `Search.partial`."""
        if not self._spans:
            return Hypothesis("", (), 0.0, ())
        return self._hypothesis(self._decoder.get_best_hypothesis(0))

    def finish(self) -> Hypothesis:
        """See `Search.finish`."""
        self._advance(*self._merger.flush())
        if self._graph.trie is not None and self._graph.boundary < len(self._tokens):
            # Spellings end with the boundary token, utterances need not: a last frame gives it for free.
            last = np.full((1, len(self._tokens)), _NEVER, np.float32)
            last[0, [0, self._graph.boundary]] = 0
            end = self._spans[-1][1] if self._spans else 0
            self._advance(last, np.array([[end, end]]))
        if not self._spans:
            return Hypothesis("", (), 0.0, ())
        self._decoder.decode_end()
        return self._hypothesis(self._decoder.get_all_final_hypothesis()[0])

    def copy(self) -> FlashlightSearch:
        """See `Search.copy`. It searches again from the start, since flashlight's state cannot be copied."""
        twin = FlashlightSearch(self._tokens, self._graph, self._config, self._frame_s)
        twin.push(self.frames())
        return twin

    def frames(self) -> Array:
        """See `Search.frames`."""
        self._pushed = [np.concatenate(self._pushed)]
        return self._pushed[0]

    def _advance(self, frames: Array, spans: NDArray[np.intp]) -> None:
        if not len(frames):
            return
        if self._graph.boundary == len(self._tokens):
            # flashlight wants a token between words. The blank as such would fill the beam with twins.
            frames = np.pad(frames, ((0, 0), (0, 1)), constant_values=_NEVER)
        self._decoder.decode_step(frames.ctypes.data, *frames.shape)
        self._spans.extend((int(first), int(end)) for first, end in spans)

    def _hypothesis(self, result: Any) -> Hypothesis:
        # Entry 0 of the path is the state before the first frame; an entry after the last frame's closes the path.
        path = result.tokens[1 : len(self._spans) + 1]
        if self._graph.trie is None:
            return self._of_tokens(path, result.score)
        return self._of_words(path, result.words[1 : len(self._spans) + 1], result.score)

    def _of_tokens(self, path: list[int], score: float) -> Hypothesis:
        labels, spans = self._labels(path)
        return hypothesis_of_labels(labels, spans, self._tokens, score)

    def _of_words(self, path: list[int], labels: list[int], score: float) -> Hypothesis:
        words: list[Word] = []
        first = end = 0.0
        begun = False
        for token, label, span in zip(path, labels, self._spans, strict=False):
            if token not in (0, self._graph.boundary):
                if not begun:
                    first, begun = span[0] * self._frame_s, True
                end = span[1] * self._frame_s
            if label >= 0:
                words.append(Word(self._graph.words[label], first, end))
                begun = False
        text = " ".join(word.text for word in words)
        return Hypothesis(text, tuple(words), score, tuple(self._labels(path)[0]))

    def _labels(self, path: list[int]) -> tuple[list[int], list[list[float]]]:
        """Join repeats and drop blanks: labels, and start and end of each in seconds."""
        labels: list[int] = []
        spans: list[list[float]] = []
        previous = 0
        for token, (first, end) in zip(path, self._spans, strict=False):
            if token != 0 and token == previous:
                spans[-1][1] = end * self._frame_s
            elif token != 0:
                labels.append(token)
                spans.append([first * self._frame_s, end * self._frame_s])
            previous = token
        return labels, spans


class _FrameMerger:
    """Takes frames that say the same one after another as one frame, the most certain of them.

    flashlight's lexicon search leaves a word with its last token and cannot stay there: a word whose last token
    lasts two frames would pay for a blank in the second. Merging runs of one best token mends that, and
    loses nothing for the best path, since CTC joins repeats. Runs of sure blanks cost time and say nothing.
    See Chen et al., "Phone synchronous speech recognition with CTC lattices", 2017.
    """

    def __init__(self, sure_blank: float) -> None:
        self._sure_blank_log = math.log(sure_blank)
        self._open: tuple[Array, NDArray[np.intp]] | None = None  # the last run may go on: its frame and span
        self._given = False  # whether the open run's frame has been given out: a blank's is, at once
        self._count = 0

    def push(self, log_probs: Array) -> tuple[Array, NDArray[np.intp]]:
        """What is settled: frames (kept, tokens), and their spans (kept, 2): first frame and frame after the last."""
        starts = np.arange(self._count, self._count + len(log_probs))
        spans = np.stack([starts, starts + 1], axis=1)
        self._count += len(log_probs)
        if not len(log_probs):
            return log_probs, spans
        if self._open is not None:
            log_probs = np.concatenate([self._open[0], log_probs])
            spans = np.concatenate([self._open[1], spans])
        best, top = log_probs.argmax(axis=1), log_probs.max(axis=1)
        alone = (best == 0) & (top < self._sure_blank_log)  # an unsure blank may be somebody's weak token
        begins = np.ones(len(best), bool)
        begins[1:] = (best[1:] != best[:-1]) | alone[1:] | alone[:-1]
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(best)) - 1
        # Sorted by run, then by certainty: at a run's first place comes its most certain frame, of blanks the first.
        chosen = np.lexsort((-np.where(best == 0, 0, top), np.cumsum(begins)))[first]
        frames, spans = log_probs[chosen], np.stack([spans[first, 0], spans[last, 1]], axis=1)
        self._open = frames[-1:], spans[-1:]
        begin = 1 if self._given else 0
        self._given = bool(best[-1] == 0)
        end = len(frames) if self._given else len(frames) - 1
        return np.ascontiguousarray(frames[begin:end]), spans[begin:end]

    def flush(self) -> tuple[Array, NDArray[np.intp]]:
        """The last run, now that nothing follows."""
        if self._open is None or self._given:
            return np.empty((0, 0), np.float32), np.empty((0, 2), np.intp)
        frames, spans = self._open
        self._open = None
        return np.ascontiguousarray(frames), spans


def _flashlight_decoder(tokens: Tokens, graph: SearchGraph, config: DecodingConfig) -> Any:
    from flashlight.lib.text import decoder as flashlight

    common = {
        "beam_size": config.beam_width,
        "beam_size_token": config.beam_tokens,
        "beam_threshold": config.beam_threshold,
        "lm_weight": config.lm_weight * _LOG_10,
        "sil_score": 0.0,
        "log_add": False,  # paths, not sums over paths: a path has word times
        "criterion_type": flashlight.CriterionType.CTC,
    }
    if graph.trie is None:
        free = flashlight.LexiconFreeDecoderOptions(**common)
        return flashlight.LexiconFreeDecoder(free, graph.lm, graph.boundary, 0, [])
    options = flashlight.LexiconDecoderOptions(**common, word_score=config.word_score, unk_score=-math.inf)
    return flashlight.LexiconDecoder(options, graph.trie, graph.lm, graph.boundary, 0, -1, [], False)
