"""The package's own beam search, compiled: words of a lexicon, or tokens by themselves, with an n-gram model.

Paths that are at the same place of the prefix tree, in the same state of the language model, are one hypothesis, so
that the whole beam is of hypotheses that can still differ. See native/search.h. Where the extension was not built,
`available()` is false and flashlight searches (`runtime.flashlight_search`).
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_compress.runtime.decoding import Array, Hypothesis, Word, check_frames, hypothesis_of_labels
from asr_compress.runtime.decoding_config import DecodingConfig
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import SPACE, Tokens

try:
    from asr_compress.runtime import _native  # type: ignore[attr-defined]
except ImportError:
    _native = None

_KENLM = b"mmap lm http://kheafield.com/code"  # how KenLM's binary files begin
_NO_WORD = -1


def available() -> bool:
    """Whether the extension was built with the search."""
    return hasattr(_native, "WordGraph")


def reads(lm_path: str | Path | None) -> bool:
    """Whether this search can use a language model: not if it is a binary file of KenLM, which flashlight reads."""
    if lm_path is None or not Path(lm_path).is_file():
        return True
    with Path(lm_path).open("rb") as file:
        return file.read(len(_KENLM)) != _KENLM


@dataclass(frozen=True)
class WordGraph:
    """What is searched. Only read once built: decoders and threads share it.

    Attributes:
        words: the word of each label; empty where tokens follow one another freely.
        boundary: id of the token that stands between words; the number of tokens where there is none.
        native: prefix tree and language model, in the extension.
    """

    words: tuple[str, ...]
    boundary: int
    native: Any

    def start(self, tokens: Tokens, config: DecodingConfig, frame_s: float) -> WordSearch:
        """Begin an utterance."""
        word_score = config.word_score if self.words else 0.0
        search = _native.Search(
            self.native,
            config.beam_width,
            config.beam_tokens,
            config.beam_threshold,
            config.lm_weight,
            word_score,
        )
        return WordSearch(tokens, self, search, config, frame_s)


def build_word_graph(tokens: Tokens, lexicon: Lexicon | None, lm_path: str | Path | None) -> WordGraph:
    """Build the prefix tree and read the language model; half a second for 37,000 words and 1.2 million n-grams.

    The model is over words where there is a lexicon, over token symbols where there is none. A word that it
    does not know takes its `<unk>` probability.

    Raises:
        InputError: the language model is missing or no ARPA file; a pronunciation has a symbol that is no token.
    """
    symbols = tokens.symbols[1:]
    if lexicon is None:
        boundary = len(tokens)
        spelled = "\n".join(symbols).encode(), *_numbers(len(symbols))
    else:
        boundary = tokens.ids[SPACE] if tokens.kind == "char" else len(tokens)
        spelled = _spelled(tokens, lexicon)
    try:
        native = _native.WordGraph(
            len(tokens), boundary, *spelled, None if lm_path is None else _arpa_text(Path(lm_path))
        )
    except ValueError as error:
        if lm_path is None:
            raise
        raise InputError(f"{lm_path}: not an ARPA language model that can be read: {error}") from None
    words = () if lexicon is None else tuple(spelled[0].decode().split("\n"))
    return WordGraph(words, boundary, native)


def _numbers(words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each token but the blank as a word of its own: label of each, where it starts, what it is spelled with."""
    counted = np.arange(words + 1, dtype=np.uint32)
    return counted[:-1], counted, counted[1:]


def _spelled(tokens: Tokens, lexicon: Lexicon) -> tuple[bytes, np.ndarray, np.ndarray, np.ndarray]:
    """The words, a line each; of each pronunciation its word's label, where it starts, and all in token ids."""
    try:
        words, *numbers = _native.spell(lexicon.to_text().encode(), "\n".join(tokens.symbols).encode())
    except ValueError as error:
        raise InputError(str(error)) from None
    word_of, starts, spelled = (np.frombuffer(packed, np.uint32) for packed in numbers)
    return words, word_of, starts, spelled


def _arpa_text(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such language model; give an ARPA file (.arpa or .arpa.gz)")
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not an ARPA language model that can be read: {error}") from None


class WordSearch:
    """A search in progress. Its memory grows with the text found and the frames kept for `frames`, little else."""

    def __init__(self, tokens: Tokens, graph: WordGraph, search: Any, config: DecodingConfig, frame_s: float) -> None:
        self._tokens, self._graph, self._search, self._frame_s = tokens, graph, search, frame_s
        self._config = config
        self._pushed = [np.empty((0, len(tokens)), np.float32)]

    def push(self, log_probs: Array) -> None:
        """See `Search.push`."""
        log_probs = check_frames(log_probs, self._tokens)
        self._pushed.append(log_probs)
        self._search.push(self._config.scored(log_probs))

    def partial(self) -> Hypothesis:
        """The best hypothesis so far. With a lexicon, of complete words only; see `Search.partial`."""
        return self._hypothesis(*self._search.result(False))

    def finish(self) -> Hypothesis:
        """See `Search.finish`."""
        return self._hypothesis(*self._search.result(True))

    def copy(self) -> WordSearch:
        """See `Search.copy`. It takes microseconds: nothing is searched again."""
        twin = WordSearch(self._tokens, self._graph, self._search.copy(), self._config, self._frame_s)
        twin._pushed = list(self._pushed)
        return twin

    def frames(self) -> Array:
        """See `Search.frames`."""
        self._pushed = [np.concatenate(self._pushed)]
        return self._pushed[0]

    def _hypothesis(self, score: float, packed: bytes) -> Hypothesis:
        rows = np.frombuffer(packed, np.int32).reshape(-1, 4).tolist()  # token, word that ends with it, span
        labels = [token for token, *_ in rows]
        if not self._graph.words:
            spans_s = [(first * self._frame_s, end * self._frame_s) for _, _, first, end in rows]
            return hypothesis_of_labels(labels, spans_s, self._tokens, score)
        words: list[Word] = []
        first_s: float | None = None
        end_s = 0.0
        for token, word, first, end in rows:
            if token != self._graph.boundary:
                first_s = first * self._frame_s if first_s is None else first_s
                end_s = end * self._frame_s
            if word != _NO_WORD:
                words.append(Word(self._graph.words[word], end_s if first_s is None else first_s, end_s))
                first_s = None
        return Hypothesis(" ".join(word.text for word in words), tuple(words), score, tuple(labels))
