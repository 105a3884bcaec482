"""The native beam search, against every path there is."""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from asr_compress.runtime import word_search
from asr_compress.runtime.audio import load_audio
from asr_compress.runtime.beam import BeamDecoder, DecodingConfig
from asr_compress.runtime.decoding import log_softmax
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.extension import extension
from asr_compress.runtime.features import FeatureConfig, log_mel
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import Tokens
from tests.runtime.test_beam import ARPA, LEXICON, PHONES
from tests.runtime.test_decoding import posteriors

pytestmark = pytest.mark.skipif(not word_search.available(), reason="the extension was not built")

FRAME_S = 0.04
LETTERS = Tokens("phone", ("<blank>", "A", "B", "C"))
CHARACTERS = Tokens("char", ("<blank>", "|", "A", "B"))
ALL = DecodingConfig(beam_width=100_000, beam_threshold=1e6, beam_tokens=100)
Grams = dict[tuple[str, ...], tuple[float, float]]  # words -> log10 probability, log10 back-off


def random_lexicon(rng: np.random.Generator, symbols: tuple[str, ...]) -> Lexicon:
    """Short words of few symbols: many homophones and shared beginnings, some with two pronunciations."""
    words: dict[str, tuple[tuple[str, ...], ...]] = {}
    for i in range(rng.integers(1, 7)):
        variants = {tuple(map(str, rng.choice(symbols, rng.integers(1, 4)))) for _ in range(rng.integers(1, 3))}
        words[f"W{i}"] = tuple(sorted(variants))
    return Lexicon(words)


def random_grams(rng: np.random.Generator, words: list[str], order: int, closed: bool = False) -> Grams:
    """Some words unknown, back-offs where nothing follows; unless closed, n-grams whose ends are not listed."""
    known = [word for word in words if rng.random() < 0.8]

    def entry() -> tuple[float, float]:
        return -float(rng.uniform(0.1, 2)), -float(rng.choice([0, 1])) * float(rng.uniform(0, 1))

    grams: Grams = {(word,): entry() for word in ("<unk>", "<s>", "</s>", *known)}
    histories = [("<s>",), *((word,) for word in known)]
    for _ in range(1, order):
        longer = [(*h, w) for h in histories for w in (*known, "</s>") if rng.random() < 0.4]
        longer = [gram for gram in longer if not closed or gram[1:] in grams]
        grams.update((gram, entry()) for gram in longer)
        histories = [gram for gram in longer if gram[-1] != "</s>"]
    return grams


def arpa_of(grams: Grams) -> str:
    orders = max(map(len, grams))
    counts = [sum(len(gram) == n for gram in grams) for n in range(1, orders + 1)]
    lines = ["\\data\\", *(f"ngram {n}={count}" for n, count in enumerate(counts, 1)), ""]
    for n in range(1, orders + 1):
        lines.append(f"\\{n}-grams:")
        for gram, (probability, backoff) in grams.items():
            if len(gram) == n:
                lines.append(f"{probability:.6f}\t{' '.join(gram)}" + (f"\t{backoff:.6f}" if n < orders else ""))
        lines.append("")
    return "\n".join([*lines, "\\end\\", ""])


def log10_of(grams: Grams, words: tuple[str, ...]) -> float:
    """Of a sentence, by the definition of back-off."""
    orders = max(map(len, grams))
    history: tuple[str, ...] = ("<s>",)
    total = 0.0
    for word in (*words, "</s>"):
        word = word if (word,) in grams else "<unk>"
        context = history[-(orders - 1) :] if orders > 1 else ()
        while (*context, word) not in grams:
            total += grams.get(context, (0, 0))[1] if len(context) < orders else 0
            context = context[1:]
        total += grams[(*context, word)][0]
        history = (*history, word)
    return total


