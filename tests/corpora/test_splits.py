from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet

from asr_compress.corpora.registry import read_corpus
from asr_compress.corpora.splits import hold_out, take_hours, take_utterances
from asr_compress.runtime.errors import InputError


@pytest.fixture
def train(kaldi_corpus: Path) -> CutSet:
    return read_corpus("kaldi", kaldi_corpus, splits=["train"])["train"]


def ids(cuts: CutSet) -> list[str]:
    return [cut.id for cut in cuts]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_held_out_speakers_are_in_one_part_only(train: CutSet, count: int, seed: int) -> None:
    kept, taken = hold_out(train, count, seed=seed)
    speakers = [{cut.supervisions[0].speaker for cut in part} for part in (kept, taken)]
    assert speakers[0].isdisjoint(speakers[1])
    assert len(speakers[1]) == count
    assert sorted(ids(kept) + ids(taken)) == ids(train)
    backwards = CutSet.from_cuts(reversed(list(train)))
    assert set(ids(hold_out(backwards, count, seed=seed)[1])) == set(ids(taken))


def test_seeds_choose_differently(train: CutSet) -> None:
    assert len({tuple(ids(hold_out(train, 1, seed=seed)[1])) for seed in range(20)}) == 3


def test_held_out_by_text_and_prompt(train: CutSet) -> None:
    texts = [{cut.supervisions[0].text for cut in part} for part in hold_out(train, 2, by="text")]
    assert texts[0].isdisjoint(texts[1])
    arctic = CutSet.from_cuts(cut.with_id(f"arctic_a000{number // 2}_{number}") for number, cut in enumerate(train))
    kept, taken = hold_out(arctic, 1, by="prompt")
    assert {name[:12] for name in ids(kept)}.isdisjoint({name[:12] for name in ids(taken)})
    assert len(taken) == 2


@pytest.mark.parametrize("count", [0, 3, -1])
def test_something_must_be_left(train: CutSet, count: int) -> None:
    with pytest.raises(InputError, match="of 3"):
        hold_out(train, count)


def test_hours(train: CutSet) -> None:
    total = sum(cut.duration for cut in train) / 3600
    assert ids(take_hours(train, total)) == ids(train)
    some = take_hours(train, total / 2, seed=1)
    assert total / 2 <= sum(cut.duration for cut in some) / 3600 <= total / 2 + 0.75 / 3600
    for hours in (0, total * 1.01):
        with pytest.raises(InputError, match="hours"):
            take_hours(train, hours)


def test_utterances(train: CutSet) -> None:
    assert ids(take_utterances(train, {"cy-1", "ann-0", "absent"})) == ["ann-0", "cy-1"]
