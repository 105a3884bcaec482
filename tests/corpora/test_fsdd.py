from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_compress.corpora.fsdd import LONGEST_STRING, WORDS
from asr_compress.corpora.manifests import read_manifest, write_manifests
from asr_compress.corpora.registry import read_corpus
from asr_compress.runtime.errors import InputError

DIGITS, SPEAKERS, TAKES = (0, 4, 9), ("ann", "bob", "cy"), 12


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes that can be told apart by their constant value."""
    root = tmp_path_factory.mktemp("fsdd")
    (root / "recordings").mkdir()
    value = 0
    for digit in DIGITS:
        for speaker in SPEAKERS:
            for number in range(TAKES):
                value += 1
                path = root / "recordings" / f"{digit}_{speaker}_{number}.wav"
                soundfile.write(path, np.full(80 + value, 0.2 + value / 256, np.float32), 8000, subtype="FLOAT")
    return root


def takes_of(cuts) -> Counter[str]:
    return Counter(take for cut in cuts for take in cut.custom["takes"])


def number_of(take: str) -> int:
    return int(take.split("_")[2])


def test_held_out_takes_are_each_in_one_string(recordings: Path, tmp_path: Path) -> None:
    splits = read_corpus("fsdd", recordings, audio_dir=tmp_path, passes=3)
    takes = {name: takes_of(cuts) for name, cuts in splits.items()}
    assert {number_of(take) for take in takes["test"]} == set(range(5))
    assert {number_of(take) for take in takes["dev"]} == set(range(5, 10))
    assert {number_of(take) for take in takes["train"]} == {10, 11}
    everything = len(DIGITS) * len(SPEAKERS)
    assert (len(takes["test"]), len(takes["dev"]), len(takes["train"])) == (
        5 * everything,
        5 * everything,
        2 * everything,
    )
    assert set(takes["test"].values()) == set(takes["dev"].values()) == {1}
    assert set(takes["train"].values()) == {3}


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_a_speaker_left_out_is_in_test_only_and_whole(recordings: Path, tmp_path: Path, speaker: str) -> None:
    splits = read_corpus("fsdd", recordings, audio_dir=tmp_path, leave_out=speaker)
    speakers = {name: {cut.supervisions[0].speaker for cut in cuts} for name, cuts in splits.items()}
    assert speakers["test"] == {speaker}
    assert speakers["train"] == speakers["dev"] == set(SPEAKERS) - {speaker}
    test = takes_of(splits["test"])
    assert len(test) == len(DIGITS) * TAKES
    assert set(test.values()) == {1}
    assert takes_of(splits["train"]).keys().isdisjoint(takes_of(splits["dev"]))


def test_text_audio_and_takes_of_a_string_agree(recordings: Path, tmp_path: Path) -> None:
    splits = read_corpus("fsdd", recordings, audio_dir=tmp_path)
    values = {path.stem: soundfile.read(path)[0] for path in (recordings / "recordings").iterdir()}
    lengths = set()
    for cut in splits["test"]:
        takes = cut.custom["takes"]
        lengths.add(len(takes))
        assert cut.supervisions[0].text.split() == [WORDS[int(take[0])] for take in takes]
        assert {take.split("_")[1] for take in takes} == {cut.supervisions[0].speaker}
        samples, rate_hz = soundfile.read(cut.recording.sources[0].source)
        loud = np.flatnonzero(np.abs(samples) > 0.1)
        np.testing.assert_allclose(samples[loud], np.concatenate([values[take] for take in takes]), atol=1e-4)
        assert 0.15 * rate_hz <= loud[0] <= 0.4 * rate_hz
        gaps = np.diff(loud)
        assert (gaps > 1).sum() == len(takes) - 1
        assert all(gaps[gaps > 1] > 0.05 * rate_hz)
    assert max(lengths) <= LONGEST_STRING
    assert len(lengths) > 1


def test_the_same_seed_gives_the_same_strings_and_takes_stay_in_the_manifest(recordings: Path, tmp_path: Path) -> None:
    first, second, other = (
        read_corpus("fsdd", recordings, audio_dir=tmp_path / name, seed=seed)["train"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert [cut.custom["takes"] for cut in first] == [cut.custom["takes"] for cut in second]
    assert [cut.custom["takes"] for cut in first] != [cut.custom["takes"] for cut in other]
    for one, two in zip(first, second, strict=True):
        a, b = (Path(cut.recording.sources[0].source).read_bytes() for cut in (one, two))
        assert a == b
    path = write_manifests({"train": first}, tmp_path)["train"]
    assert takes_of(read_manifest(path)) == takes_of(first)


def test_bad_input(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="audio_dir"):
        read_corpus("fsdd", recordings)
    with pytest.raises(InputError, match=r"'dan'.*ann, bob, cy"):
        read_corpus("fsdd", recordings, audio_dir=tmp_path, leave_out="dan")
    with pytest.raises(InputError, match="passes"):
        read_corpus("fsdd", recordings, audio_dir=tmp_path, passes=0)
    with pytest.raises(InputError, match="no recordings"):
        read_corpus("fsdd", tmp_path, audio_dir=tmp_path)
    (tmp_path / "1_ann_0.flac").write_text("not audio")
    with pytest.raises(InputError, match=r"1_ann_0\.flac: not a readable"):
        read_corpus("fsdd", tmp_path, audio_dir=tmp_path / "out", splits=["test"])


def test_real_recordings(corpora_dir: Path, tmp_path: Path) -> None:
    splits = read_corpus("fsdd", corpora_dir / "fsdd", audio_dir=tmp_path, splits=["dev", "test"])
    for name in ("dev", "test"):
        takes = takes_of(splits[name])
        assert len(takes) == 5 * 10 * 5
        assert set(takes.values()) == {1}
