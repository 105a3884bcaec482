"""The labels of a CTC model: text to ids and back. Id 0 is the blank, always."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon

BLANK = "<blank>"
SPACE = "|"  # the word boundary among characters
WORD_START = "\u2581"  # sentencepiece's mark before the first piece of a word
ENGLISH_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
# The phones of CMUdict without stress: stress is hard to hear and rarely tells words apart.
# fmt: off
ARPABET = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH",
    "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on

Kind = Literal["char", "bpe", "phone"]


@dataclass(frozen=True)
class Tokens:
    """A token set.

    "char": text is A-Z and so on with `|` between words. "bpe": sentencepiece BPE pieces, a word's first begins
    with U+2581. "phone": phones, with no symbol between words: a lexicon leads from words to phones, and a
    decoder with that lexicon back.

    Attributes:
        kind: "char", "bpe" or "phone".
        symbols: what each id stands for; symbols[0] is "<blank>".
        scores: "bpe" only: the merge priority of each symbol, higher merges first; 0 for the blank.

    Raises:
        InputError: no blank first, a symbol twice, an unknown kind, scores of another length.
    """

    kind: Kind
    symbols: tuple[str, ...]
    scores: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"tokens: kind is {self.kind!r}; allowed: {', '.join(get_args(Kind))}")
        if len(self.symbols) < 2 or self.symbols[0] != BLANK:
            raise InputError(f"tokens: symbols begin {self.symbols[:2]}; symbols[0] must be {BLANK!r}, others follow")
        if len(set(self.symbols)) != len(self.symbols):
            twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
            raise InputError(f"tokens: symbols given twice: {twice[:5]}")
        wanted = len(self.symbols) if self.kind == "bpe" else 0
        if len(self.scores) != wanted:
            raise InputError(f"tokens: {len(self.scores)} scores for {self.kind}; it takes {wanted}")

    @classmethod
    def characters(cls, alphabet: str = ENGLISH_CHARACTERS) -> Tokens:
        """Single characters, the word boundary first: a space in text is `|`."""
        return cls("char", (BLANK, SPACE, *alphabet))

    @classmethod
    def phones(cls) -> Tokens:
        """The 39 phones of ARPAbet without stress."""
        return cls("phone", (BLANK, *ARPABET))

    @classmethod
    def from_sentencepiece(cls, model_path: str | Path) -> Tokens:
        """The pieces and merge priorities of a sentencepiece BPE model. Only this needs sentencepiece.

        Raises:
            InputError: the file is missing, no sentencepiece model, or a model of another type (unigram).
        """
        from sentencepiece import SentencePieceProcessor

        if not Path(model_path).is_file():
            raise InputError(f"{model_path}: no such file; give a sentencepiece .model")
        try:
            model = SentencePieceProcessor(model_file=str(model_path))
        except RuntimeError as error:
            raise InputError(f"{model_path}: not a sentencepiece model: {error}") from None
        ids = [
            i
            for i in range(model.get_piece_size())
            if not (model.is_control(i) or model.is_unknown(i) or model.is_unused(i) or model.is_byte(i))
        ]
        scores = [float(model.get_score(i)) for i in ids]
        # A BPE model's scores count merges: 0, -1, -2 ...; a unigram model's are log probabilities.
        if scores != [-float(rank) for rank in range(len(ids))]:
            raise InputError(f"{model_path}: not a BPE model; train sentencepiece with model_type=bpe")
        return cls("bpe", (BLANK, *(model.id_to_piece(i) for i in ids)), (0.0, *scores))

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Symbol -> id."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str, lexicon: Lexicon | None = None) -> list[int]:
        """Ids of a normalized transcript; phones by the first pronunciation in `lexicon`.

        Raises:
            InputError: characters outside the token set, words outside the lexicon, phones without a lexicon.
        """
        if self.kind == "phone":
            if lexicon is None:
                raise InputError("tokens: phones need a lexicon to encode text; give the one of the model")
            symbols: Sequence[str] = lexicon.phones_of(text)
        elif self.kind == "char":
            symbols = SPACE.join(text.replace(SPACE, "\0").split())  # a | in the text is no word boundary
        else:
            symbols = [piece for word in text.split() for piece in self._pieces(WORD_START + word)]
        unknown = sorted({symbol for symbol in symbols if symbol not in self.ids or symbol == BLANK})
        if unknown:
            shown = ", ".join(repr(symbol.replace("\0", SPACE)) for symbol in unknown[:10])
            allowed = " ".join(symbol for symbol in self.symbols[1:] if len(symbol) < 3)
            raise InputError(
                f"transcript {text[:60]!r}: {self.kind} tokens have no {shown}; allowed: {allowed[:120]}; "
                "normalize the text"
            )
        return [self.ids[symbol] for symbol in symbols]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of labels, blanks left out. Phones come back as phones with spaces between."""
        symbols = [self.symbols[i] for i in ids if i != 0]
        if self.kind == "phone":
            return " ".join(symbols)
        boundary = SPACE if self.kind == "char" else WORD_START
        return " ".join("".join(symbols).replace(boundary, " ").split())

    def spelled(self, words: Iterable[str]) -> Lexicon:
        """A lexicon that spells words in these tokens, for decoding characters or pieces; boundaries included.

        Raises:
            InputError: a word has characters outside the token set; the tokens are phones, which spell nothing.
        """
        if self.kind == "phone":
            raise InputError("tokens: words are not spelled in phones; give a lexicon of pronunciations")
        end = [self.ids[SPACE]] if self.kind == "char" else []
        return Lexicon({word: (tuple(self.symbols[i] for i in self.encode(word) + end),) for word in words})

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON header; `from_json` is its inverse."""
        plain: dict[str, Any] = {"kind": self.kind, "symbols": list(self.symbols)}
        if self.scores:
            plain["scores"] = list(self.scores)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Tokens:
        """Read what `to_json` gave.

        Raises:
            InputError: a key is missing or a value is not what a token set allows.
        """
        try:
            symbols, scores = (
                tuple(plain["symbols"]),
                tuple(float(score) for score in plain.get("scores", ())),
            )
            return cls(cast(Kind, plain["kind"]), symbols, scores)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"tokens: cannot read {str(plain)[:80]}: {error!r}; wanted kind, symbols, scores"
            ) from None

    def _pieces(self, word: str) -> list[str]:
        """Byte-pair encoding (Sennrich et al. 2016): join the neighbors whose union ranks highest, leftmost first."""
        pieces = list(word)
        while True:
            candidates = [
                (-self.scores[self.ids[pair]], at)
                for at, pair in enumerate(map("".join, pairwise(pieces)))
                if pair in self.ids
            ]
            if not candidates:
                return pieces
            at = min(candidates)[1]
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
