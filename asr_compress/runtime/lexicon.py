"""Words and how they are said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from asr_compress.runtime.errors import InputError

Pronunciation = tuple[str, ...]


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
        """One line a pronunciation: the word, a tab, its symbols with spaces between; variants one after another."""
        return "".join(
            f"{word}\t{' '.join(variant)}\n" for word, variants in self.pronunciations.items() for variant in variants
        )

    @classmethod
    def from_text(cls, text: str, name: str = "lexicon") -> Lexicon:
        """Read what `to_text` wrote. `name` stands in error messages, a path for instance.

        Raises:
            InputError: a line is not a word, a tab and symbols.
        """
        pronunciations: dict[str, tuple[Pronunciation, ...]] = {}
        shared: dict[str, str] = {}  # a few dozen symbols fill the lexicon: keep one object of each
        for number, line in enumerate(text.splitlines(), start=1):
            word, tab, symbols = line.partition("\t")
            if not tab or not word or not symbols:
                raise InputError(
                    f"{name}, line {number}: got {line!r}; write WORD, a tab, then symbols: WORD<tab>W ER D"
                )
            variant = tuple([shared.setdefault(symbol, symbol) for symbol in symbols.split()])
            known = pronunciations.get(word)
            pronunciations[word] = (variant,) if known is None else (*known, variant)
        return cls(pronunciations)
