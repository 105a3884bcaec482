"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpora_dir() -> Path:
    """Folder of real speech: `ASR_COMPRESS_CORPORA`, or `shared/corpora` beside the project; skips without one."""
    default = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    folder = Path(os.environ.get("ASR_COMPRESS_CORPORA", default))
    if not folder.is_dir():
        pytest.skip(f"no real speech at {folder}; set ASR_COMPRESS_CORPORA to a folder that has it")
    return folder
