"""MAPSSWE must equal NIST's, and a verdict must never be more than its interval allows."""

from __future__ import annotations

import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.evaluation.bootstrap import Interval
from asr_compress.evaluation.significance import mapsswe, segments, verdict, within_margin
from asr_compress.evaluation.wer import Counts, score
from tests.evaluation.texts import random_pairs

operations = st.text("=SDI", max_size=20)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("====", "====", []),
        ("S===", "====", [(1, 0)]),
        ("S=S", "===", [(2, 0)]),  # one good word does not part them
        ("S==S", "====", [(1, 0), (1, 0)]),
        ("S==S", "=S==", [(2, 1)]),  # right in one system only is not good
        ("S=I=S", "====", [(3, 0)]),  # an insertion interrupts good words
        ("I==I", "==", [(1, 0), (1, 0)]),
        ("DD", "SS", [(2, 2)]),
        ("II", "", [(2, 0)]),
    ],
)
def test_segments(first, second, expected):
    assert segments(first, second) == expected


@given(st.data(), st.integers(0, 12))
def test_segments_sum_to_the_errors(data, words):
    pair = []
    for _ in range(2):
        steps = data.draw(st.lists(st.sampled_from("=SD"), min_size=words, max_size=words))
        gaps = data.draw(st.lists(st.integers(0, 2), min_size=words + 1, max_size=words + 1))
        pair.append("I" * gaps[0] + "".join(step + "I" * gap for step, gap in zip(steps, gaps[1:], strict=True)))
    found = segments(*pair)
    assert [sum(side) for side in zip(*found, strict=True)] in ([Counts.of(x).errors for x in pair], [])
    assert found or not any(Counts.of(x).errors for x in pair)


def test_mapsswe_equals_sc_stats(tmp_path):
    folder = Path(shutil.which("sc_stats") or "/usr/lib/sctk/bin/sc_stats").parent
    if not (folder / "sc_stats").exists():
        pytest.skip("sc_stats is not installed (Debian package sctk)")
    for seed in range(3):
        theirs, ours = both_tests(folder, tmp_path, seed)
        assert ours.segments == int(theirs[0])
        assert -ours.mean == pytest.approx(float(theirs[1]), abs=6e-4)
        assert -ours.z == pytest.approx(float(theirs[2]), abs=6e-4)


def both_tests(folder: Path, work: Path, seed: int):
    pairs = random_pairs(300, 50, 12, 0.3, seed)
    chance = random.Random(seed)
    references, one = [r for r, _ in pairs], [h for _, h in pairs]
    two = [" ".join(w for w in h.split() if chance.random() > 0.02) if chance.random() < 0.9 else r for r, h in pairs]
    alignments = b""
    (work / "ref.trn").write_text(listing(references))
    for name, texts in (("one", one), ("two", two)):
        (work / f"{name}.trn").write_text(listing(texts))
        command = ["sclite", "-r", "ref.trn", "trn", "-h", f"{name}.trn", "trn", name, "-i", "spu_id", "-o", "sgml"]
        subprocess.run([folder / command[0], *command[1:]], cwd=work, capture_output=True, check=True)
        alignments += (work / f"{name}.trn.sgml").read_bytes()
    command = [str(folder / "sc_stats"), "-p", "-t", "mapsswe", "-v", "-n", "-"]
    report = subprocess.run(command, input=alignments, cwd=work, capture_output=True, check=True).stdout.decode()
    found = re.search(r"# segs: (\d+)\).*\(mean: (\S+)\).*\(Z Stat: (\S+)\)", report)
    assert found
    ids = [str(i) for i in range(len(pairs))]
    scores = [score(ids, references, texts, "none", scoring="sclite") for texts in (one, two)]
    return found.groups(), mapsswe(*([u.operations for u in s.utterances] for s in scores))


def listing(texts: list[str]) -> str:
    return "".join(f"{text} (spk{i % 10}-{i:05d})\n" for i, text in enumerate(texts))


def test_mapsswe_of_equal_systems():
    same = mapsswe(["S==", "==D"], ["S==", "==D"])
    assert same.z == 0 and same.p == 1
    assert math.isnan(mapsswe(["S"], ["="]).p)


def test_verdict_follows_the_interval():
    assert verdict(Interval(-0.02, -0.03, -0.01)) == "better"
    assert verdict(Interval(0.02, 0.01, 0.03)) == "worse"
    assert verdict(Interval(0.0, -0.01, 0.01)) == "no evidence"
    assert verdict(Interval(0.0, 0.0, 0.0)) == "no evidence"
    assert verdict(Interval(0.5, math.nan, math.nan)) == "no evidence"


@pytest.mark.parametrize(
    ("low", "high", "passed"),
    [
        (-0.004, 0.008, True),
        (-0.004, 0.012, False),  # not surely within
        (0.02, 0.03, False),  # surely beyond
        (-0.05, 0.005, False),  # wider than the margin: luck would pass too
        (-0.20, -0.01, True),  # surely better, however wide
        (math.nan, math.nan, False),
    ],
)
def test_margin(low, high, passed):
    assert within_margin(Interval((low + high) / 2, low, high), 0.01).passed is passed