def label_scores(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every sequence of labels and the score of its best path."""
    scores: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        labels = tuple(token for token, _ in itertools.groupby(path) if token)
        score = float(sum(log_probs[t, token] for t, token in enumerate(path)))
        scores[labels] = max(score, scores.get(labels, -math.inf))
    return scores


def sentences(labels: tuple[int, ...], spellings: list[tuple[tuple[int, ...], str]]) -> Iterator[tuple[str, ...]]:
    if not labels:
        yield ()
    for spelled, word in spellings:
        if labels[: len(spelled)] == spelled:
            for rest in sentences(labels[len(spelled) :], spellings):
                yield (word, *rest)


def best_by_enumeration(
    log_probs: np.ndarray, tokens: Tokens, lexicon: Lexicon, grams: Grams | None, config: DecodingConfig
) -> dict[str, float]:
    """Every text that can be, with the score of its best path."""
    spellings = [
        (tuple(tokens.ids[symbol] for symbol in variant), word) for word in lexicon for variant in lexicon[word]
    ]
    texts: dict[str, float] = {}
    boundary = tokens.ids.get("|")
    for labels, acoustic in label_scores(log_probs).items():
        if boundary is not None:  # boundaries do not begin a sentence; the last may be wanting; two are as one
            words = "".join(tokens.symbols[label] for label in labels).replace("|", " ").split()
            labels = tuple(tokens.ids[symbol] for word in words for symbol in (*word, "|"))
        for words in sentences(labels, spellings):
            score = acoustic + config.word_score * len(words)
            if grams is not None:
                score += config.lm_weight * math.log(10) * log10_of(grams, words)
            text = " ".join(words)
            texts[text] = max(score, texts.get(text, -math.inf))
    return texts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    order=st.integers(0, 4),
    characters=st.booleans(),
    weights=st.tuples(st.floats(0, 2), st.floats(-3, 3)),
)
def test_nothing_is_better_than_what_is_found(
    tmp_path: Path, seed: int, order: int, characters: bool, weights: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    tokens = CHARACTERS if characters else LETTERS
    lexicon = CHARACTERS.spelled(["A", "B", "AAB"]) if characters else random_lexicon(rng, LETTERS.symbols[1:])
    grams = random_grams(rng, list(lexicon), order) if order else None
    path = None
    if grams is not None:
        path = tmp_path / "lm.arpa"
        path.write_text(arpa_of(grams))
    config = DecodingConfig(100_000, 1e6, 100, *weights)
    log_probs = log_softmax(rng.normal(0, 2, (rng.integers(0, 7), 4)).astype(np.float32))
    texts = best_by_enumeration(log_probs, tokens, lexicon, grams, config)
    found = BeamDecoder(tokens, lexicon, path, config).decode(log_probs, FRAME_S)
    assert found.score == pytest.approx(max(texts.values()), abs=1e-3)
    assert texts[found.text] == pytest.approx(found.score, abs=1e-3)
    assert found.text == " ".join(word.text for word in found.words)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(1, 30), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_in_pieces_equals_whole_and_copies_are_their_own(seed: int, width: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(0, 3, (40, 4)).astype(np.float32))
    decoder = BeamDecoder(LETTERS, random_lexicon(rng, LETTERS.symbols[1:])).with_config(beam_width=width)
    whole = decoder.decode(log_probs, FRAME_S)
    search = decoder.start(FRAME_S)
    for piece in np.split(log_probs, sorted(cuts)):
        search.push(piece)
        search.partial()
        twin, search = search, search.copy()
        twin.push(rng.normal(0, 3, (5, 4)).astype(np.float32))
    np.testing.assert_array_equal(search.frames(), log_probs)
    assert search.finish() == whole
    times = [time for word in whole.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert all(word.start_s < word.end_s <= 40 * FRAME_S for word in whole.words)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31))
def test_flashlight_finds_nothing_better(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lexicon = random_lexicon(rng, LETTERS.symbols[1:])
    grams = random_grams(rng, list(lexicon), 3, closed=True)
    assume(max(map(len, grams)) > 1)  # KenLM refuses a model of unigrams alone
    (tmp_path / "lm.arpa").write_text(arpa_of(grams))
    log_probs = log_softmax(rng.normal(0, 2, (30, 4)).astype(np.float32))
    best = log_probs.argmax(axis=1)
    log_probs = log_probs[np.append(True, best[1:] != best[:-1])]  # flashlight is given runs of a token as one frame
    config = DecodingConfig(2000, 1e3, 4)
    ours = BeamDecoder(LETTERS, lexicon, tmp_path / "lm.arpa", config, "native").decode(log_probs, FRAME_S)
    theirs = BeamDecoder(LETTERS, lexicon, tmp_path / "lm.arpa", config, "flashlight").decode(log_probs, FRAME_S)
    spellings = [(tuple(LETTERS.ids[s] for s in variant), word) for word in lexicon for variant in lexicon[word]]
    # Within a word flashlight lets a token that was held be followed by itself, with no blank between.
    assume(tuple(theirs.text.split()) in sentences(theirs.tokens, spellings))
    assert theirs.score <= ours.score + 1e-3


def test_tokens_without_a_lexicon_score_with_their_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    grams = random_grams(rng, list("ABC"), 3)
    (tmp_path / "lm.arpa").write_text(arpa_of(grams))
    log_probs = log_softmax(rng.normal(0, 1, (5, 4)).astype(np.float32))
    config = DecodingConfig(1000, 1e6, 100, 0.8, 5.0)  # no words, no word score
    found = BeamDecoder(LETTERS, None, tmp_path / "lm.arpa", config).decode(log_probs, FRAME_S)
    scores = {
        labels: score + 0.8 * math.log(10) * log10_of(grams, tuple(LETTERS.symbols[label] for label in labels))
        for labels, score in label_scores(log_probs).items()
    }
    assert found.tokens == max(scores, key=scores.__getitem__)
    assert found.score == pytest.approx(max(scores.values()), abs=1e-3)


def test_a_long_stream_forgets_dead_paths() -> None:
    rng = np.random.default_rng(0)
    once = posteriors("K AE T - T T EH N - -", PHONES, 0.5)
    search = BeamDecoder(PHONES, LEXICON).with_config(beam_width=200, beam_threshold=50).start(FRAME_S)
    sizes = []
    for _ in range(100):
        noisy = np.tile(once, (10, 1)) + rng.normal(0, 0.3, (100, len(PHONES))).astype(np.float32)
        search.push(noisy)
        sizes.append(search._search.bytes)
    assert max(sizes) < 8e6
    hypothesis = search.finish()
    assert hypothesis.text == " ".join(["CAT TEN"] * 1000)
    assert hypothesis.words[-1].start_s == pytest.approx((10_000 - 5) * FRAME_S, abs=2 * FRAME_S)


def test_threads_share_a_decoder() -> None:
    decoder = BeamDecoder(PHONES, LEXICON)
    log_probs = [
        log_softmax(np.random.default_rng(seed).normal(0, 3, (80, len(PHONES))).astype(np.float32)) for seed in range(8)
    ]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda frames: decoder.decode(frames, FRAME_S), log_probs))
    assert together == [decoder.decode(frames, FRAME_S) for frames in log_probs]


def test_frames_that_nothing_can_be_are_no_crash() -> None:
    search = BeamDecoder(PHONES, LEXICON).start(FRAME_S)
    search.push(np.full((3, len(PHONES)), -np.inf, np.float32))
    search.push(posteriors("K AE T", PHONES))
    assert search.copy().finish().text == search.partial().text == ""


def test_real_speech_in_pieces_equals_whole(corpora_dir: Path, tmp_path: Path) -> None:
    recording = next(iter(sorted(corpora_dir.rglob("*.flac"))))
    features = log_mel(load_audio(recording)[:80_000], FeatureConfig())
    mixed = np.random.default_rng(1).normal(0, 0.1, (features.shape[1], len(PHONES)))
    log_probs = log_softmax(((features - features.mean(axis=0)) @ mixed).astype(np.float32))
    (tmp_path / "lm.arpa").write_text(ARPA)
    decoder = BeamDecoder(PHONES, LEXICON, tmp_path / "lm.arpa")
    search = decoder.start(FRAME_S)
    for piece in np.array_split(log_probs, 17):
        search.push(piece)
    assert search.finish() == decoder.decode(log_probs, FRAME_S) != ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "data"),
        ("ngram 1=8", "ngram 1=9", "announces 9"),
        ("ngram 1=8", "ngram 1=7", "more 1-grams"),
        ("ngram 2=1", "ngram 2=2", "announces 2"),
        ("ngram 2=1", "ngram 3=1", "ngram 2="),
        ("-0.1\tCAT TO", "-0.1\tCAT", "too few"),
        ("-0.1\tCAT TO", "-0.1\tCAT TO TO TO", "no number|too many"),
        ("-0.1\tCAT TO", "much\tCAT TO", "much"),
        ("-1.0\tCAT\t0\n", "-1.0\tDOG\t0\n", "history"),
        ("\\end\\", "", None),
        ("-0.9\tTOO", "-9e-1 TOO", None),
    ],
)
def test_models_that_are_not_as_they_should_be(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "odd.arpa"
    path.write_text(ARPA.replace(old, new))
    if message is None:
        assert BeamDecoder(PHONES, LEXICON, path).decode(posteriors("T UW", PHONES), FRAME_S).text == "TOO"
        return
    with pytest.raises(InputError, match=f"odd.arpa.*({message})"):
        BeamDecoder(PHONES, LEXICON, path)


def test_half_a_compressed_model(tmp_path: Path) -> None:
    whole = gzip.compress(ARPA.encode())
    for name, data in (("half.arpa.gz", whole[: len(whole) // 2]), ("bad.arpa.gz", whole[:20] + b"x" * 40)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            BeamDecoder(PHONES, LEXICON, tmp_path / name)


def test_binary_models_are_left_to_flashlight(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(100))
    assert not word_search.reads(tmp_path / "lm.bin")
    with pytest.raises(InputError, match=r"lm\.bin"):  # cut off, which only flashlight can tell
        BeamDecoder(PHONES, LEXICON, tmp_path / "lm.bin")


def test_wrong_calls_of_the_extension_raise() -> None:
    native = word_search._native

    def graph(
        tokens: int = 3, boundary: int = 3, word_of: object = (0,), starts: object = (0, 1), spelled: object = (1,)
    ):
        lists = [np.array(numbers, np.uint32) for numbers in (word_of, starts, spelled)]
        return native.WordGraph(tokens, boundary, b"A", *lists, None)

    good = graph()
    for wrong in (
        {"tokens": 1},
        {"boundary": 4},
        {"boundary": 0},
        {"word_of": (1,)},
        {"word_of": (0, 0)},
        {"starts": (0, 2)},
        {"starts": (1, 1)},
        {"starts": (0,)},
        {"spelled": (3,)},
        {"spelled": (0,)},
        {"word_of": (), "starts": (0,), "spelled": ()},
    ):
        with pytest.raises(ValueError):
            graph(**wrong)
    with pytest.raises(ValueError):
        native.Search(good, 0, 1, 1.0, 1.0, 0.0)
    with pytest.raises(ValueError):
        native.Search("graph", 1, 1, 1.0, 1.0, 0.0)
    search = native.Search(good, 1, 1, 1.0, 1.0, 0.0)
    for frames in (np.zeros(4, np.float32), np.zeros(3, np.float64), np.zeros((3, 6), np.float32)[:, ::2]):
        with pytest.raises((ValueError, BufferError)):
            search.push(frames)
    search.push(np.full(3, np.nan, np.float32))
    assert search.result(True)[1] == b""


def test_flashlight_searches_where_there_is_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BeamDecoder(PHONES, LEXICON).search == "native"
    monkeypatch.setattr(word_search, "_native", None)
    decoder = BeamDecoder(PHONES, LEXICON)
    assert decoder.search == "flashlight"
    assert decoder.decode(posteriors("K AE T", PHONES), FRAME_S).text == "CAT"
    with pytest.raises(InputError, match="not built"):
        BeamDecoder(PHONES, LEXICON, search="native")


def test_a_lexicon_is_read_the_same_compiled_and_in_python() -> None:
    lexicon = Lexicon.from_text("BA\tB A\nA\tA\nBA\tB\nCAB\tC A B\nA\tA A\n")
    words, word_of, starts, spelled = word_search._spelled(LETTERS, lexicon)
    expected = [(label, variant) for label, word in enumerate(lexicon) for variant in lexicon[word]]
    symbols = [LETTERS.symbols[token] for token in spelled]
    found = [tuple(symbols[first:end]) for first, end in itertools.pairwise(starts)]
    assert words.decode().split("\n") == list(lexicon)
    assert list(zip(word_of.tolist(), found, strict=True)) == expected


@pytest.mark.parametrize("line", [b"NO TAB", b"\tA", b"A\t", b"A\tA ", b"A\tQ", b"\n"])
def test_a_malformed_lexicon_is_refused_by_the_extension_too(line: bytes) -> None:
    with pytest.raises(ValueError, match="lexicon"):
        extension().spell(b"A\tA\n" + line + b"\n", b"<blank>\nA")
