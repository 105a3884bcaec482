"""Every command in the documents parses, every file that they link to exists, every Python example runs."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import soundfile

from asr_compress.runtime.tokens import Tokens
from tests.commands import command_lines, parse, words
from tests.runtime.tones import RATE_HZ, say, tone_bundle

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "data/**/*.md", "recipes/**/*.md", "recipes/**/*.yaml", "recipes/**/*.py")
    for path in ROOT.glob(pattern)
)
COMMANDS = [
    pytest.param(path, line.removeprefix("# "), id=f"{path.relative_to(ROOT)}: {line[:60]}")
    for path in DOCUMENTS
    for line in command_lines(re.sub(r"(?m)^# ", "", path.read_text()) if path.suffix != ".md" else path.read_text())
]


class Parsed(Exception):
    """A recipe's arguments were understood."""


def parse_recipe(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a recipe's `main` up to where it has parsed its arguments."""
    path = ROOT / arguments[1]
    assert path.is_file(), f"{path} does not exist"
    original = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: object) -> None:
        original(self, *args)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.syspath_prepend(path.parent)  # as for a script that is run
    specification = importlib.util.spec_from_file_location("recipe_under_test", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "recipe_under_test", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", arguments[1:])
    with pytest.raises(Parsed):
        module.main()


def make_targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_commands_parse(document: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = words(line)
    match arguments[0]:
        case "asr-compress":
            parse(arguments[1:])
        case "make":
            targets = [argument for argument in arguments[1:] if "=" not in argument]
            assert set(targets) <= make_targets()
        case _:
            parse_recipe(arguments, monkeypatch)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), f"{document}: {target}"


def test_the_readme_shows_what_matters() -> None:
    """So that the tests above cannot pass because nothing was found."""
    lines = list(command_lines((ROOT / "README.md").read_text()))
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in lines}
    assert any(line.startswith("asr-compress transcribe") for line in lines)
    assert any(line.startswith("python recipes/") for line in lines)


def test_the_readme_has_the_measured_table() -> None:
    """Rows of results stand in the README as the recipe's page has them, and plots are those of the page."""
    readme = (ROOT / "README.md").read_text()
    measured = (ROOT / "recipes/speechocean762/RESULTS.md").read_text()
    rows = re.findall(r"(?m)^\| .*\[\d+\.\d+, \d+\.\d+\].*\|$", readme)
    assert len(rows) >= 4
    for row in rows:
        assert row in measured
    for plot in re.findall(r"!\[[^]]*\]\(recipes/speechocean762/([^)]*)\)", readme):
        assert f"({plot})" in measured


def test_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the README, in a folder that holds the files that they name."""
    tokens = Tokens.characters("ABC")
    tone_bundle(tokens).save(tmp_path / "model.safetensors")
    soundfile.write(tmp_path / "speech.wav", say("AB CAB", tokens), RATE_HZ)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] == "AB CAB"
