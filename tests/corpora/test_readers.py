from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from asr_compress.corpora.manifests import summarize
from asr_compress.corpora.registry import read_corpus
from asr_compress.corpora.splits import hold_out
from asr_compress.corpora.utterances import Problem, is_broken
from asr_compress.runtime.errors import InputError


def texts(cuts) -> dict[str, str]:
    return {cut.id: cut.supervisions[0].text for cut in cuts}


def speakers(cuts) -> set[str]:
    return {cut.supervisions[0].speaker for cut in cuts}


# Kaldi ---------------------------------------------------------------------------------------------------


def test_kaldi_reads_every_data_directory(kaldi_corpus: Path) -> None:
    splits = read_corpus("kaldi", kaldi_corpus)
    assert sorted(splits) == ["test", "train"]
    assert texts(splits["test"]) == {"dee-0": "HELLO DEE", "dee-1": "HELLO AGAIN DEE"}
    assert speakers(splits["train"]) == {"ann", "bob", "cy"}
    for cut in splits["train"]:
        path = Path(cut.recording.sources[0].source)
        assert path.is_absolute()
        assert cut.duration == pytest.approx(soundfile.info(path).duration)


def test_kaldi_reads_one_data_directory_and_absolute_paths(kaldi_corpus: Path) -> None:
    scp = kaldi_corpus / "test" / "wav.scp"
    scp.write_text(scp.read_text().replace("audio/", f"{kaldi_corpus}/audio/"))
    splits = read_corpus("kaldi", kaldi_corpus / "test")
    assert list(splits) == ["test"]
    assert not any(is_broken(cut) for cut in splits["test"])


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("wav.scp", "ann-0 audio/ann-0.wav", "wav.scp:7.*twice"),
        ("text", "ann-0 AGAIN", "text:7.*twice"),
        ("wav.scp", "ann-9 sph2pipe x.sph |", "no speaker.*ann-9"),
        ("segments", "ann-0 rec 0 1", "segments"),
    ],
)
def test_kaldi_errors_name_file_and_line(kaldi_corpus: Path, file: str, line: str, message: str) -> None:
    with (kaldi_corpus / "train" / file).open("a") as out:
        out.write(line + "\n")
    with pytest.raises(InputError, match=message):
        read_corpus("kaldi", kaldi_corpus)


def test_kaldi_refuses_commands(kaldi_corpus: Path) -> None:
    scp = kaldi_corpus / "train" / "wav.scp"
    scp.write_text(scp.read_text().replace("ann-0 audio/ann-0.wav", "ann-0 flac -dc x.flac |"))
    with pytest.raises(InputError, match=r"wav\.scp:1.*command"):
        read_corpus("kaldi", kaldi_corpus)


# LibriSpeech ---------------------------------------------------------------------------------------------


@pytest.fixture
def librispeech(tmp_path: Path, write_audio) -> Path:
    for split, suffix in {"train-clean-5": ".opus", "dev-clean-2": ".flac"}.items():
        for speaker in ("11", "22"):
            chapter = tmp_path / "LibriSpeech" / split / speaker / "7"
            lines = []
            for number in range(2):
                name = f"{speaker}-7-{number:04d}"
                write_audio(chapter / f"{name}{suffix}")
                lines.append(f"{name} CHAPTER SEVEN PART {'I' * (number + 1)}\n")
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return tmp_path


def test_librispeech_reads_flac_and_opus(librispeech: Path) -> None:
    splits = read_corpus("librispeech", librispeech)
    assert sorted(splits) == ["dev-clean-2", "train-clean-5"]
    for cuts in splits.values():
        assert speakers(cuts) == {"11", "22"}
        assert texts(cuts)["22-7-0001"] == "CHAPTER SEVEN PART II"
        assert not any(is_broken(cut) for cut in cuts)
        assert sum(cut.duration for cut in cuts) == pytest.approx(2.0, abs=0.01)


