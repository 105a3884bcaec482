"""Make LSTM/CTC speech recognizers small and fast, and say exactly what that cost.

For example: `import asr_compress as ac; ac.Recognizer.load("model.safetensors").transcribe("a.flac").text`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_compress.models.adopt import adopt as adopt
    from asr_compress.runtime.recognizer import Recognizer as Recognizer

__version__ = "0.1.0"
__all__ = ["Recognizer", "__version__", "adopt"]

# Loaded when first asked for: a device that only recognizes speech has no torch, which `adopt` needs.
_HOMES = {"Recognizer": "asr_compress.runtime.recognizer", "adopt": "asr_compress.models.adopt"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
