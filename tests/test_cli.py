"""The command line as a user meets it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from io import BufferedReader, BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from asr_compress import __version__
from asr_compress.cli import app, main
from asr_compress.cli.output import explain
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens
from tests.commands import command_lines, parse, words
from tests.runtime.tones import RATE_HZ, say, silence, tone_bundle

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Result(int(stop.value.code or 0), said.out, said.err)

    return call


def test_version(run) -> None:
    assert run("--version") == Result(0, f"asr-compress {__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples_that_parse(verb: str, run) -> None:
    help_text = run(verb, "--help").out
    examples = list(command_lines(help_text))
    assert any(words(line)[1] == verb for line in examples), "no example"
    for line in examples:
        parse(words(line)[1:])


def test_examples_that_do_not_parse_are_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["lm", "books.txt", "--out", "lm.arpa", "--ordr", "3"])
    with pytest.raises(AssertionError, match="no verb"):
        parse(["language-model"])


def test_help_does_not_import_torch() -> None:
    program = (
        "import sys; from asr_compress.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "lhotse", "scipy", "librosa", "matplotlib"):
        assert f"'{heavy}'" not in out


def test_bad_input_is_one_line_and_code_2(run, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = run("prepare", "kaldi", missing, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.out == ""
    assert result.err == f"asr-compress: {missing}: no such folder\n"
    assert not (tmp_path / "out").exists()


def test_unknown_option_is_code_2(run) -> None:
    assert run("lm", "--nonsense").code == 2


def test_errors_that_are_no_bugs_are_explained() -> None:
    assert explain(InputError("a.wav: no such file")) == ("a.wav: no such file", 2)
    message, code = explain(ModuleNotFoundError("No module named 'torch'", name="torch.nn")) or ("", 0)
    assert "asr-compress[train]" in message
    assert code == 2
    assert explain(OSError(28, "No space left on device", "x/model.safetensors")) == (
        "x/model.safetensors: No space left on device",
        1,
    )
    assert explain(KeyError("a bug")) is None
    assert explain(ModuleNotFoundError("No module named 'asr_compress.nonsense'", name="asr_compress.nonsense")) is None


def test_doctor(run) -> None:
    result = run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.out)}
    assert {"python", "processor", "engine", "runtime", "torch", "disk"} <= checks.keys()
    assert result.code == (1 if any(check["status"] == "problem" for check in checks.values()) else 0)
    for check in checks.values():
        assert check["status"] == "ok" or check["advice"] or check["name"] == "gpu", check
    assert "engine" in run("doctor").out


def test_models(run) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json").out)}
    small = rows["lstm-small"]
    assert small["streams"]
    assert not rows["blstm-small"]["streams"]
    # Three layers over 320, 256 and 256 inputs, layer norms, 40 outputs, normalization of 80 bins; by hand.
    maps = sum(4 * 256 * (inputs + 256) for inputs in (320, 256, 256)) + 40 * 256
    assert small["parameters"] == maps + 3 * 4 * 256 + 3 * 2 * 256 + 40 + 2 * 80
    assert small["macs_per_audio_s"] == 25 * maps
    more = {row["name"]: row for row in json.loads(run("models", "--tokens", 41, "--json").out)}
    assert more["lstm-small"]["parameters"] == small["parameters"] + 257
    assert "lstm-small" in run("models").out


def test_lm(run, tmp_path: Path) -> None:
    text, held_out, out = tmp_path / "text.txt", tmp_path / "dev.txt", tmp_path / "lm.arpa.gz"
    text.write_text("THE CAT SAT\nTHE DOG SAT\nA CAT RAN\nTHE CAT RAN\n" * 3)
    held_out.write_text("THE DOG RAN\n")
    result = json.loads(run("lm", text, "--order", 2, "--out", out, "--held-out", held_out, "--json").out)
    assert result["vocabulary"] == 6
    assert result["held_out"]["perplexity"] > 1
    assert b"\\2-grams:" in gzip.decompress(out.read_bytes())
    assert str(out) in run("lm", text, "--out", out).out
    assert run("lm", tmp_path / "none.txt", "--out", out).code == 2


def test_lexicon(run, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "lexicon.txt"
    text.write_text("the cat\nthe zorblax\n")
    result = json.loads(run("lexicon", text, "--out", out, "--json").out)
    assert result["words"] == 3
    assert "CAT\tK AE T\n" in out.read_text()
    text.write_text("1984\n")
    assert run("lexicon", text, "--out", out).code == 2
    assert "CAT\tK AE T\n" in out.read_text()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A folder with a recognizer of tones, `tones.safetensors`, and recordings of them."""
    tokens = Tokens.characters("ABC")
    tone_bundle(tokens).save(tmp_path / "tones.safetensors")
    soundfile.write(tmp_path / "ab.wav", say("AB CAB", tokens), RATE_HZ)
    soundfile.write(tmp_path / "c.flac", say("C", tokens), RATE_HZ)
    return tmp_path