def test_mini_and_folder_and_subset_name_the_same_splits(librispeech: Path) -> None:
    everything = read_corpus("librispeech", librispeech)
    mini = read_corpus("librispeech", librispeech / "LibriSpeech", splits=["mini"])
    assert {name: texts(cuts) for name, cuts in mini.items()} == {
        name: texts(cuts) for name, cuts in everything.items()
    }
    assert list(read_corpus("librispeech", librispeech, splits=["dev-clean-2"])) == ["dev-clean-2"]
    with pytest.raises(InputError, match="test-other.*dev-clean-2"):
        read_corpus("librispeech", librispeech, splits=["test-other"])


def test_listed_utterances_and_hours(librispeech: Path) -> None:
    listed = read_corpus("librispeech", librispeech, splits=["dev-clean-2"], utterances={"11-7-0001"})
    assert list(texts(listed["dev-clean-2"])) == ["11-7-0001"]
    with pytest.raises(InputError, match="1 of the 2"):
        read_corpus("librispeech", librispeech, splits=["dev-clean-2"], utterances={"11-7-0001", "nope"})
    some = read_corpus("librispeech", librispeech, hours=0.9 / 3600)
    assert len(some["train-clean-5"]) == 2  # half a second each
    assert len(some["dev-clean-2"]) == 4  # only training is cut


# Folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.tsv", 'a\tHello, you.\nb\tSaid "no"!\n'),
        ("text.tsv", 'client_id\tpath\tsentence\nkim\ta.wav\tHello, you.\nkim\tb.wav\tSaid "no"!\n'),
        ("meta.csv", 'file,transcript,speaker\na.wav,"Hello, you.",kim\nb.wav,"Said ""no""!",kim\n'),
        (
            "meta.jsonl",
            json.dumps({"audio_filepath": "audio/a.wav", "text": "Hello, you."})
            + "\n"
            + json.dumps({"audio_filepath": "audio/b.wav", "text": 'Said "no"!', "duration": 1.0}),
        ),
    ],
)
def test_folder_reads_tables(tmp_path: Path, write_audio, name: str, content: str) -> None:
    for stem in "ab":
        write_audio(tmp_path / "audio" / f"{stem}.wav")
    (tmp_path / name).write_text(content)
    cuts = read_corpus("folder", tmp_path)["all"]
    assert texts(cuts) == {"a": "HELLO YOU", "b": "SAID NO"}
    assert not any(is_broken(cut) for cut in cuts)
    assert speakers(cuts) == ({"kim"} if "kim" in content else {tmp_path.name})


def test_several_tables_are_splits(tmp_path: Path, write_audio) -> None:
    for stem in ("a", "b"):
        write_audio(tmp_path / f"{stem}.wav")
    (tmp_path / "train.tsv").write_text("a\tone\n")
    (tmp_path / "test.tsv").write_text("b\ttwo\n")
    assert {name: texts(cuts) for name, cuts in read_corpus("folder", tmp_path).items()} == {
        "train": {"a": "ONE"},
        "test": {"b": "TWO"},
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "a\n", "t.tsv:1: 1 columns"),
        ("t.tsv", "a\tone\nb\n", "t.tsv:2: 1 columns where 2"),
        ("t.jsonl", "{\n", "t.jsonl:1: not JSON"),
        ("t.jsonl", '{"text": "one"}\n', "t.jsonl:1: no audio"),
        ("t.tsv", "a\tone\na\ttwo\n", r"t.tsv:\d: .*'a' is there twice"),
        ("t.txt", "a one\n", "no table"),
    ],
)
def test_folder_errors_name_file_and_line(tmp_path: Path, write_audio, name: str, content: str, message: str) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_corpus("folder", tmp_path)


# Bad input, the same for all ------------------------------------------------------------------------------


