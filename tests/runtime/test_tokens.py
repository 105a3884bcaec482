from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import ARPABET, Tokens

TEXTS = st.lists(st.text("ABYZ'", min_size=1, max_size=6), max_size=5).map(" ".join)


@given(TEXTS)
def test_characters_round_trip(text: str) -> None:
    tokens = Tokens.characters()
    assert tokens.decode(tokens.encode(text)) == text


def test_blank_is_zero_and_never_a_label() -> None:
    tokens = Tokens.characters()
    assert tokens.symbols[0] == "<blank>"
    assert 0 not in tokens.encode("A B")
    assert tokens.decode([0, tokens.ids["A"], 0, 0, tokens.ids["|"], tokens.ids["B"]]) == "A B"


@pytest.mark.parametrize("text", ["CAFÉ", "a", "A|B", "A <blank>"])
def test_unknown_characters_are_named(text: str) -> None:
    with pytest.raises(InputError, match="É|'a'|'\\||'<'"):
        Tokens.characters().encode(text)


def test_phones() -> None:
    tokens = Tokens.phones()
    assert len(tokens) == 40 == len(ARPABET) + 1
    lexicon = Lexicon.from_text("A\tAH\nA\tEY\nCAT\tK AE T\n")
    assert tokens.decode(tokens.encode("A CAT", lexicon)) == "AH K AE T"
    with pytest.raises(InputError, match="lexicon"):
        tokens.encode("A CAT")
    with pytest.raises(InputError, match="ʃ"):
        tokens.encode("SH", Lexicon.from_text("SH\tʃ\n"))


@pytest.mark.parametrize("tokens", [Tokens.characters(), Tokens.phones()])
def test_json_round_trip(tokens: Tokens) -> None:
    assert Tokens.from_json(json.loads(json.dumps(tokens.to_json()))) == tokens


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"kind": "char"},
        {"kind": "word", "symbols": ["<blank>", "A"]},
        {"kind": "char", "symbols": ["A", "B"]},
        {"kind": "char", "symbols": ["<blank>", "A", "A"]},
        {"kind": "bpe", "symbols": ["<blank>", "A"], "scores": [0]},
    ],
)
def test_bad_json_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(InputError, match="tokens"):
        Tokens.from_json(plain)


@pytest.fixture(scope="module")
def bpe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("bpe")
    text = "THE CAT SAT ON THE MAT\nTHE RAT THAT SAT ATE THE HAT\nNOTHING MATTERED AS MUCH\nCAN'T STAND THE CHATTER\n"
    (folder / "text").write_text(text * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "bpe"),
        model_type="bpe",
        vocab_size=60,
        character_coverage=1.0,
        minloglevel=2,
    )
    return folder / "bpe.model"


@given(words=st.lists(st.text("THEACSMON'", min_size=1, max_size=8), min_size=1, max_size=4))
def test_bpe_equals_sentencepiece(bpe_model: Path, words: list[str]) -> None:
    from sentencepiece import SentencePieceProcessor

    tokens = Tokens.from_sentencepiece(bpe_model)
    text = " ".join(words)
    ours = [tokens.symbols[i] for i in tokens.encode(text)]
    assert ours == SentencePieceProcessor(model_file=str(bpe_model)).encode(text, out_type=str)
    assert tokens.decode(tokens.encode(text)) == text
    assert Tokens.from_json(json.loads(json.dumps(tokens.to_json()))) == tokens


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "x.model").write_text("hello")
    for path in (tmp_path / "x.model", tmp_path / "none.model"):
        with pytest.raises(InputError, match=path.name):
            Tokens.from_sentencepiece(path)
