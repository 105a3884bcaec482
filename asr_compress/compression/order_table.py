"""Which pass may follow which, as a table made from the passes' own rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_compress.compression.order import check_order
from asr_compress.compression.registry import make_pass
from asr_compress.evaluation.table import markdown_table
from asr_compress.runtime.errors import InputError


def order_table(passes: Mapping[str, dict[str, Any]]) -> str:
    """A Markdown table, the first pass down and the second across, and the reasons of what is refused.

    Args:
        passes: parameters by name.
    """
    reasons: list[str] = []

    def cell(first: str, second: str) -> str:
        stages = [(name, [make_pass(name, passes[name])]) for name in (first, second)]
        try:
            check_order(stages, set(), "the start")
        except InputError as error:
            reason = str(error).partition(": ")[2]
            reasons.extend([] if reason in reasons else [reason])
            return f"no ({reasons.index(reason) + 1})"
        return "yes"

    rows = [[first, *(cell(first, second) for second in passes)] for first in passes]
    table = "\n".join(markdown_table(["first, then", *passes], rows, left=1))
    return table + "\n\n" + "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))
