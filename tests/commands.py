"""Commands as people read them, in --help and in documents: found, split and parsed, not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import typer

from asr_compress.cli import app


def command_lines(text: str) -> Iterator[str]:
    """Calls of asr-compress, recipes and make, a line each; a backslash joins lines. Recipes in backticks too."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:\$ )?((?:asr-compress|python3? recipes/|make )\S*.*)", line)
        if found:
            yield found[1].strip()
        else:
            yield from re.findall(r"`(python3? recipes/[^`]+)`", line)


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def parse(arguments: list[str]) -> None:
    """Let the command line parse what follows `asr-compress`. Raises typer's usage errors, which say what is wrong."""
    group = typer.main.get_command(app)
    verbs = group.commands  # type: ignore[attr-defined]
    if arguments and not arguments[0].startswith("-"):
        assert arguments[0] in verbs, f"no verb {arguments[0]!r}"
        rest = arguments[1:]
        if not {"--help", "-h"} & set(rest):
            verbs[arguments[0]].make_context(arguments[0], list(rest))
