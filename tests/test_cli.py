"""The command line as a user meets it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from asr_compress import __version__
from asr_compress.cli import app, main
from asr_compress.cli.output import explain
from asr_compress.runtime.errors import InputError
from tests.commands import command_lines, parse, words

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
    # Three layers over 320, 256 and 256 inputs, layer norms, 40 outputs; by hand.
    maps = sum(4 * 256 * (inputs + 256) for inputs in (320, 256, 256)) + 40 * 256
    assert small["parameters"] == maps + 3 * 8 * 256 + 3 * 2 * 256 + 40
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