def test_transcribe(run, speech: Path) -> None:
    model, ab, c = speech / "tones.safetensors", speech / "ab.wav", speech / "c.flac"
    assert run("transcribe", model, ab) == Result(0, "AB CAB\n", "")
    assert run("transcribe", model, ab, c).out == f"{ab}\tAB CAB\n{c}\tC\n"
    lines = [json.loads(line) for line in run("transcribe", model, ab, c, "--json").out.splitlines()]
    assert [line["audio"] for line in lines] == [str(ab), str(c)]
    assert [word["text"] for word in lines[0]["words"]] == ["AB", "CAB"]
    assert run("transcribe", model, ab, "--format", "srt").out.endswith("\nAB CAB\n")


def test_transcribe_of_other_rates_channels_and_sample_formats(run, speech: Path) -> None:
    samples = say("AB", Tokens.characters("ABC"))
    path = speech / "stereo.wav"
    soundfile.write(path, np.stack([np.repeat(samples, 3)] * 2, axis=1), 3 * RATE_HZ, subtype="PCM_24")
    assert run("transcribe", speech / "tones.safetensors", path).out == "AB\n"


def test_transcribe_goes_on_after_a_bad_file(run, speech: Path) -> None:
    text, empty, missing = speech / "text.wav", speech / "empty.wav", speech / "missing.wav"
    text.write_text("not audio")
    empty.touch()
    result = run("transcribe", speech / "tones.safetensors", text, empty, missing, speech / "c.flac")
    assert result.code == 2
    assert result.out == f"{speech / 'c.flac'}\tC\n"
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert all(
        line.startswith(f"asr-compress: {path}") for line, path in zip(lines, (text, empty, missing), strict=True)
    )


def test_transcribe_says_what_is_wrong_with_a_bundle(run, speech: Path) -> None:
    damaged = speech / "damaged.safetensors"
    damaged.write_bytes((speech / "tones.safetensors").read_bytes()[:-40])
    result = run("transcribe", damaged, speech / "c.flac")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert str(damaged) in result.err
    assert run("transcribe", speech / "tones.safetensors").code == 2


def test_transcribe_without_a_bundle(run, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(speech)
    monkeypatch.delenv("ASR_COMPRESS_BUNDLE", raising=False)
    result = run("transcribe", "c.flac")
    assert result.code == 2
    assert "make demo" in result.err
    monkeypatch.setenv("ASR_COMPRESS_BUNDLE", "tones.safetensors")
    assert run("transcribe", "c.flac").out == "C\n"


def test_stream_of_a_file_and_of_standard_input(run, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = speech / "tones.safetensors"
    assert run("stream", model, speech / "ab.wav", "--endpoint-s", 0).out == "AB CAB\n"
    tokens = Tokens.characters("ABC")
    samples = np.concatenate([say("AB", tokens), silence(1.5), say("C", tokens)])
    raw = (samples * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BufferedReader(BytesIO(raw))))
    result = run("stream", model, "-", "--json", "--chunk-s", 0.07)
    segments = [json.loads(line) for line in result.out.splitlines()]
    assert [segment["text"] for segment in segments] == ["AB", "C"]
    assert segments[1]["words"][0]["start_s"] > 1.5
    assert run("stream", model, speech / "ab.wav", "--chunk-s", 0).code == 2


def test_transcribe_loads_neither_torch_nor_scipy(speech: Path) -> None:
    program = (
        "import sys; from asr_compress.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted(sys.modules))"
    )
    arguments = [sys.executable, "-c", program, "transcribe", speech / "tones.safetensors", speech / "ab.wav"]
    text, modules = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()
    assert text == "AB CAB"
    for heavy in ("torch", "lhotse", "scipy", "librosa", "matplotlib", "rich", "yaml"):
        assert f"'{heavy}'" not in modules
