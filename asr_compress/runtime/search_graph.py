"""What a beam search walks on: the words as a prefix tree of tokens, and an n-gram language model.

Built once for a token set, lexicon and language model; searches share it. flashlight-text (Kahn et al. 2022)
does the search, KenLM (Heafield 2011) the language model.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon, Pronunciation
from asr_compress.runtime.tokens import SPACE, Tokens

MOST_HOMOPHONES = 6  # a node of flashlight's prefix tree holds no more words
_NO_WORD = "\v"  # white space is in no vocabulary: its score is that of an unknown word


@dataclass(frozen=True)
class SearchGraph:
    """A prefix tree and a language model in flashlight's objects.

    Attributes:
        words: the word of each label; empty where the search is free of a lexicon.
        trie: prefix tree over token ids with each word's unigram score spread to its prefixes; None without lexicon.
        lm: scores words (tokens, where there is no lexicon), log10.
        boundary: id of the token that stands between words; one past the last id where the token set has none.
    """

    words: tuple[str, ...]
    trie: Any
    lm: Any
    boundary: int


def build_search_graph(tokens: Tokens, lexicon: Lexicon | None, lm_path: str | Path | None) -> SearchGraph:
    """Load the language model and build the prefix tree.

    The model is over words where there is a lexicon, over token symbols where there is none. A word that it
    does not know takes its `<unk>` probability.

    Raises:
        InputError: the language model is missing or no ARPA or KenLM file; a pronunciation has a symbol that is
            no token.
    """
    boundary = tokens.ids[SPACE] if tokens.kind == "char" else len(tokens)
    scored = tokens.symbols if lexicon is None else tuple(lexicon)
    lm = _language_model(scored, lm_path)
    trie = None
    if lexicon is not None:
        known = _unigram_scores(lm, len(lexicon)) if lm_path else ([0.0] * len(lexicon), [True] * len(lexicon))
        trie = _prefix_tree(tokens, lexicon, *known)
    return SearchGraph(() if lexicon is None else scored, trie, lm, boundary)


def words_of_model(path: str | Path) -> tuple[str, ...]:
    """The vocabulary of an ARPA file, plain or gzip-compressed, without `<s>`, `</s>` and `<unk>`.

    Raises:
        InputError: the file is missing or has no unigrams as ARPA files do.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such language model; give an ARPA file (.arpa or .arpa.gz)")
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    words: list[str] = []
    try:
        with gzip.open(path, "rt") if compressed else path.open() as file:
            for line in file:
                if line.startswith("\\1-grams:"):
                    break
            for line in file:
                if line.startswith("\\"):
                    break
                words.extend(line.split()[1:2])
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not an ARPA language model: {error}") from None
    if not words:
        raise InputError(f"{path}: not an ARPA language model: it lists no unigrams; give .arpa or .arpa.gz")
    return tuple(word for word in words if word not in ("<s>", "</s>", "<unk>"))


def _language_model(words: tuple[str, ...], path: str | Path | None) -> Any:
    if path is None:
        from flashlight.lib.text.decoder import ZeroLM

        return ZeroLM()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    if not Path(path).is_file():
        raise InputError(f"{path}: no such language model; give an ARPA file (.arpa or .arpa.gz)")
    dictionary = Dictionary()
    for word in (*words, _NO_WORD):
        dictionary.add_entry(word)
    try:
        with _quiet_stderr():
            return KenLM(str(path), dictionary)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("Exception. ")[2]  # before it, where in KenLM's source
        raise InputError(f"{path}: not a language model that can be read (.arpa, .arpa.gz): {reason[:200]}") from None


def _prefix_tree(tokens: Tokens, lexicon: Lexicon, scores: list[float], unknown: list[bool]) -> Any:
    """The trie, its nodes scored with the best word below, so that the beam knows early what the model will say."""
    from flashlight.lib.text.decoder import SmearingMode, Trie

    labels_of: dict[Pronunciation, list[int]] = {}
    for label, word in enumerate(lexicon):
        for variant in lexicon[word]:
            labels = labels_of.setdefault(variant, [])
            if label not in labels[-1:]:
                labels.append(label)
    trie = Trie(len(tokens), -1)
    ids = tokens.ids
    for variant, labels in labels_of.items():
        try:
            spelled = [ids[symbol] for symbol in variant]
        except KeyError as error:
            word = list(lexicon)[labels[0]]
            raise InputError(f"lexicon: {word} is said with {error}, which is no token of the model") from None
        for label in _rivals(labels, scores, unknown):
            trie.insert(spelled, label, scores[label])
    trie.smear(SmearingMode.MAX)
    return trie


def _unigram_scores(lm: Any, words: int) -> tuple[list[float], list[bool]]:
    """Each word's score in no context, and whether it is one that the model does not know."""
    at_start, anywhere = lm.start(False), lm.start(True)
    scores = [lm.score(anywhere, label)[1] for label in range(words)]
    unknown = (lm.score(anywhere, words)[1], lm.score(at_start, words)[1])
    return scores, [
        score == unknown[0] and lm.score(at_start, label)[1] == unknown[1] for label, score in enumerate(scores)
    ]


def _rivals(labels: list[int], scores: list[float], unknown: list[bool]) -> list[int]:
    """Which of the words that sound alike to keep.

    Of those that the model scores alike, because it does not know them, only the first: nothing else could choose
    between them but the order of addresses in memory, and the text would change from run to run.
    """
    strangers = [label for label in labels if unknown[label]]
    rivals = [label for label in labels if not unknown[label]] + strangers[:1]
    return sorted(rivals, key=lambda label: -scores[label])[:MOST_HOMOPHONES]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep what native code writes to standard error from the terminal: KenLM draws a progress bar there."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
