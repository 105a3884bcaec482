"""N-gram models against the definition, against KenLM's lmplz, and as KenLM reads them."""

from __future__ import annotations

import gzip
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.corpora.arpa import write_arpa
from asr_compress.corpora.kneser_ney import estimate
from asr_compress.corpora.language_model import build_language_model, read_sentences
from asr_compress.corpora.mixture import fit_weights, mix
from asr_compress.corpora.ngram import NgramModel, encode, perplexity
from asr_compress.runtime.errors import InputError

Ngram = tuple[str, ...]
DATA = Path(__file__).parent / "data"
Sentences = list[list[str]]

small_texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=5), min_size=1, max_size=9).filter(any)


class Arpa:
    """The meaning of an ARPA file, written down a second time, slowly and apart from the package.

    `entries[ngram]` is (log10 probability, log10 back-off weight).
    """

    def __init__(self, path: Path) -> None:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        self.entries: dict[Ngram, tuple[float, float]] = {}
        announced = {}
        section = 0
        for line in text.splitlines():
            if line.startswith("ngram "):
                order, count = line.removeprefix("ngram ").split("=")
                announced[int(order)] = int(count)
            elif line.endswith("-grams:"):
                section = int(line[1 : -len("-grams:")])
            elif "\t" in line:
                probability, ngram, *backoff = line.split("\t")
                words = tuple(ngram.split(" "))
                assert len(words) == section
                assert words not in self.entries
                self.entries[words] = float(probability), float(backoff[0]) if backoff else 0.0
        assert text.startswith("\\data\\")
        assert text.rstrip().endswith("\\end\\")
        assert announced == {
            order: sum(len(ngram) == order for ngram in self.entries) for order in range(1, section + 1)
        }

    @property
    def vocabulary(self) -> list[str]:
        """All words that can follow a history: not <s>."""
        return [ngram[0] for ngram in self.entries if len(ngram) == 1 and ngram != ("<s>",)]

    def log10_prob(self, word: str, history: Ngram) -> float:
        if (*history, word) in self.entries:
            return self.entries[(*history, word)][0]
        assert history, word
        return self.entries.get(history, (0.0, 0.0))[1] + self.log10_prob(word, history[1:])

    def total(self, history: Ngram) -> float:
        return sum(10 ** self.log10_prob(word, history) for word in self.vocabulary)


def sentences(text: str) -> Sentences:
    return [line.split() for line in text.strip().splitlines()]


def written(model: NgramModel, folder: Path) -> Arpa:
    path = folder / "model.arpa"
    write_arpa(model, path)
    return Arpa(path)


class Definition:
    """Chen and Goodman's interpolated modified Kneser-Ney, term by term, with dictionaries."""

    def __init__(self, text: Sentences, order: int) -> None:
        padded = [["<s>", *words, "</s>"] for words in text]
        self.raw = {
            k: Counter(tuple(words[i : i + k]) for words in padded for i in range(len(words) - k + 1))
            for k in range(1, order + 1)
        }
        self.vocabulary = [*sorted({word for words in text for word in words}), "<unk>", "</s>"]
        self.counts: dict[int, dict[Ngram, int]] = {}
        for k in range(1, order + 1):
            self.counts[k] = {g: self.adjusted(g, order) for g in self.raw[k] if g != ("<s>",)}
        self.discounts = {k: self.discount(list(counts.values())) for k, counts in self.counts.items()}

    def adjusted(self, ngram: Ngram, order: int) -> int:
        if len(ngram) == order or ngram[0] == "<s>":
            return self.raw[len(ngram)][ngram]
        return len({longer[0] for longer in self.raw[len(ngram) + 1] if longer[1:] == ngram})

    @staticmethod
    def discount(counts: list[int]) -> list[float]:
        n = [0] + [counts.count(k) for k in (1, 2, 3, 4)]
        if n[1] * n[2] * n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            values = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
            if min(values) > 0 and all(value <= k for k, value in enumerate(values, start=1)):
                return [0, *values]
        return [0, 0.5, 1, 1.5]

    def prob(self, word: str, history: Ngram) -> float:
        k = len(history) + 1
        following = {g: c for g, c in self.counts[k].items() if g[:-1] == history}
        lower = self.prob(word, history[1:]) if history else 1 / len(self.vocabulary)
        if not following:
            return lower
        taken = {g: self.discounts[k][min(c, 3)] for g, c in following.items()}
        total = sum(following.values())
        own = following.get((*history, word), 0) - taken.get((*history, word), 0)
        return own / total + sum(taken.values()) / total * lower


