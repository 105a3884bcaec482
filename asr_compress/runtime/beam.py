"""CTC prefix beam search, free or constrained by a lexicon, with an n-gram language model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from asr_compress.runtime import word_search
from asr_compress.runtime.decoding import Array, Hypothesis, Search
from asr_compress.runtime.decoding_config import DecodingConfig
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.flashlight_search import FlashlightSearch
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.search_graph import SearchGraph, build_search_graph
from asr_compress.runtime.tokens import Tokens
from asr_compress.runtime.word_search import WordGraph, build_word_graph

__all__ = ["BeamDecoder", "DecodingConfig"]

SearchName = Literal["auto", "native", "flashlight"]


class BeamDecoder:
    """Prefix beam search.

    With a lexicon its words alone are recognized, by their pronunciations in tokens, and the language model is
    over words. Without one, characters or pieces follow one another freely and the language model, if any, is
    over token symbols.

    Attributes:
        tokens: the model's token set.
        config: widths and weights.
        search: what searches: "native" or "flashlight".
    """

    def __init__(
        self,
        tokens: Tokens,
        lexicon: Lexicon | None = None,
        lm_path: str | Path | None = None,
        config: DecodingConfig | None = None,
        search: SearchName = "auto",
    ) -> None:
        """Load the language model and build the prefix tree of the lexicon; about a second for 30,000 words.

        Args:
            search: "auto" is the native one wherever it was built, except for KenLM's binary models.

        Raises:
            InputError: see `build_word_graph`; an empty lexicon; a native search that was not built.
        """
        if lexicon is not None and not lexicon:
            raise InputError("lexicon: it has no words; a search that it constrains could recognize nothing")
        if search == "native" and not word_search.available():
            raise InputError("the native search was not built; install asr-compress where there is a C++ compiler")
        native = search != "flashlight" and word_search.available() and word_search.reads(lm_path)
        build = build_word_graph if native or search == "native" else build_search_graph
        self.tokens = tokens
        self.config = config or DecodingConfig()
        self._graph: WordGraph | SearchGraph = build(tokens, lexicon, lm_path)

    @property
    def search(self) -> Literal["native", "flashlight"]:
        return "native" if isinstance(self._graph, WordGraph) else "flashlight"

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

    def start(self, frame_s: float) -> Search:
        """See `Decoder.start`."""
        if isinstance(self._graph, WordGraph):
            return self._graph.start(self.tokens, self.config, frame_s)
        return FlashlightSearch(self.tokens, self._graph, self.config, frame_s)
