"""Counts must equal jiwer's and sclite's, and no utterance may drop out."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.evaluation.sclite import align
from asr_compress.evaluation.wer import Counts, errors_by_reference_word, score, word_pairs
from asr_compress.runtime.errors import InputError
from tests.evaluation.texts import random_pairs

sentences = st.lists(st.sampled_from(["A", "B", "C", "D", "E"]), max_size=8).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=12)


def score_pairs(pairs: list[tuple[str, str]], **options):
    ids = [f"u{i}" for i in range(len(pairs))]
    return score(ids, [r for r, _ in pairs], [h for _, h in pairs], normalizer="none", **options)


@given(pairs)
def test_sums_equal_jiwers(pairs):
    result = score_pairs(pairs)
    references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    assert result.words == Counts(words.hits, words.substitutions, words.deletions, words.insertions)
    assert result.characters == Counts(
        characters.hits, characters.substitutions, characters.deletions, characters.insertions
    )
    if result.words.reference:
        assert result.words.rate == jiwer.wer(references, hypotheses)
        assert result.characters.rate == jiwer.cer(references, hypotheses)


@given(pairs, st.sampled_from(["jiwer", "sclite"]))
def test_alignment_spells_both_texts(pairs, scoring):
    for utterance in score_pairs(pairs, scoring=scoring).utterances:
        steps = word_pairs(utterance)
        assert [r for _, r, _ in steps if r is not None] == utterance.reference.split()
        assert [h for _, _, h in steps if h is not None] == utterance.hypothesis.split()
        assert all((r == h) == (operation == "=") for operation, r, h in steps)


@given(pairs)
def test_errors_by_reference_word_sum_to_the_errors(pairs):
    for utterance in score_pairs(pairs).utterances:
        charged = errors_by_reference_word(utterance.operations)
        assert len(charged) == utterance.words.reference
        if utterance.words.reference:
            assert charged.sum() == utterance.words.errors


@given(pairs)
def test_sclite_alignment_is_cheapest_under_its_own_weights(pairs):
    for reference, hypothesis in pairs:
        costs = [
            4 * counts.substitutions + 3 * (counts.deletions + counts.insertions)
            for counts in (
                Counts.of(align(reference.split(), hypothesis.split())),
                score_pairs([(reference, hypothesis)]).words,
            )
        ]
        assert costs[0] <= costs[1]


def test_failed_file_counts_as_deletions():
    result = score(
        ["a", "b"], ["ONE TWO", "THREE FOUR FIVE"], ["ONE TWO", None], "upper", failures={"b": "b.flac: truncated"}
    )
    assert result.words == Counts(hits=2, deletions=3)
    assert result.failed == 1
    assert result.utterances[1].failed == "b.flac: truncated"


def test_empty_references_count_insertions_and_have_no_rate():
    result = score_pairs([("", "A B"), ("", "")])
    assert result.words == Counts(insertions=2)
    assert result.words.rate != result.words.rate  # NaN
    assert score_pairs([("", "A"), ("B", "B")]).words.rate == 1.0


def test_normalizer_is_applied_to_both_texts():
    result = score(["a"], ["Hello,  world"], ["HELLO WORLD"], "upper", lambda text: text.upper().replace(",", ""))
    assert result.words == Counts(hits=2)
    assert result.normalizer == "upper"


def test_bad_input_says_what_came():
    with pytest.raises(InputError, match="'a' occurs twice"):
        score(["a", "a"], ["X", "Y"], ["X", "Y"], "none")
    with pytest.raises(InputError, match="1 ids, 2 references"):
        score(["a"], ["X", "Y"], ["X"], "none")


def sclite_program() -> str:
    program = shutil.which("sclite") or "/usr/lib/sctk/bin/sclite"
    if not Path(program).exists():
        pytest.skip("sclite is not installed (Debian package sctk)")
    return program


def sclite_counts(pairs: list[tuple[str, str]], folder: Path) -> list[Counts]:
    for name, side in (("ref.trn", 0), ("hyp.trn", 1)):
        (folder / name).write_text("".join(f"{pair[side]} (s-{i:06d})\n" for i, pair in enumerate(pairs)))
    files = ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    command = [sclite_program(), *files, "-i", "spu_id", "-o", "pralign", "stdout"]
    listing = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    ids = [int(found) for found in re.findall(r"id: \(s-(\d+)\)", listing)]
    counts = re.findall(r"Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", listing)
    assert sorted(ids) == list(range(len(pairs)))
    by_id = dict(zip(ids, counts, strict=True))
    return [Counts(*map(int, by_id[i])) for i in range(len(pairs))]


@pytest.mark.parametrize(
    ("words", "length", "rate", "most_other_totals"),
    [(50, 12, 0.2, 0.0), (50, 12, 0.5, 0.005), (5, 15, 0.5, 0.005), (26, 25, 0.9, 0.03)],
)
def test_counts_equal_sclites_on_random_pairs(tmp_path, words, length, rate, most_other_totals):
    pairs = random_pairs(1000, words, length, rate, seed=words + length)
    theirs = sclite_counts(pairs, tmp_path)
    ours = [utterance.words for utterance in score_pairs(pairs, scoring="sclite").utterances]
    assert ours == theirs
    # jiwer minimizes another cost, so only totals are comparable, and at high error rates not every one.
    fewest = [utterance.words.errors for utterance in score_pairs(pairs).utterances]
    assert all(few <= counts.errors for few, counts in zip(fewest, theirs, strict=True))
    other = sum(few != counts.errors for few, counts in zip(fewest, theirs, strict=True)) / len(pairs)
    assert other <= most_other_totals


def test_counts_equal_sclites_on_real_sentences(tmp_path, corpora_dir):
    lines = (corpora_dir / "text" / "librispeech-train-clean-100.txt").read_text().split("\n")[:600]
    sentences = [line.split() for line in lines if line.strip()]
    chance = random.Random(3)
    vocabulary = [word for sentence in sentences for word in sentence]
    pairs = []
    for sentence in sentences:
        noisy = [chance.choice(vocabulary) if chance.random() < 0.2 else word for word in sentence]
        pairs.append((" ".join(sentence), " ".join(word for word in noisy if chance.random() > 0.1)))
    theirs = sclite_counts(pairs, tmp_path)
    assert [utterance.words for utterance in score_pairs(pairs, scoring="sclite").utterances] == theirs
    fewest = [utterance.words.errors for utterance in score_pairs(pairs).utterances]
    assert abs(sum(fewest) / sum(counts.errors for counts in theirs) - 1) < 0.002
