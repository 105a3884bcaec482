"""From text files to one ARPA file: what `asr-compress lm` does.

Everything is counted in memory with sorted arrays: a million words make a trigram model in about seven seconds of one
core, half of them gzip's. It is for tens of millions of words, not for billions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_compress.corpora.arpa import write_arpa
from asr_compress.corpora.kneser_ney import estimate
from asr_compress.corpora.mixture import fit_weights, mix
from asr_compress.corpora.ngram import SPECIAL, Perplexity, perplexity
from asr_compress.corpora.normalize import normalizer
from asr_compress.corpora.text_files import read_lines
from asr_compress.runtime.errors import InputError


@dataclass(frozen=True)
class LanguageModelReport:
    """What was built: n-grams by order, mixture weights by text, how it predicts a held-out text."""

    path: Path
    ngrams: tuple[int, ...]
    vocabulary: int
    weights: dict[str, float]
    held_out: Perplexity | None


def read_sentences(path: str | Path, normalize: str = "upper") -> list[list[str]]:
    """The sentences of a text file, one a line, as words; empty lines are left out.

    Raises:
        InputError: the file cannot be read, or a line cannot be normalized.
    """
    function = normalizer(normalize)
    sentences = []
    for number, line in enumerate(read_lines(Path(path)), start=1):
        try:
            words = function(line).split()
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        if words:
            sentences.append(words)
    return sentences


def build_language_model(
    texts: Sequence[str | Path],
    out: str | Path,
    *,
    order: int = 3,
    vocabulary: str | Path | None = None,
    cutoffs: Sequence[int] = (),
    weights: Sequence[float] | None = None,
    held_out: str | Path | None = None,
    normalize: str = "upper",
) -> LanguageModelReport:
    """Estimate a modified Kneser-Ney model from texts of one sentence a line and write it as ARPA.

    One text, or several with neither `weights` nor `held_out`, make one model of all the text. Several texts
    with `weights`, or with a `held_out` text to fit them on, make a model each over their common vocabulary,
    and these are mixed.

    Args:
        out: `.arpa` or `.arpa.gz`.
        vocabulary: file of words, one a line; the rest of a line is ignored, so a lexicon will do.
        cutoffs: see `kneser_ney.estimate`.
        held_out: text for the perplexity in the report. It must not be text that is scored for a result.

    Raises:
        InputError: a text, word list or number that is not as it must be.
    """
    if not texts:
        raise InputError("language model: no text given")
    parts = {str(path): read_sentences(path, normalize) for path in texts}
    for path, sentences in parts.items():
        if not sentences:
            raise InputError(f"{path}: no sentences")
    words = _vocabulary(vocabulary) if vocabulary else None
    check = read_sentences(held_out, normalize) if held_out else None
    if len(parts) > 1 and (weights is not None or check is not None):
        words = words or {word for part in parts.values() for line in part for word in line} - {*SPECIAL}
        models = [estimate(part, order, words, cutoffs) for part in parts.values()]
        weights = tuple(weights) if weights is not None else fit_weights(models, check or [])
        model = mix(models, weights)
    elif weights is not None:
        raise InputError(f"mixture weights {list(weights)}: there is one text; leave them out")
    else:
        pooled = [line for part in parts.values() for line in part]
        model = estimate(pooled, order, words, cutoffs)
    write_arpa(model, out)
    return LanguageModelReport(
        path=Path(out),
        ngrams=tuple(len(table.word) for table in model.tables),
        vocabulary=len(model.words) - len(SPECIAL),
        weights=dict(zip(parts, weights, strict=True)) if weights is not None else {},
        held_out=perplexity(model, check) if check else None,
    )


def _vocabulary(path: str | Path) -> set[str]:
    words = {line.split(maxsplit=1)[0] for line in read_lines(Path(path)) if line.strip()}
    if not words:
        raise InputError(f"{path}: no words")
    return words
