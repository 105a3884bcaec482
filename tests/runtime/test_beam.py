"""What both searches do: the native one, and flashlight's where that was not built."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime import word_search
from asr_compress.runtime.beam import BeamDecoder, DecodingConfig
from asr_compress.runtime.decoding import log_softmax
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import Tokens
from tests.runtime.test_decoding import posteriors

PHONES = Tokens.phones()
CHARACTERS = Tokens.characters("ABC'")
FRAME_S = 0.04
LEXICON = Lexicon.from_text(
    "A\tAH\nA\tEY\nCAT\tK AE T\nCATS\tK AE T S\nAT\tAE T\nTEN\tT EH N\nTWO\tT UW\nTO\tT UW\nTO\tT AH\nTOO\tT UW\n"
)
# P(TOO) > P(TWO) > P(TO) alone, but TO follows CAT. AT is not in the model: <unk>.
ARPA = """\\data\\
ngram 1=8
ngram 2=1

\\1-grams:
-2.0\t<unk>
-99\t<s>\t0
-1.0\t</s>
-1.0\tA
-1.0\tCAT\t0
-1.5\tTO
-1.2\tTWO
-0.9\tTOO

\\2-grams:
-0.1\tCAT TO

\\end\\
"""


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "tiny.arpa.gz"
    path.write_bytes(gzip.compress(ARPA.encode()))
    return path


Beam = Callable[..., BeamDecoder]


@pytest.fixture(scope="module", params=["native", "flashlight"])
def beam(request: pytest.FixtureRequest) -> Beam:
    if request.param == "native" and not word_search.available():
        pytest.skip("the extension was not built")
    return partial(BeamDecoder, search=request.param)


def text_of(decoder: BeamDecoder, path: str, sure: float = 0.9) -> str:
    return decoder.decode(posteriors(path, decoder.tokens, sure), FRAME_S).text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("- - - -", ""),
        ("K AE T", "CAT"),
        ("- K K AE AE AE T T T -", "CAT"),
        ("K AE T S", "CATS"),
        ("K AE T - T EH N", "CAT TEN"),
        ("EY - K AE T", "A CAT"),
        ("AH - AH - EY EY", "A A A"),
        ("AH AH AH", "A"),
    ],
)
def test_words_of_a_lexicon(beam: Beam, path: str, text: str) -> None:
    assert text_of(beam(PHONES, LEXICON), path) == text


def test_only_words_of_the_lexicon_come_out(beam: Beam) -> None:
    path = posteriors("K AE P", PHONES)
    path[2, PHONES.ids["T"]] = np.log(0.01)
    assert beam(PHONES, LEXICON).decode(path, FRAME_S).text == "CAT"


def test_a_last_phone_that_lasts_costs_nothing(beam: Beam) -> None:
    decoder = beam(PHONES, LEXICON)
    once = decoder.decode(posteriors("K AE T", PHONES, 0.999), FRAME_S)
    thrice = decoder.decode(posteriors("K AE T T T", PHONES, 0.999), FRAME_S)
    assert once.text == thrice.text == "CAT"
    assert once.score == pytest.approx(thrice.score, abs=0.01)


def test_language_model_tells_homophones_apart(beam: Beam, arpa: Path) -> None:
    decoder = beam(PHONES, LEXICON, arpa)
    assert text_of(decoder, "T UW") == "TOO"
    assert text_of(decoder, "K AE T T - UW") == "CAT"  # UW alone is no word
    assert text_of(decoder, "K AE T - T UW") == "CAT TO"
    assert text_of(decoder, "T AH") == "TO"
    assert text_of(decoder, "AE T") == "AT"


def test_score_is_the_sum_of_its_parts(beam: Beam, arpa: Path) -> None:
    config = DecodingConfig(lm_weight=0.7, word_score=0.3)
    hypothesis = beam(PHONES, LEXICON, arpa, config).decode(posteriors("K AE T - T UW", PHONES), FRAME_S)
    acoustic = 6 * math.log(0.9)
    language = (-1.0 - 0.1 - 1.0) * math.log(10)  # CAT, TO after CAT, end
    assert hypothesis.score == pytest.approx(acoustic + 0.7 * language + 2 * 0.3, abs=1e-4)


def test_weights_change_without_building_again(beam: Beam, arpa: Path) -> None:
    decoder = beam(PHONES, LEXICON, arpa)
    # Between A and silence, the word score decides.
    path = posteriors("AH", PHONES, 0.5)
    path[0, 0] = np.log(0.49)
    assert decoder.with_config(word_score=-5).decode(path, FRAME_S).text == ""
    assert decoder.with_config(word_score=5).decode(path, FRAME_S).text == "A"
    assert decoder.config == DecodingConfig()


def test_scores_of_tokens_are_added_to_every_frame(beam: Beam) -> None:
    path = posteriors("- K AE AE T -", PHONES, 0.6)
    path[3:5, 0] = np.log(0.7)  # the blank wins over AE and T
    scores = np.zeros(len(PHONES), np.float32)
    scores[0] = -2.0
    plain = beam(PHONES, LEXICON)
    scored = plain.with_config(token_scores=scores.tolist())
    assert scored.decode(path, FRAME_S) == plain.decode(path + scores, FRAME_S)
    search = scored.start(FRAME_S)
    for frame in path:
        search.push(frame[None])
        search = search.copy()
    assert search.finish() == scored.decode(path, FRAME_S)
    np.testing.assert_array_equal(search.frames(), path)
    with pytest.raises(InputError, match="token_scores has 2 values"):
        plain.with_config(token_scores=(0.0, 1.0)).decode(path, FRAME_S)


def test_word_times(beam: Beam) -> None:
    hypothesis = beam(PHONES, LEXICON).decode(posteriors("- - K AE AE T T - - - T - EH N N -", PHONES), 0.5)
    assert [(w.text, w.start_s, w.end_s) for w in hypothesis.words] == [("CAT", 1.0, 3.5), ("TEN", 5.0, 7.5)]
    assert PHONES.decode(hypothesis.tokens) == "K AE T T EH N"


def test_sure_blanks_are_joined_and_times_kept(beam: Beam) -> None:
    path = posteriors("K AE T" + " -" * 50 + " T EH N", PHONES, 0.9999)
    words = beam(PHONES, LEXICON).decode(path, 0.01).words
    assert [(w.text, round(w.start_s, 6), round(w.end_s, 6)) for w in words] == [
        ("CAT", 0, 0.03),
        ("TEN", 0.53, 0.56),
    ]


@pytest.mark.parametrize(
    ("path", "end_s"),
    [("C A B | | A -", 3.0), ("| C A B - | A", 3.5), ("C A B | A | -", 2.5), ("C A A B - | A A", 4.0)],
)
def test_characters_with_a_lexicon(beam: Beam, path: str, end_s: float) -> None:
    decoder = beam(CHARACTERS, CHARACTERS.spelled(["CAB", "A", "CABA"]))
    hypothesis = decoder.decode(posteriors(path, CHARACTERS), 0.5)
    assert hypothesis.text == "CAB A"
    assert hypothesis.words[-1].end_s == end_s


def test_pieces_with_a_lexicon(beam: Beam) -> None:
    pieces = Tokens("bpe", ("<blank>", "\u2581A", "B", "C", "\u2581", "A"), (0.0, 0.0, -1.0, -2.0, -3.0, -4.0))
    decoder = beam(pieces, pieces.spelled(["AB", "CAB"]))
    assert text_of(decoder, "\u2581A B B - \u2581 C - A B") == "AB CAB"


def test_without_a_lexicon_a_token_model_is_used(beam: Beam, tmp_path: Path) -> None:
    symbols = CHARACTERS.symbols[1:]
    lines = "".join(f"-1.0\t{symbol}\t0\n" for symbol in symbols)
    (tmp_path / "chars.arpa").write_text(
        f"\\data\\\nngram 1={len(symbols) + 3}\nngram 2=1\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\t0\n-1\t</s>\n{lines}"
        "\n\\2-grams:\n-0.01\tA B\n\n\\end\\\n"
    )
    path = posteriors("A - C -", CHARACTERS, 0.5)
    path[2, CHARACTERS.ids["B"]] = np.log(0.45)
    free = beam(CHARACTERS)
    assert free.decode(path, FRAME_S).text == "AC"
    assert beam(CHARACTERS, lm_path=tmp_path / "chars.arpa").decode(path, FRAME_S).text == "AB"
    assert text_of(free, "A A | B - B") == "A BB"


@pytest.mark.parametrize("with_lexicon", [True, False])
@settings(max_examples=40, deadline=None)
@given(frames=st.integers(0, 12), seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_in_pieces_equals_whole(beam: Beam, with_lexicon: bool, frames: int, seed: int, cuts: list[int]) -> None:
    log_probs = log_softmax(np.random.default_rng(seed).normal(0, 4, (frames, len(PHONES))).astype(np.float32))
    decoder = beam(PHONES, LEXICON if with_lexicon else None)
    search = decoder.start(FRAME_S)
    for piece in np.split(log_probs, sorted(cuts)):
        search.push(piece)
        search.partial()
        search = search.copy()
    np.testing.assert_array_equal(search.frames(), log_probs)
    assert search.finish() == decoder.decode(log_probs, FRAME_S)


def test_partial_results_grow(beam: Beam) -> None:
    search = beam(PHONES, LEXICON).start(FRAME_S)
    search.push(posteriors("K AE T - T EH", PHONES))
    assert search.partial().text == "CAT"
    search.push(posteriors("N -", PHONES))
    assert search.partial().text == "CAT TEN"
    twin = search.copy()
    search.push(posteriors("K AE T", PHONES))
    assert search.finish().text == "CAT TEN CAT"
    assert twin.finish().text == "CAT TEN"


def best_by_enumeration(log_probs: np.ndarray, word_of: dict[int, str], word_score: float) -> tuple[float, str]:
    """The best of all frame paths without repeats, where each token is a word; its score and text."""
    best = (-math.inf, "")
    for path in np.ndindex(*[log_probs.shape[1]] * len(log_probs)):
        words = [word_of[token] for token in path if token]
        if not any(token and token == before for token, before in zip(path, (0, *path), strict=False)):
            score = sum(log_probs[t, token] for t, token in enumerate(path)) + word_score * len(words)
            best = max(best, (score, " ".join(words)))
    return best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), word_score=st.sampled_from([-1.0, 0.0, 1.0]))
def test_the_best_path_is_found(seed: int, word_score: float) -> None:
    log_probs = log_softmax(np.random.default_rng(seed).normal(0, 2, (6, 4)).astype(np.float32))
    best = log_probs.argmax(axis=1)
    log_probs = log_probs[np.append(True, best[1:] != best[:-1])]  # runs of one token would be merged
    tokens = Tokens("phone", ("<blank>", "AA", "B", "K"))
    decoder = BeamDecoder(
        tokens, Lexicon.from_text("A\tAA\nB\tB\n"), config=DecodingConfig(word_score=word_score), search="flashlight"
    )
    found = decoder.decode(log_probs, FRAME_S)
    score, text = best_by_enumeration(log_probs[:, :3], {1: "A", 2: "B"}, word_score)
    assert (found.score, found.text) == (pytest.approx(score, abs=1e-4), text)


def test_of_homophones_nobody_can_tell_apart_the_first_is_taken(beam: Beam, arpa: Path) -> None:
    lexicon = Lexicon.from_text("DAB\tT UW\nDUB\tT UW\n")
    assert text_of(beam(PHONES, lexicon), "T UW") == "DAB"
    assert text_of(beam(PHONES, lexicon, arpa), "T UW - T UW") == "DAB DAB"


def test_more_homophones_than_a_node_holds(beam: Beam, arpa: Path) -> None:
    words = [f"W{i}" for i in range(8)] + ["TOO"]
    lexicon = Lexicon(dict.fromkeys(words, (("T", "UW"),)))
    assert text_of(beam(PHONES, lexicon, arpa), "T UW") == "TOO"


def test_bad_input(beam: Beam, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.arpa"):
        beam(PHONES, LEXICON, tmp_path / "none.arpa")
    (tmp_path / "text.arpa").write_text("hello\n")
    with pytest.raises(InputError, match=r"text\.arpa"):
        beam(PHONES, LEXICON, tmp_path / "text.arpa")
    with pytest.raises(InputError, match="CAT.*XX"):
        beam(PHONES, Lexicon.from_text("CAT\tK XX\n"))
    with pytest.raises(InputError, match="no words"):
        beam(PHONES, Lexicon({}))


@pytest.mark.parametrize(
    "values",
    [
        {"beam": 3},
        {"lm_weight": -1},
        {"lm_weight": "1"},
        {"beam_width": 0},
        {"word_score": math.nan},
        {"token_scores": ["a"]},
    ],
)
def test_bad_weights(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="decoding"):
        DecodingConfig.from_json(values)


def test_weights_of_a_bundle() -> None:
    assert DecodingConfig.from_json({"lm_weight": 1.5}) == DecodingConfig(lm_weight=1.5)
    assert DecodingConfig.from_json({}) == DecodingConfig()


def test_nothing_is_printed_while_the_model_loads(beam: Beam, arpa: Path, capfd: pytest.CaptureFixture[str]) -> None:
    beam(PHONES, LEXICON, arpa)
    assert capfd.readouterr() == ("", "")
