"""Words and how they are said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from asr_compress.runtime.errors import InputError

Pronunciation = tuple[str, ...]
# Text that `from_text` cannot object to: it is not parsed until a word is asked for.
_WELL_FORMED = re.compile(r"(?:\S++\t\S++(?: \S++)*+\n)*+")


@dataclass(frozen=True)
class Lexicon:
    """Each word's pronunciations, the usual one first. Training labels use the first; decoding tries all.

    The order of the words matters where a decoder has to choose among more homophones than it can hold:
    put frequent words first.

    Attributes:
        pronunciations: word -> its pronunciations, each a tuple of token symbols (phones as a rule).

    Raises:
        InputError: a word is empty or holds white space, has no pronunciation, or one without a symbol.
    """

    pronunciations: Mapping[str, tuple[Pronunciation, ...]]

    def __post_init__(self) -> None:
        if isinstance(self.pronunciations, _Written):
            return
        for word, variants in self.pronunciations.items():
            if not word or word.split() != [word]:
                raise InputError(f"lexicon: {word!r} is not a word: it is empty or holds white space")
            if not variants or not all(variants):
                raise InputError(f"lexicon: {word!r} has no pronunciation or an empty one; give it one or leave it out")

    def __getitem__(self, word: str) -> tuple[Pronunciation, ...]:
        return self.pronunciations[word]

    def __contains__(self, word: object) -> bool:
        return word in self.pronunciations

    def __iter__(self) -> Iterator[str]:
        return iter(self.pronunciations)

    def __len__(self) -> int:
        return len(self.pronunciations)

    def __bool__(self) -> bool:
        return bool(self.pronunciations)

    def phones_of(self, text: str) -> list[str]:
        """The phones of a transcript, by the first pronunciation of each of its words.

        Raises:
            InputError: names the words that the lexicon does not have.
        """
        words = text.split()
        missing = sorted({word for word in words if word not in self.pronunciations})
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise InputError(
                f"transcript: not in the lexicon of {len(self)} words: {', '.join(missing[:5])}{more}; "
                "build the lexicon from all transcripts, or normalize the text first"
            )
        return [phone for word in words for phone in self.pronunciations[word][0]]

    def restricted_to(self, words: Iterable[str]) -> Lexicon:
        """The lexicon of those of `words` that it has, in their order."""
        return Lexicon({word: self.pronunciations[word] for word in words if word in self.pronunciations})

    def to_text(self) -> str:
        """One line a pronunciation: the word, a tab, its symbols with spaces between."""
        if isinstance(self.pronunciations, _Written):
            return self.pronunciations.text
        return "".join(
            f"{word}\t{' '.join(variant)}\n" for word, variants in self.pronunciations.items() for variant in variants
        )

    @classmethod
    def from_text(cls, text: str, name: str = "lexicon") -> Lexicon:
        """Read what `to_text` wrote. `name` stands in error messages, a path for instance.

        Tens of thousands of words take a quarter of a second to parse. A recognizer that reads them compiled never
        needs that, so text that is in order is parsed when a word is first asked for.

        Raises:
            InputError: a line is not a word, a tab and symbols.
        """
        return cls(_Written(text) if _WELL_FORMED.fullmatch(text) else _parsed(text, name))


class _Written(Mapping[str, tuple[Pronunciation, ...]]):
    """The words of a well-formed text."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _words(self) -> dict[str, tuple[Pronunciation, ...]]:
        return _parsed(self.text, "lexicon")

    def __getitem__(self, word: str) -> tuple[Pronunciation, ...]:
        return self._words[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def __bool__(self) -> bool:
        return bool(self.text)


def _parsed(text: str, name: str) -> dict[str, tuple[Pronunciation, ...]]:
    pronunciations: dict[str, tuple[Pronunciation, ...]] = {}
    shared: dict[str, str] = {}  # a few dozen symbols fill the lexicon: keep one object of each
    for number, line in enumerate(text.splitlines(), start=1):
        word, tab, symbols = line.partition("\t")
        if not tab or not word or not symbols:
            raise InputError(f"{name}, line {number}: got {line!r}; write WORD, a tab, then symbols: WORD<tab>W ER D")
        variant = tuple([shared.setdefault(symbol, symbol) for symbol in symbols.split()])
        known = pronunciations.get(word)
        pronunciations[word] = (variant,) if known is None else (*known, variant)
    return pronunciations
