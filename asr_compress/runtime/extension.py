"""The compiled extension `_native`, where it was built, and which of its instruction sets to use.

The environment variable ASR_COMPRESS_ISA names the instruction set to use in place of the best one.
"""

from __future__ import annotations

import os
from typing import Any

from asr_compress.runtime.errors import InputError

try:
    from asr_compress.runtime import _native  # type: ignore[attr-defined]
except ImportError:
    _native = None

INSTRUCTION_SET_VARIABLE = "ASR_COMPRESS_ISA"


def extension() -> Any:
    """The compiled module itself; None where it was not built."""
    return _native


def instruction_sets() -> tuple[str, ...]:
    """What runs here, best first: of amx, avx512, avxvnni, avx2, neon, portable. Empty if it was not built."""
    return () if _native is None else tuple(_native.available())


def instruction_set() -> str | None:
    """The one that kernels are taken from, or None without the extension.

    Raises InputError if ASR_COMPRESS_ISA names one that is not there.
    """
    there = instruction_sets()
    wanted = os.environ.get(INSTRUCTION_SET_VARIABLE, "")
    if not there or not wanted:
        return there[0] if there else None
    if wanted not in there:
        raise InputError(f"{INSTRUCTION_SET_VARIABLE} is {wanted!r}; this machine has {', '.join(there)}")
    return wanted
