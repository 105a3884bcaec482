"""CTC prefix beam search, free or constrained by a lexicon, with an n-gram language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.decoding import Array, Hypothesis, Word, check_frames, hypothesis_of_labels
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.search_graph import SearchGraph, build_search_graph
from asr_compress.runtime.tokens import Tokens

_LOG_10 = math.log(10)  # KenLM scores in log10, acoustic scores are natural logarithms
_NEVER = -1e4  # log probability of what cannot be; -inf would make differences of scores NaN


@dataclass(frozen=True)
class DecodingConfig:
    """Weights and widths of the search. The weights want tuning on a dev set; a bundle carries the tuned ones.

    Measured with 37,000 words, a trigram model and an early phone model (1.3 M parameters): widths 50, 100, 200, 300
    and 800 gave 76, 70, 67, 63 and 60 % WER on read English at 4, 9, 18, 24 and 69 ms a second of speech; 12 tokens
    gave what 20 and 40 did in half the time, and `sure_blank` 0.99 what 0.999 did in three quarters.

    Attributes:
        beam_width: hypotheses kept after each frame. A better model needs fewer.
        beam_threshold: how far below the best a hypothesis may be, natural log. The width bites first.
        beam_tokens: tokens considered at each frame, the most probable ones.
        lm_weight: weight of the language model's natural log probability. CTC is overconfident, so below one.
        word_score: added for each word; positive makes for more words. Tune it with lm_weight.
        sure_blank: frames with a blank at least this probable that follow one another are taken as one.

    Raises:
        InputError: a value out of range.
    """

    beam_width: int = 200
    beam_threshold: float = 20.0
    beam_tokens: int = 12
    lm_weight: float = 0.5
    word_score: float = 0.0
    sure_blank: float = 0.99

    def __post_init__(self) -> None:
        limits = {"beam_width": 1, "beam_tokens": 1, "beam_threshold": 0, "lm_weight": 0, "sure_blank": 0}
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"decoding: {name} is {value!r}; it must be a number")
            if value < limits.get(name, -math.inf):
                raise InputError(f"decoding: {name} is {value}; it must be at least {limits[name]}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read weights as a bundle carries them; what is not given keeps its default.

        Raises:
            InputError: an unknown key, or a value out of range.
        """
        allowed = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - allowed)
        if unknown:
            raise InputError(f"decoding: unknown {', '.join(unknown)}; allowed: {', '.join(sorted(allowed))}")
        return cls(**values)


class BeamDecoder:
    """Prefix beam search.

    With a lexicon its words alone are recognized, by their pronunciations in tokens, and the language model is
    over words. Without one, characters or pieces follow one another freely and the language model, if any, is
    over token symbols.

    Attributes:
        tokens: the model's token set.
        config: widths and weights.
    """

    def __init__(
        self,
        tokens: Tokens,
        lexicon: Lexicon | None = None,
        lm_path: str | Path | None = None,
        config: DecodingConfig | None = None,
    ) -> None:
        """Load the language model and build the prefix tree of the lexicon; about a second for 30,000 words.

        Raises:
            InputError: see `build_search_graph`; an empty lexicon.
        """
        if lexicon is not None and len(lexicon) == 0:
            raise InputError("lexicon: it has no words; a search that it constrains could recognize nothing")
        self.tokens = tokens
        self.config = config or DecodingConfig()
        self._graph = build_search_graph(tokens, lexicon, lm_path)

    def with_config(self, **changes: Any) -> BeamDecoder:
        """This decoder with other widths or weights. It shares the tree and the language model, so it costs nothing."""
        twin = object.__new__(BeamDecoder)
        twin.tokens, twin._graph = self.tokens, self._graph
        twin.config = replace(self.config, **changes)
        return twin

    def decode(self, log_probs: Array, frame_s: float) -> Hypothesis:
        """The best hypothesis for a whole utterance.

        Args:
            log_probs: (frames, tokens) float32.
            frame_s: time from one frame to the next.
        """
        search = self.start(frame_s)
        search.push(log_probs)
        return search.finish()

    def start(self, frame_s: float) -> BeamSearch:
        """See `Decoder.start`."""
        return BeamSearch(self.tokens, self._graph, self.config, frame_s)


class BeamSearch:
    """A beam search in progress."""

    def __init__(self, tokens: Tokens, graph: SearchGraph, config: DecodingConfig, frame_s: float) -> None:
        self._tokens, self._graph, self._config, self._frame_s = tokens, graph, config, frame_s
        self._merger = _FrameMerger(config.sure_blank)
        self._pushed = [np.empty((0, len(tokens)), np.float32)]
        self._spans: list[tuple[int, int]] = []  # first frame and frame after the last, of each frame searched
        self._decoder = _flashlight_decoder(tokens, graph, config)
        self._decoder.decode_begin()

    def push(self, log_probs: Array) -> None:
        """See `Search.push`."""
        log_probs = check_frames(log_probs, self._tokens)
        self._pushed.append(log_probs)
        self._advance(*self._merger.push(log_probs))

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

    def copy(self) -> BeamSearch:
        """See `Search.copy`. It searches again from the start, since flashlight's state cannot be copied."""
        twin = BeamSearch(self._tokens, self._graph, self._config, self._frame_s)
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
        self._sure_blank_log = math.log(sure_blank) if sure_blank > 0 else -math.inf
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
