from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from lhotse import CutSet

from asr_compress.corpora.manifests import read_manifest, summarize, write_manifests
from asr_compress.corpora.registry import read_corpus
from asr_compress.runtime.errors import InputError


def test_written_and_read_back_is_the_same(kaldi_corpus: Path, tmp_path: Path) -> None:
    (kaldi_corpus / "audio" / "dee-0.wav").unlink()
    splits = read_corpus("kaldi", kaldi_corpus)
    paths = write_manifests(splits, tmp_path / "out")
    assert {name: path.name for name, path in paths.items()} == {
        "train": "train.jsonl.gz",
        "test": "test.jsonl.gz",
    }
    for name, path in paths.items():
        assert list(read_manifest(path)) == list(splits[name])
    summary = summarize("test", read_manifest(paths["test"]))
    assert (summary.utterances, summary.speakers, summary.words, summary.failed) == (2, 1, 5, 1)


def test_the_same_corpus_gives_the_same_bytes(kaldi_corpus: Path, tmp_path: Path) -> None:
    first, second = (
        write_manifests(read_corpus("kaldi", kaldi_corpus), tmp_path / name)["train"].read_bytes() for name in "ab"
    )
    assert first == second


def test_lhotse_reads_it_too(kaldi_corpus: Path, tmp_path: Path) -> None:
    paths = write_manifests(read_corpus("kaldi", kaldi_corpus), tmp_path)
    cuts = CutSet.from_file(paths["train"])
    assert next(iter(cuts)).load_audio().shape == (1, 8000)


def test_a_failed_write_leaves_what_was_there(kaldi_corpus: Path, tmp_path: Path) -> None:
    splits = read_corpus("kaldi", kaldi_corpus, splits=["test"])
    path = write_manifests(splits, tmp_path)["test"]
    before = path.read_bytes()
    bad = CutSet.from_cuts(cut.with_id("same") for cut in splits["test"])
    with pytest.raises(InputError, match="'same' is there twice"):
        write_manifests({"test": bad}, tmp_path)
    assert path.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir() if it.is_file()] == ["test.jsonl.gz"]


def test_reading_what_is_not_a_manifest(kaldi_corpus: Path, tmp_path: Path) -> None:
    path = write_manifests(read_corpus("kaldi", kaldi_corpus), tmp_path)["train"]
    good = path.read_bytes()
    line = gzip.decompress(good).splitlines(keepends=True)[0]
    cases = {
        "absent": None,
        "plain": b"{}\n",
        "truncated": good[: len(good) // 2],
        "garbage": gzip.compress(b"{]\n"),
        "foreign": gzip.compress(b'{"type": "MixedCut"}\n'),
        "number": gzip.compress(b"1\n"),
        "wrong": gzip.compress(b'{"id": 3}\n'),
        "twice": gzip.compress(line + line),
        "empty": gzip.compress(b""),
        "no text": gzip.compress(line.replace(b'"text"', b'"txt"')),
        "long": gzip.compress(line.replace(b'"duration": 0.5', b'"duration": 5.0', 1)),
    }
    for name, content in cases.items():
        target = tmp_path / f"{name}.jsonl.gz"
        if content is not None:
            target.write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_manifest(target)
