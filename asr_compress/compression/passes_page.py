"""The tables of passes in docs/compression.md, from what the passes say of themselves.

python -m asr_compress.compression.passes_page docs/compression.md writes them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from asr_compress.compression.registry import describe_passes
from asr_compress.evaluation.table import markdown_table
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write

HEADING = "## The passes"
_TRAINS = {
    "always": "works in a stage that trains, only",
    "optional": "with training or without",
    "never": "without training",
}


def passes_section() -> str:
    """The page's last section: each pass, its parameters, and what it cannot follow."""
    parts = [HEADING, "`asr-compress passes --json` has the same for programs."]
    for entry in describe_passes():
        parts += [f"### {entry['name']}", f"{entry['what']} ({entry['family']}; {_TRAINS[entry['trains']]}.)"]
        rows = [
            [f"`{name}`", _default(parameter["default"]), parameter["type"], parameter["what"]]
            for name, parameter in entry["parameters"].items()
        ]
        parts.append("\n".join(markdown_table(["parameter", "default", "type", "what"], rows, left=4)))
        refusals = [f"- after {trait}: {reason}" for trait, reason in entry["cannot_follow"].items()]
        if refusals:
            parts.append("\n".join(["Refused", "", *refusals]))
    return "\n\n".join(parts) + "\n"


def with_passes(page: str) -> str:
    """`page` with its last section written anew.

    Raises:
        InputError: the page has no such section.
    """
    before, heading, _ = page.partition(HEADING)
    if not heading:
        raise InputError(f"the page has no section {HEADING!r}; put it where the passes are to stand")
    return before + passes_section()


def _default(value: Any) -> str:
    return "-" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    text = with_passes(target.read_text())
    with atomic_write(target) as temporary:
        temporary.write_text(text)