@settings(max_examples=60, deadline=None)
@given(text=small_texts, order=st.integers(1, 4))
def test_every_probability_is_by_definition_and_every_history_sums_to_one(
    text: Sentences, order: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arpa = written(estimate(text, order), tmp_path_factory.mktemp("lm"))
    definition = Definition(text, order)
    assert sorted(arpa.vocabulary) == sorted(definition.vocabulary)
    seen = {g[:-1] for k in range(1, order + 1) for g in definition.raw[k]}
    unseen = set(itertools.product("a", "d")) if order > 2 else set()
    for history in {()} | {h for h in seen | unseen if "</s>" not in h}:
        for word in definition.vocabulary:
            # Six decimals in the file, one for the n-gram and one for each back-off.
            expected = math.log10(definition.prob(word, history))
            assert arpa.log10_prob(word, history) == pytest.approx(expected, abs=3e-6), (history, word)
        assert arpa.total(history) == pytest.approx(1, abs=2e-5)


def test_by_hand(tmp_path: Path) -> None:
    """'a b', 'a', 'b': no discounts from so few, so 0.5 and 1 are taken off counts of one and two."""
    arpa = written(estimate([["a", "b"], ["a"], ["b"]], order=2), tmp_path)
    # Continuations: a after <s>: 1; b after a, <s>: 2; </s> after a, b: 2. Sum 5, taken 0.5 + 1 + 1 = 2.5,
    # spread evenly over a, b, </s>, <unk>: 2.5 / 5 / 4 = 0.125 each.
    unigram = {"a": 0.5 / 5 + 0.125, "b": 1 / 5 + 0.125, "</s>": 1 / 5 + 0.125, "<unk>": 0.125}
    for word, probability in unigram.items():
        assert 10 ** arpa.log10_prob(word, ()) == pytest.approx(probability, rel=1e-5)
    # After <s>: a twice, b once. Taken 1 + 0.5 of 3, so half goes to the unigrams.
    assert 10 ** arpa.log10_prob("a", ("<s>",)) == pytest.approx(1 / 3 + 0.5 * unigram["a"], rel=1e-5)
    assert 10 ** arpa.log10_prob("b", ("<s>",)) == pytest.approx(0.5 / 3 + 0.5 * unigram["b"], rel=1e-5)
    assert 10 ** arpa.log10_prob("</s>", ("<s>",)) == pytest.approx(0.5 * unigram["</s>"], rel=1e-5)
    # After b: </s> twice. Taken 1 of 2.
    assert 10 ** arpa.log10_prob("</s>", ("b",)) == pytest.approx(0.5 + 0.5 * unigram["</s>"], rel=1e-5)
    assert 10 ** arpa.log10_prob("b", ("b",)) == pytest.approx(0.5 * unigram["b"], rel=1e-5)


@pytest.mark.parametrize(
    ("file", "cutoffs"), [("lmplz-trigram.arpa", ()), ("lmplz-trigram-cutoffs-0-1-2.arpa", (0, 1, 2))]
)
def test_equal_to_lmplz(tmp_path: Path, file: str, cutoffs: tuple[int, ...]) -> None:
    """Made with `lmplz -o 3 --discount_fallback [--prune 0 1 2]` of KenLM 0.3; only <s> is -99, not 0."""
    expected = Arpa(DATA / file).entries
    entries = written(estimate(read_sentences(DATA / "sentences.txt"), 3, cutoffs=cutoffs), tmp_path).entries
    assert entries.keys() == expected.keys()
    for ngram, values in expected.items():
        assert entries[ngram] == pytest.approx(values, abs=2e-6), ngram


@settings(max_examples=30, deadline=None)
@given(text=small_texts, data=st.data())
def test_cutoffs_and_vocabulary_keep_sums_and_closure(
    text: Sentences, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cutoffs = [0, *sorted(data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=2)))]
    vocabulary = data.draw(st.none() | st.sets(st.sampled_from("abxy"), min_size=1))
    model = estimate(text, 3, vocabulary=vocabulary, cutoffs=cutoffs)
    arpa = written(model, tmp_path_factory.mktemp("lm"))
    if vocabulary is not None:
        assert set(arpa.vocabulary) == vocabulary | {"<unk>", "</s>"}
    for ngram in arpa.entries:
        if len(ngram) > 1:
            assert ngram[:-1] in arpa.entries
            assert ngram[1:] in arpa.entries
    for history in [ngram for ngram in arpa.entries if len(ngram) < 3 and ngram[-1] != "</s>"]:
        assert arpa.total(history) == pytest.approx(1, abs=2e-5)


