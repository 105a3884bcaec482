"""Text normalizers: named functions that turn a transcript into what is trained on and scored.

A normalizer is named in every manifest and every result, because a word error rate means nothing without it.
Each is a pure function of one string, raises `InputError` for what it cannot turn into words, and is
idempotent: normalizing normalized text changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from asr_compress.runtime.errors import InputError

Normalizer = Callable[[str], str]

# What people type for an apostrophe: quotation marks, modifier letters, primes, accents standing alone.
_APOSTROPHES = re.compile("[\u2018\u2019\u201b\u02bc\u02b9\u02bb\u2032\u00b4\u0060\uff07]")
_PLAIN = re.compile("[A-Z' ]*")
_LONE_APOSTROPHE = re.compile(r"(?<![A-Z])'+(?![A-Z])")
_SPOKEN_SYMBOLS = "&%@#"  # punctuation to Unicode, words to a reader


def upper(text: str) -> str:
    """English in capitals: the letters A-Z, apostrophes that touch a letter, single spaces.

    Unicode NFKC, accents dropped, punctuation replaced by a space ("rifle-shot" is two words, "U.S." is
    "U S", as they are said). Digits and symbols that are read aloud (``& % @ # $ +``) are errors, not
    guesses: "1984" is said in several ways, and a wrong guess is a wrong reference.

    Raises:
        InputError: digits, spoken symbols, or letters outside A-Z.
    """
    return " ".join(_LONE_APOSTROPHE.sub(" ", text if _PLAIN.fullmatch(text) else _fold(text)).split())


def _fold(text: str) -> str:
    # The apostrophes first: NFKC would turn a lone acute accent into a space and a combining mark.
    folded = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", text))
    folded = unicodedata.normalize("NFKD", folded.upper())
    kept = []
    refused = []
    for character in folded:
        category = unicodedata.category(character)
        if "A" <= character <= "Z" or character == "'":
            kept.append(character)
        elif category.startswith("M") or category == "Cf":
            continue  # accents, zero-width joiners: part of the letter before
        elif character.isspace() or (category.startswith("P") and character not in _SPOKEN_SYMBOLS):
            kept.append(" ")
        else:
            refused.append(character)
    if refused:
        raise InputError(
            f"text {text!r}: {' '.join(sorted(set(refused)))!r} cannot be normalized by 'upper' "
            "(letters A-Z, apostrophes and punctuation only); write numbers and symbols as words"
        )
    return "".join(kept)


def spaces(text: str) -> str:
    """The text as it is, with single spaces: for other languages, or transcripts normalized before."""
    return " ".join(unicodedata.normalize("NFC", text).split())


NORMALIZERS: dict[str, Normalizer] = {"upper": upper, "spaces": spaces}


def normalizer(name: str) -> Normalizer:
    """The normalizer called `name`.

    Raises:
        InputError: no such normalizer.
    """
    if name not in NORMALIZERS:
        raise InputError(f"normalizer {name!r}: unknown; choose one of {', '.join(sorted(NORMALIZERS))}")
    return NORMALIZERS[name]
