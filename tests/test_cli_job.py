"""The main job by its commands, from a folder of recordings on, on a language of tones."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest
import soundfile
import torch
import yaml

from asr_compress.cli import main
from asr_compress.compression.registry import PASSES
from asr_compress.compression.sensitivity import GATE_STRENGTHS, STRENGTHS
from asr_compress.models.convert import to_network
from asr_compress.models.zoo import Size, lstm
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig
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


def test_passes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Every pass, with the defaults of its parameters; one by its name."""
    entries = call(capsys, "passes")
    assert [entry["name"] for entry in entries] == list(PASSES)
    for entry in entries:
        assert {"family", "what", "trains", "from_audio", "leaves", "cannot_follow"} <= entry.keys()
        fields = PASSES[entry["name"]].Params.model_fields
        assert entry["parameters"].keys() == fields.keys()
        for name, parameter in entry["parameters"].items():
            assert parameter["what"] and parameter["type"]
            assert parameter["default"] == json.loads(json.dumps(fields[name].default)), (entry["name"], name)
    (one,) = call(capsys, "passes", "distillation")
    assert one in entries and one["parameters"]["temperature"]["default"] == 1.0
    with pytest.raises(SystemExit) as stop:
        main(["passes", "distilation", "--json"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and "there are pruning, " in said.err and said.err.count("\n") == 1


def test_sensitivity(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, the pictures and the lines; cut short, it goes on and measures only what is missing."""
    manifests, start, out = tmp_path / "manifests", tmp_path / "start.safetensors", tmp_path / "scan"
    call(capsys, "prepare", "folder", corpus, "--split", "train", "--dev-speakers", 1, "--out", manifests)
    torch.manual_seed(0)
    model = lstm(Size(1, 16, dropout=0.0), len(TOKENS), 20).eval()
    Bundle(to_network(model), FeatureConfig(bins=20), TOKENS).save(start)
    verb = ["sensitivity", str(start), "--data", str(manifests / "train-dev.jsonl.gz"), "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(verb)
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    probes = (3 + 1) * len(STRENGTHS) + 4 * len(GATE_STRENGTHS)  # two maps, their layer, the output; then its gates
    assert f"{probes} probes on" in said.err
    untouched, hurts, head, *rows = said.out.splitlines()[:-1]
    assert untouched.startswith("untouched: error ") and hurts == "what hurts most:"
    assert head.split() == ["part", "strength", "error", "KL", "a", "frame", "smaller"]
    lines = [json.loads(line) for line in (out / "scan.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + probes
    worst = sorted(lines[1:], key=lambda line: -line["kl"])[:20]
    shown = [row for row in rows if row.startswith("layers.")]
    assert [row.split()[0] for row in shown] == [line["part"].split()[0] for line in worst]
    for row, line in zip(shown, worst, strict=True):
        assert line["strength"] in row and f"{line['kl']:.4f}" in row and f"{line['error']:.2%}" in row
    for figure in ("error", "kl"):
        assert f"{out / figure}.png" in said.out
        picture = matplotlib.image.imread(out / f"{figure}.png")
        assert min(picture.shape[:2]) > 100 and picture[..., :3].std() > 0.05

    kept = (out / "scan.jsonl").read_text().splitlines(keepends=True)
    (out / "scan.jsonl").write_text("".join(kept[:-5]) + kept[-5][:30])
    (out / "kl.png").unlink()
    again = call(capsys, *verb)
    assert {line["key"] for line in again} == {line["key"] for line in lines}
    assert (out / "scan.jsonl").read_text().splitlines()[: len(kept) - 5] == [line.rstrip("\n") for line in kept[:-5]]
    assert (out / "kl.png").exists()
    by_key = {line["key"]: line for line in lines}
    assert all(by_key[line["key"]] == line for line in again)


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
