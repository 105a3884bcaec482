"""What people get wrong, through the command line: one clear line that names the file, and nothing good lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_compress.cli import main
from asr_compress.runtime.tokens import Tokens
from tests.runtime.tones import RATE_HZ, say, tone_bundle

TOKENS = Tokens.characters()
SAMPLES = say("AB", TOKENS)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tones.safetensors"
    tone_bundle(TOKENS).save(path)
    return path


def truncated_flac(path: Path) -> None:
    """One that says how long it is and ends early, in the middle of a frame."""
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    soundfile.write(path, noise, RATE_HZ, format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_AUDIO: dict[str, Callable[[Path], object]] = {
    "empty.wav": lambda path: path.touch(),
    "no-samples.wav": lambda path: soundfile.write(path, np.zeros(0, np.float32), RATE_HZ),
    "nan.wav": lambda path: soundfile.write(path, np.full(8000, np.nan, np.float32), RATE_HZ, subtype="FLOAT"),
    "truncated.flac": truncated_flac,
    "text.wav": lambda path: path.write_text("this is a text\n" * 100),
    "folder.wav": lambda path: path.mkdir(),
    "missing.wav": lambda path: None,
}


@pytest.mark.parametrize("name", BAD_AUDIO)
def test_bad_audio(name: str, run: Run, model: Path, tmp_path: Path) -> None:
    BAD_AUDIO[name](tmp_path / name)
    code, out, err = run("transcribe", model, tmp_path / name)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert str(tmp_path / name) in err


def test_unusual_audio_is_fine(run: Run, model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE_HZ, np.float32), RATE_HZ)
    assert run("transcribe", model, tmp_path / "silence.wav")[:2] == (0, "\n")
    soundfile.write(tmp_path / "click.wav", np.ones(10, np.float32) / 2, RATE_HZ)  # less than a frame
    assert run("transcribe", model, tmp_path / "click.wav")[:2] == (0, "\n")
    # 8 kHz, stereo, 24 bit: the tones below 4 kHz come through.
    low = say("AB", Tokens.characters("ABCDEFGHIJKLMNOPQRSTUVWXYZ'"))[::2]
    soundfile.write(tmp_path / "telephone.wav", np.stack([low, low], axis=1), 8000, subtype="PCM_24")
    assert run("transcribe", model, tmp_path / "telephone.wav")[:2] == (0, "AB\n")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A test set in which one file is a text, one transcript is missing and one has a digit."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("good", "other", "no-text", "digit"):
        soundfile.write(folder / f"{name}.wav", SAMPLES, RATE_HZ)
    (folder / "broken.wav").write_text("not audio")
    rows = ["good.wav\tab", "other.wav\tab", "broken.wav\tab ab", "no-text.wav\t", "digit.wav\tab 2"]
    (folder / "test.tsv").write_text("\n".join(["path\ttext", *rows]) + "\n")
    return folder


def test_what_cannot_be_read_is_reported_and_counts_as_deletions(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    code, out, _ = run("prepare", "folder", corpus, "--split", "test", "--out", tmp_path / "manifests", "--json")
    assert code == 0
    prepared = json.loads(out)
    assert prepared["splits"][0]["utterances"] == 3
    problems = {problem.partition(":")[0]: problem for problem in prepared["problems"]}
    assert problems.keys() == {"test/broken", "test/no-text", "test/digit"}
    assert "counts as a failed file" in problems["test/broken"]
    manifest, results = tmp_path / "manifests/test.jsonl.gz", tmp_path / "results.jsonl"
    options = ("--rounds", 1, "--no-footprints", "--no-pin", "--backend", "reference", "--json")
    code, out, err = run("evaluate", model, "--data", manifest, "--out", results, *options)
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["failed"] == 1
    assert (row["words"], row["deletions"]) == (4, 2)
    assert row["wer"] == pytest.approx(0.5)


def test_duplicate_ids(run: Run, corpus: Path, tmp_path: Path) -> None:
    (corpus / "test.tsv").write_text("path\ttext\ngood.wav\tab\ngood.wav\tba\n")
    code, out, err = run("prepare", "folder", corpus, "--out", tmp_path / "manifests")
    assert (code, out) == (2, "")
    assert "good" in err
    assert "twice" in err
    assert not (tmp_path / "manifests").exists()


def test_full_disk_keeps_what_is_there(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "lm.arpa"
    text = tmp_path / "text.txt"
    text.write_text("A B\nB A\n" * 10)
    assert run("lm", text, "--order", 2, "--out", out)[0] == 0
    before = out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("lm", text, "--order", 3, "--out", out)
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert "No space left" in err
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
