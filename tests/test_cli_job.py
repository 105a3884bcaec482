"""The main job by its commands, from a folder of recordings on, on a language of tones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import yaml

from asr_compress.cli import main
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.tokens import Tokens
from tests.runtime.tones import RATE_HZ, say

TOKENS = Tokens.characters()
TEXTS = ["AB", "BA CAB", "CAB A", "ABBA", "A CAB", "BAA", "CC AB", "B A C"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings by four speakers of the same sentences, with a table of transcripts."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = ["path\ttext\tspeaker"]
    for number, text in enumerate(TEXTS * 4):
        soundfile.write(folder / f"{number:02}.wav", say(text, TOKENS), RATE_HZ)
        rows.append(f"{number:02}.wav\t{text.lower()}\tspeaker{number // len(TEXTS)}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    return json.loads(said.out)


def test_from_recordings_to_a_bundle_that_transcribes(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = tmp_path / "manifests"
    prepared = call(capsys, "prepare", "folder", corpus, "--split", "train", "--dev-speakers", 1, "--out", manifests)
    rows = {row["split"]: row for row in prepared["splits"]}
    assert rows["train"]["utterances"] == 24
    assert rows["train-dev"]["speakers"] == 1
    assert prepared["problems"] == []

    config = tmp_path / "train.yaml"
    settings = {
        "model": "lstm-tiny",
        "train": [str(manifests / "train.jsonl.gz")],
        "dev": [str(manifests / "train-dev.jsonl.gz")],
        "features": {"bins": 20},
        "augment": {"speeds": [1.0]},
        "epochs": 1,
        "device": "cpu",
    }
    config.write_text(yaml.safe_dump(settings))
    trained = call(capsys, "train", config, "--out", tmp_path / "run")
    bundle = Bundle.load(trained["bundle"])
    assert bundle.features.bins == 20
    assert bundle.model == {"name": "lstm-tiny"}
    assert bundle.history[0]["config"]["epochs"] == 1
    assert bundle.history[0]["dev"]["error"] == trained["dev"]["error"]

    lm = tmp_path / "lm.arpa.gz"
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 3) + "\n")
    call(capsys, "lm", text, "--order", 2, "--out", lm)
    tuned = call(
        capsys, "tune", trained["bundle"], "--data", settings["dev"][0], "--lm", lm, "--beam-width", 5,
        "--out", tmp_path / "tuned.safetensors",
    )  # fmt: skip
    assert Bundle.load(tuned["bundle"]).decoding == tuned["decoding"]
    assert tuned["decoding"]["beam_width"] == 5 and tuned["dev_wer"] >= 0 and tuned["trials"] > 10

    more = call(capsys, "train", config, "--initial", trained["bundle"], "--out", tmp_path / "more")
    assert more["dev"]["loss"] < trained["dev"]["loss"]
    settings["model"] = "lstmp-tiny"
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit):
        main(["train", str(config), "--initial", trained["bundle"], "--out", str(tmp_path / "other")])
    assert "not the model that this training is of" in capsys.readouterr().err

    transcript = call(capsys, "transcribe", trained["bundle"], corpus / "00.wav")
    assert transcript["duration_s"] == pytest.approx(soundfile.info(corpus / "00.wav").duration, abs=1e-3)


def test_a_bad_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("model: lstm-tiny\ntrain: [a.jsonl.gz]\ndev: [b.jsonl.gz]\nepoch: 3\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(config), "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "epoch" in said
    assert str(config) in said
