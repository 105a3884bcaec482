"""The one place that imports torchaudio.

torchaudio 2.11 is linked against CUDA: beside a torch without it, the import fails on a missing libc10_cuda. Its
pure-torch parts (SpecAugment, Kaldi's features, data sets, models) need none of that, so here its compiled
extension is declared absent before the import. Beside a CUDA torch it is the ordinary import.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch


def _declare_extension_absent() -> None:
    module: Any = types.ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = lambda function: _unavailable
    module.__path__ = []
    sys.modules["torchaudio._extension"] = module


def _unavailable(*_: Any, **__: Any) -> None:
    raise RuntimeError("torchaudio's compiled extension needs a CUDA build of torch")


if torch.version.cuda is None and "torchaudio" not in sys.modules:
    _declare_extension_absent()

import torchaudio  # noqa: E402

__all__ = ["torchaudio"]
