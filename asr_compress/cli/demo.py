"""The verb that runs the main job on synthesized speech."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from asr_compress.runtime.errors import InputError

# Beside the package in a checkout; under the prefix where a wheel was installed (data_files in setup.cfg).
_PLACES = (Path(__file__).resolve().parents[2] / "recipes/demo", Path(sys.prefix) / "share/asr_compress/recipes/demo")


def demo(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny one, about a minute; its numbers mean nothing.")
    ] = False,
    stage: Annotated[list[str] | None, typer.Option(help="prepare, train, compress or evaluate; default: all.")] = None,
) -> None:
    """Train, distill, prune, quantize and measure a recognizer of synthesized speech, in 5 to 8 minutes.

    Downloads nothing. What it makes is in runs/demo: bundles, results, report. Interrupted, it goes on.

    \b
    Examples:
      asr-compress demo
      asr-compress demo --smoke
      asr-compress demo --stage evaluate
    """
    arguments = [*(["--smoke"] if smoke else []), *(part for name in stage or [] for part in ("--stage", name))]
    _recipe().main(arguments)


def _recipe() -> ModuleType:
    folder = next((place for place in _PLACES if (place / "run.py").is_file()), None)
    if folder is None:
        raise InputError("demo: its recipe was not installed; run it from a clone of the project: make demo")
    specification = importlib.util.spec_from_file_location("asr_compress_demo", folder / "run.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where dataclasses look up their annotations
    specification.loader.exec_module(module)
    return module
