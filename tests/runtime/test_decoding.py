from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from asr_compress.runtime.decoding import GreedyDecoder, greedy, log_softmax
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens

CHARACTERS = Tokens.characters("ABC'")
FRAME_S = 0.04


def posteriors(path: str, tokens: Tokens, sure: float = 0.9) -> np.ndarray:
    """Log probabilities (frames, tokens) whose best path is `path`, symbols with spaces between; `-` is the blank."""
    ids = [0 if symbol == "-" else tokens.ids[symbol] for symbol in path.split()]
    probabilities = np.full((len(ids), len(tokens)), (1 - sure) / (len(tokens) - 1), np.float32)
    probabilities[np.arange(len(ids)), ids] = sure
    return np.log(probabilities)


def test_log_softmax_sums_to_one_and_does_not_overflow() -> None:
    logits = np.array([[1000, 999, -1000], [0, 0, 0]], np.float32)
    log_probs = log_softmax(logits)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(log_probs[0, 0] - log_probs[0, 1], 1, rtol=1e-5)
    assert log_softmax(np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("- - -", ""),
        ("| - |", ""),
        ("A A - A B", "AAB"),
        ("A - - A", "AA"),
        ("- A | | B B - | - C", "A B C"),
        ("| A", "A"),
        ("A B ' C |", "AB'C"),
    ],
)
def test_greedy_text(path: str, text: str) -> None:
    hypothesis = greedy(posteriors(path, CHARACTERS), CHARACTERS, FRAME_S)
    assert hypothesis.text == text == " ".join(word.text for word in hypothesis.words)
    assert CHARACTERS.decode(hypothesis.tokens) == text
    assert hypothesis.score == pytest.approx(len(path.split()) * np.log(0.9), rel=1e-5)


def test_greedy_word_times_are_the_frames_of_its_tokens() -> None:
    words = greedy(posteriors("- A A - B | - - C -", CHARACTERS), CHARACTERS, 0.5).words
    assert [(word.text, word.start_s, word.end_s) for word in words] == [("AB", 0.5, 2.5), ("C", 4.0, 4.5)]


def test_greedy_pieces_and_phones() -> None:
    pieces = Tokens("bpe", ("<blank>", "\u2581A", "B", "\u2581"), (0.0, 0.0, -1.0, -2.0))
    path = "\u2581A B B - \u2581A - \u2581 B -"
    assert greedy(posteriors(path, pieces), pieces, FRAME_S).text == "AB A B"
    phones = Tokens.phones()
    spoken = greedy(posteriors("K AE - T T", phones), phones, FRAME_S)
    assert spoken.text == "K AE T"
    assert len(spoken.words) == 3


def test_no_frames_is_silence() -> None:
    assert greedy(np.empty((0, len(CHARACTERS)), np.float32), CHARACTERS, FRAME_S).text == ""


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(0, 12), st.just(len(CHARACTERS))),
        elements=st.floats(-8, 8, width=32),
    ),
    st.lists(st.integers(0, 12), max_size=3),
)
def test_greedy_in_pieces_equals_whole(logits: np.ndarray, cuts: list[int]) -> None:
    log_probs = log_softmax(logits)
    decoder = GreedyDecoder(CHARACTERS)
    search = decoder.start(FRAME_S)
    for piece in np.split(log_probs, sorted(cuts)):
        search.push(piece)
        search = search.copy()
    assert search.finish() == decoder.decode(log_probs, FRAME_S)
    np.testing.assert_array_equal(search.frames(), log_probs)


def test_what_a_model_must_not_give() -> None:
    with pytest.raises(ValueError, match="shape"):
        greedy(np.zeros((3, 2), np.float32), CHARACTERS, FRAME_S)
    with pytest.raises(InputError, match="NaN"):
        greedy(np.full((3, len(CHARACTERS)), np.nan, np.float32), CHARACTERS, FRAME_S)