def test_unreadable_audio_is_kept_for_test_and_left_out_of_training(kaldi_corpus: Path) -> None:
    (kaldi_corpus / "audio" / "ann-0.wav").write_text("this is not audio")
    (kaldi_corpus / "audio" / "bob-0.wav").unlink()
    (kaldi_corpus / "audio" / "dee-0.wav").write_text("this is not audio")
    problems: list[Problem] = []
    splits = read_corpus("kaldi", kaldi_corpus, problems=problems)
    assert {"ann-0", "bob-0"}.isdisjoint(texts(splits["train"]))
    assert {cut.id for cut in splits["test"] if is_broken(cut)} == {"dee-0"}
    assert texts(splits["test"])["dee-0"] == "HELLO DEE"
    assert {(problem.utterance, problem.kept) for problem in problems} == {
        ("ann-0", False),
        ("bob-0", False),
        ("dee-0", True),
    }
    by_id = {problem.utterance: str(problem) for problem in problems}
    assert "ann-0.wav" in by_id["ann-0"]
    assert "no such file" in by_id["bob-0"]


def test_transcripts_missing_empty_or_refused_are_left_out_and_listed(kaldi_corpus: Path) -> None:
    (kaldi_corpus / "test" / "text").write_text("dee-0 ROOM 101\n")
    (kaldi_corpus / "train" / "text").write_text("ann-0 ...\nbob-0 HELLO\n")
    problems: list[Problem] = []
    with pytest.raises(InputError, match="'test': no usable utterance among 2"):
        read_corpus("kaldi", kaldi_corpus, splits=["test"], problems=problems)
    splits = read_corpus("kaldi", kaldi_corpus, splits=["train"], problems=problems)
    assert texts(splits["train"]) == {"bob-0": "HELLO"}
    messages = {problem.utterance: problem.message for problem in problems}
    assert "empty transcript" in messages["ann-0"]
    assert "text:1" in messages["ann-0"]
    assert "no transcript" in messages["cy-1"]


def test_a_transcript_without_a_recording_counts_as_failed(kaldi_corpus: Path) -> None:
    scp = kaldi_corpus / "test" / "wav.scp"
    scp.write_text("".join(line for line in scp.open() if not line.startswith("dee-1")))
    splits = read_corpus("kaldi", kaldi_corpus, splits=["test"])
    assert {cut.id for cut in splits["test"] if is_broken(cut)} == {"dee-1"}


def test_zero_samples_are_broken(kaldi_corpus: Path, write_audio) -> None:
    write_audio(kaldi_corpus / "audio" / "dee-0.wav", seconds=0)
    broken = [cut for cut in read_corpus("kaldi", kaldi_corpus)["test"] if is_broken(cut)]
    assert [cut.id for cut in broken] == ["dee-0"]
    assert "no samples" in broken[0].custom["broken"]


@pytest.mark.parametrize("kind", ["kaldi", "librispeech", "folder"])
def test_wrong_folders(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(InputError, match=str(folder)):
            read_corpus(kind, folder)


def test_wrong_kind_and_option(kaldi_corpus: Path) -> None:
    with pytest.raises(InputError, match="librispeech"):
        read_corpus("timit", kaldi_corpus)
    with pytest.raises(InputError, match="splits"):
        read_corpus("kaldi", kaldi_corpus, subset="train")


# Real speech ---------------------------------------------------------------------------------------------


def test_real_corpora_have_the_sizes_they_are_said_to_have(corpora_dir: Path) -> None:
    expected = {  # utterances, speakers, hours
        ("kaldi", "speechocean762"): {"train": (2500, 125, 2.88), "test": (1700, 85, 1.87)},
        ("librispeech", "librispeech-sample"): {
            "train-clean-100": (870, 248, 2.86),
            "heldout-clean": (118, 1, 0.42),
            "test-other": (50, 5, 0.11),
        },
        ("folder", "kathleen"): {"all": (1620, 1, 1.37)},
    }
    for (kind, folder), splits in expected.items():
        problems: list[Problem] = []
        read = read_corpus(kind, corpora_dir / folder, problems=problems)
        summaries = {name: summarize(name, cuts) for name, cuts in read.items()}
        assert {name: (it.utterances, it.speakers, round(it.hours, 2)) for name, it in summaries.items()} == splits
        assert problems == []
    prompts, held = hold_out(read["all"], 100, by="prompt")
    assert {cut.id[:12] for cut in prompts}.isdisjoint({cut.id[:12] for cut in held})
