"""The page on compression says what the passes say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asr_compress.compression.passes_page import with_passes
from asr_compress.compression.recipe import Recipe
from asr_compress.compression.registry import PASSES
from asr_compress.runtime.errors import InputError

PAGE = Path(__file__).resolve().parents[2] / "docs/compression.md"


def test_the_tables_are_those_of_the_passes() -> None:
    page = PAGE.read_text()
    assert page == with_passes(page), "run python -m asr_compress.compression.passes_page docs/compression.md"
    for name in PASSES:
        assert f"\n### {name}\n" in page


def test_the_recipes_of_the_page_are_valid() -> None:
    recipes = [part.partition("```")[0] for part in PAGE.read_text().split("```yaml\n")[1:]]
    assert len(recipes) >= 2
    for text in recipes:
        Recipe.from_json(yaml.safe_load(text), str(PAGE))


def test_a_page_without_the_section() -> None:
    with pytest.raises(InputError, match="no section '## The passes'"):
        with_passes("# Something else\n")
