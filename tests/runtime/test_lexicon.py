from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon

WORDS = st.text("ABC'", min_size=1, max_size=5)
VARIANT = st.lists(st.sampled_from(["AA", "B", "K", "S"]), min_size=1, max_size=4).map(tuple)
LEXICONS = st.dictionaries(WORDS, st.lists(VARIANT, min_size=1, max_size=3).map(tuple), max_size=8).map(Lexicon)


@given(LEXICONS)
def test_text_round_trip_keeps_words_variants_and_order(lexicon: Lexicon) -> None:
    again = Lexicon.from_text(lexicon.to_text())
    assert again == lexicon
    assert list(again) == list(lexicon)


def test_phones_of_takes_the_first_pronunciation() -> None:
    lexicon = Lexicon.from_text("A\tAH\nA\tEY\nCAT\tK AE T\n")
    assert lexicon["A"] == (("AH",), ("EY",))
    assert lexicon.phones_of("A CAT") == ["AH", "K", "AE", "T"]


def test_unknown_words_are_named() -> None:
    with pytest.raises(InputError, match="DOG"):
        Lexicon.from_text("CAT\tK AE T\n").phones_of("CAT DOG CAT")


@pytest.mark.parametrize("line", ["CAT K AE T", "\tK AE T", "CAT\t", ""])
def test_a_bad_line_is_named_with_its_file(line: str) -> None:
    with pytest.raises(InputError, match="words.txt, line 2"):
        Lexicon.from_text(f"A\tAH\n{line}\nB\tB IY\n", name="words.txt")


@pytest.mark.parametrize("words", [{"": (("A",),)}, {"A B": (("A",),)}, {"A": ()}, {"A": ((),)}])
def test_bad_entries_are_refused(words: dict[str, tuple[tuple[str, ...], ...]]) -> None:
    with pytest.raises(InputError, match="lexicon"):
        Lexicon(words)


def test_restricted_to_keeps_the_order_asked_for() -> None:
    lexicon = Lexicon.from_text("A\tAH\nB\tB IY\nC\tS IY\n")
    assert list(lexicon.restricted_to(["C", "X", "A"])) == ["C", "A"]


def test_variants_of_a_word_need_not_stand_together() -> None:
    lexicon = Lexicon.from_text("A\tAH\nB\tB IY\nA\tEY\n")
    assert list(lexicon) == ["A", "B"] and lexicon["A"] == (("AH",), ("EY",))


def test_text_in_order_is_parsed_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A\tAH\nCAT\tK AE T\n"
    lexicon = Lexicon.from_text(text)
    with monkeypatch.context() as patch:
        patch.setattr("asr_compress.runtime.lexicon._parsed", None)  # calling it would raise
        assert lexicon.to_text() == text and lexicon
    assert len(lexicon) == 2 and "CAT" in lexicon and "DOG" not in lexicon
    assert lexicon == Lexicon({"A": (("AH",),), "CAT": (("K", "AE", "T"),)})


@pytest.mark.parametrize("text", ["A\tAH\r\nB\tB  IY", "A\tAH \n"])
def test_untidy_text_means_the_same(text: str) -> None:
    assert Lexicon.from_text(text)["A"] == (("AH",),)


def test_no_words_is_false() -> None:
    assert not Lexicon.from_text("") and not Lexicon({})