@given(text=small_texts, other=small_texts, order=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_scores_in_memory_are_the_file_s(
    text: Sentences, other: Sentences, order: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = estimate(text, order)
    arpa = written(model, tmp_path_factory.mktemp("lm"))
    ids, position = encode(other, model.ids)
    scores = iter(model.log10_probs(ids, position))
    for sentence in other:
        words = ["<s>", *(word if word in model.ids else "<unk>" for word in sentence), "</s>"]
        next(scores)  # <s>
        for end in range(1, len(words)):
            history = tuple(words[max(0, end - order + 1) : end])
            assert next(scores) == pytest.approx(arpa.log10_prob(words[end], history), abs=3e-6)
    assert next(scores, None) is None


def test_perplexity_by_hand(tmp_path: Path) -> None:
    model = estimate([["a", "b"], ["a"], ["b"]], order=2)
    arpa = written(model, tmp_path)
    result = perplexity(model, [["b", "zebra"]])
    expected = arpa.log10_prob("b", ("<s>",)) + arpa.log10_prob("</s>", ("<unk>",))
    assert (result.sentences, result.words, result.unknown_words) == (1, 2, 1)
    assert result.log10_prob == pytest.approx(expected, abs=1e-5)
    assert result.perplexity == pytest.approx(10 ** (-expected / 2), rel=1e-4)


def test_kenlm_reads_it_and_agrees(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary").Dictionary()
    text = read_sentences(DATA / "sentences.txt")
    model = estimate(text, 3)
    for word in model.words:
        dictionary.add_entry(word)
    for name in ("model.arpa", "model.arpa.gz"):
        write_arpa(model, tmp_path / name)
        reader = kenlm.KenLM(str(tmp_path / name), dictionary)
        for sentence in [*text, ["MAT", "THE", "CAT", "ZEBRA", "THE", "DOG"]]:
            ids, position = encode([sentence], model.ids)
            state = reader.start(False)
            scores = []
            for word in ids[1:-1]:
                state, score = reader.score(state, int(word))
                scores.append(score)
            scores.append(reader.finish(state)[1])
            assert scores == pytest.approx(list(model.log10_probs(ids, position)[1:]), abs=1e-5)


# Mixtures ------------------------------------------------------------------------------------------------


def two_models(first: Sentences, second: Sentences, order: int) -> tuple[NgramModel, NgramModel]:
    words = {word for sentence in first + second for word in sentence}
    return estimate(first, order, words), estimate(second, order, words)


@settings(max_examples=30, deadline=None)
@given(first=small_texts, second=small_texts, order=st.integers(1, 3), weight=st.floats(0.05, 0.95))
def test_a_mixture_is_the_weighted_sum_where_listed_and_sums_to_one(
    first: Sentences, second: Sentences, order: int, weight: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = two_models(first, second, order)
    folder = tmp_path_factory.mktemp("lm")
    parts = [written(model, folder) for model in models]
    mixed = written(mix(models, (weight, 1 - weight)), folder)
    assert mixed.entries.keys() == parts[0].entries.keys() | parts[1].entries.keys()
    for ngram, (log10_prob, _) in mixed.entries.items():
        if ngram != ("<s>",):
            a, b = (10 ** part.log10_prob(ngram[-1], ngram[:-1]) for part in parts)
            assert 10**log10_prob == pytest.approx(weight * a + (1 - weight) * b, rel=3e-5)
    for history in [ngram for ngram in mixed.entries if len(ngram) < order and ngram[-1] != "</s>"]:
        assert mixed.total(history) == pytest.approx(1, abs=2e-4)


def test_a_model_mixed_with_itself_is_itself() -> None:
    model = estimate(read_sentences(DATA / "sentences.txt"), 3)
    mixed = mix([model, model], (0.3, 0.7))
    for one, other in zip(model.tables, mixed.tables, strict=True):
        np.testing.assert_array_equal(one.prefix, other.prefix)
        np.testing.assert_array_equal(one.word, other.word)
        np.testing.assert_allclose(one.log10_prob, other.log10_prob, atol=1e-9)
        np.testing.assert_allclose(one.log10_backoff, other.log10_backoff, atol=1e-9)


def test_fitted_weights_are_the_best_and_prefer_the_like_text() -> None:
    cats = sentences("the cat sat\nthe cat ran\na cat sat")
    dogs = sentences("one dog barks\ntwo dogs bark\none dog ran")
    models = two_models(cats, dogs, 2)
    held_out = sentences("a cat ran\nthe cat sat\none dog sat")
    fitted = fit_weights(models, held_out)
    assert sum(fitted) == pytest.approx(1)
    assert fitted[0] > 0.5
    ids, position = encode(held_out, models[0].ids)
    parts = np.stack([10 ** model.log10_probs(ids, position)[position > 0] for model in models])

    def log_likelihood(weight: float) -> float:
        return float(np.log(weight * parts[0] + (1 - weight) * parts[1]).sum())

    best = log_likelihood(fitted[0])
    assert all(best >= log_likelihood(weight) - 1e-9 for weight in np.linspace(0.01, 0.99, 99))
    assert fit_weights(models, cats)[1] == pytest.approx(0.001, rel=0.01)


def test_mixing_what_does_not_match() -> None:
    model, other = estimate([["a"]], 2), estimate([["b"]], 2)
    with pytest.raises(InputError, match="one vocabulary"):
        mix([model, other], (0.5, 0.5))
    for weights in [(1.0,), (0.5, 0.6), (0.0, 1.0), (1.5, -0.5)]:
        with pytest.raises(InputError, match="sum to 1"):
            mix([model, model], weights)
    with pytest.raises(InputError, match="no known words"):
        fit_weights([model, model], [])


# Files ---------------------------------------------------------------------------------------------------


def test_texts_are_pooled_or_mixed(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the cat sat\n\nthe dog ran.\n")
    (tmp_path / "two.txt").write_text("a dog sat\n")
    (tmp_path / "dev.txt").write_text("the cat ran\na bird sat\n")
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    pooled = build_language_model(texts, tmp_path / "pooled.arpa.gz", order=2)
    together = estimate(read_sentences(texts[0]) + read_sentences(texts[1]), 2)
    write_arpa(together, tmp_path / "together.arpa.gz")
    assert pooled.path.read_bytes() == (tmp_path / "together.arpa.gz").read_bytes()
    assert (pooled.ngrams[0], pooled.vocabulary, pooled.weights) == (9, 6, {})

    fitted = build_language_model(texts, tmp_path / "m.arpa", order=2, held_out=tmp_path / "dev.txt")
    assert sum(fitted.weights.values()) == pytest.approx(1)
    assert fitted.held_out is not None
    assert (fitted.held_out.words, fitted.held_out.unknown_words) == (6, 1)
    given_ = build_language_model(texts, tmp_path / "g.arpa", order=2, weights=list(fitted.weights.values()))
    assert given_.path.read_bytes() == fitted.path.read_bytes()

    (tmp_path / "lexicon.txt").write_text("CAT\tK AE T\nDOG D AO G\nBIRD\n")
    closed = build_language_model(texts, tmp_path / "c.arpa", vocabulary=tmp_path / "lexicon.txt")
    assert set(Arpa(closed.path).vocabulary) == {"CAT", "DOG", "BIRD", "<unk>", "</s>"}


@pytest.mark.parametrize(
    ("content", "out", "options", "message"),
    [
        ("in 1984\n", "m.arpa", {}, r"t\.txt:1: .*1984"),
        ("\n \n", "m.arpa", {}, r"t\.txt: no sentences"),
        ("a b\n", "m.bin", {}, r"m\.bin.*\.arpa"),
        ("a b\n", "m.arpa", {"order": 0}, "order 0"),
        ("a b\n", "m.arpa", {"cutoffs": [1]}, "cutoffs"),
        ("a b\n", "m.arpa", {"cutoffs": [0, 2, 1]}, "cutoffs"),
        ("a b\n", "m.arpa", {"cutoffs": [0, 0, 0, 0]}, "cutoffs"),
        ("a b\n", "m.arpa", {"weights": [0.5, 0.5]}, "one text"),
        ("a <s> b\n", "m.arpa", {"normalize": "spaces"}, "<s> is reserved"),
        ("a b\n", "m.arpa", {"normalize": "lower"}, "lower"),
    ],
)
def test_bad_input(tmp_path: Path, content: str, out: str, options: dict, message: str) -> None:
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        build_language_model([tmp_path / "t.txt"], tmp_path / out, **options)
    assert not (tmp_path / out).exists()


def test_unreadable_texts(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for path, message in [(tmp_path / "latin.txt", "not UTF-8"), (tmp_path / "none.txt", "no such file")]:
        with pytest.raises(InputError, match=f"{path.name}: {message}"):
            build_language_model([path], tmp_path / "m.arpa")
