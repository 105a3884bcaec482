"""What is got wrong: alignments, confusions, words that compression broke, speakers and lengths."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_compress.evaluation.scoring import Scored
from asr_compress.evaluation.test_set import Reference
from asr_compress.evaluation.wer import DELETION, HIT, INSERTION, Counts, UtteranceScore, word_pairs

# Upper ends of the bins of utterance length, in words.
_LENGTHS = (2, 5, 10, 20)


@dataclass(frozen=True)
class BrokenWord:
    """A word whose fate compression changed: right before and wrong after, or the other way round."""

    word: str
    broken: int
    mended: int
    reference: int


@dataclass(frozen=True)
class ErrorReport:
    """What one variant gets wrong.

    Attributes:
        confusions: (reference word, hypothesis word, count), most frequent first; so are the next two.
        deletions, insertions: (word, count).
        broken: beside the baseline, by how many more were broken than mended; empty for the baseline itself.
        speakers, lengths: (speaker, or words an utterance, counts).
    """

    confusions: tuple[tuple[str, str, int], ...]
    deletions: tuple[tuple[str, int], ...]
    insertions: tuple[tuple[str, int], ...]
    broken: tuple[BrokenWord, ...]
    speakers: tuple[tuple[str, Counts], ...]
    lengths: tuple[tuple[str, Counts], ...]


def report_errors(scored: Scored, position: int, baseline: int | None) -> ErrorReport:
    """Analyze one variant.

    Args:
        position: of the variant in `scored.results.variants`; it must have been recognized.
        baseline: position of the variant to compare words with, or None.
    """
    utterances = scored.scores[position].utterances
    steps = [step for utterance in utterances for step in word_pairs(utterance)]
    confusions = Counter((r, h) for _, r, h in steps if r is not None and h is not None and r != h)
    deletions = Counter(r for operation, r, _ in steps if operation == DELETION and r is not None)
    insertions = Counter(h for operation, _, h in steps if operation == INSERTION and h is not None)
    references = scored.results.references
    return ErrorReport(
        confusions=tuple((r, h, count) for (r, h), count in _ranked(confusions)),
        deletions=tuple(_ranked(deletions)),
        insertions=tuple(_ranked(insertions)),
        broken=() if baseline is None or baseline == position else _broken(scored, position, baseline),
        speakers=_grouped(utterances, lambda u: references[u.id].speaker),
        lengths=_grouped(utterances, lambda u: _length(u.words.reference)),
    )


def aligned(utterance: UtteranceScore) -> str:
    """The alignment on one line: right words in lower case, errors as `[reference>hypothesis]`, `-` for no word."""
    parts = []
    for operation, reference, hypothesis in word_pairs(utterance):
        word = reference or "-"
        parts.append(word.lower() if operation == HIT else f"[{word}>{hypothesis or '-'}]")
    return " ".join(parts)


def utterances_csv(scored: Scored) -> str:
    """One line an utterance and variant."""
    header = ("variant", "seed", "id", "speaker", "duration_s", "words", "errors", "substitutions", "deletions",
              "insertions", "reference", "hypothesis", "alignment", "failed")  # fmt: skip
    return _csv(header, _utterance_lines(scored))


def words_csv(scored: Scored, reports: dict[int, ErrorReport]) -> str:
    """Confusions, deletions, insertions and broken words of all variants, with their counts."""
    lines: list[tuple[Any, ...]] = []
    for i, report in reports.items():
        name = _name(scored, i)
        lines += [(*name, "substitution", r, h, count, "") for r, h, count in report.confusions]
        lines += [(*name, "deletion", r, "", count, "") for r, count in report.deletions]
        lines += [(*name, "insertion", "", h, count, "") for h, count in report.insertions]
        lines += [(*name, "broken", word.word, "", word.broken, word.mended) for word in report.broken]
    return _csv(("variant", "seed", "kind", "reference", "hypothesis", "count", "mended"), lines)


def groups_csv(scored: Scored, reports: dict[int, ErrorReport]) -> str:
    """Error rates by speaker and by length."""
    lines: list[tuple[Any, ...]] = []
    for i, report in reports.items():
        for kind, groups in (("speaker", report.speakers), ("words", report.lengths)):
            for group, counts in groups:
                rate = f"{counts.rate:.4f}" if counts.reference else ""
                lines.append((*_name(scored, i), kind, group, counts.reference, counts.errors, rate))
    return _csv(("variant", "seed", "by", "group", "words", "errors", "wer"), lines)


def _broken(scored: Scored, position: int, baseline: int) -> tuple[BrokenWord, ...]:
    broken: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for ours, theirs in zip(scored.scores[position].utterances, scored.scores[baseline].utterances, strict=True):
        before, after = (
            [operation == HIT for operation in utterance.operations if operation != INSERTION]
            for utterance in (theirs, ours)
        )
        for word, was_right, is_right in zip(ours.reference.split(), before, after, strict=True):
            total[word] += 1
            broken[word] += was_right and not is_right
            mended[word] += is_right and not was_right
    changed = [BrokenWord(w, broken[w], mended[w], total[w]) for w in total if broken[w] or mended[w]]
    return tuple(sorted(changed, key=lambda word: (word.mended - word.broken, -word.broken, word.word)))


def _grouped(utterances: Sequence[UtteranceScore], group: Any) -> tuple[tuple[str, Counts], ...]:
    counts: dict[str, Counts] = {}
    for utterance in utterances:
        name = group(utterance)
        counts[name] = counts.get(name, Counts()) + utterance.words
    return tuple(sorted(counts.items(), key=lambda item: _natural(item[0])))


def _length(words: int) -> str:
    least = 0
    for most in _LENGTHS:
        if words <= most:
            return f"{least}-{most}"
        least = most + 1
    return f"{least}+"


def _natural(name: str) -> tuple[int, str]:
    """Bins of lengths in the order of their numbers, speakers as text."""
    digits = name.split("-")[0].rstrip("+")
    return (int(digits) if digits.isdigit() else 0, name)


def _ranked(counter: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _name(scored: Scored, position: int) -> tuple[str, Any]:
    variant = scored.results.variants[position]
    seed = variant.variant["seed"]
    return variant.label, "" if seed is None else seed


def _utterance_lines(scored: Scored) -> Iterable[tuple[Any, ...]]:
    for i, corpus in scored.scores.items():
        for utterance in corpus.utterances:
            reference: Reference = scored.results.references[utterance.id]
            words = utterance.words
            yield (
                *_name(scored, i), utterance.id, reference.speaker, round(reference.duration_s, 3), words.reference,
                words.errors, words.substitutions, words.deletions, words.insertions, utterance.reference,
                utterance.hypothesis, aligned(utterance), utterance.failed or "",
            )  # fmt: skip


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
