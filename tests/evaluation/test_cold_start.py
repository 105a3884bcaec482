"""A fresh process recognizes a file: what is reported of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_compress.evaluation.cold_start import cold_start, cold_start_table
from asr_compress.runtime.errors import InputError
from tests.evaluation.bundles import bundle


def test_a_fresh_process_is_measured_and_has_no_torch(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    started = cold_start(path, np.ones(100, np.float32), runs=2)
    assert len(started.times_s) == 2 and min(started.times_s) > 0.01 and min(started.cpu_s) > 0.01
    assert 10e6 < started.peak_bytes < 200e6
    assert started.bundle_bytes == path.stat().st_size and not started.torch
    row = cold_start_table([("a", started)]).rows[0]
    assert row["bundle"] == "a" and row["torch imported"] == "no"
    assert row["peak memory MB"] == f"{started.peak_bytes / 1e6:.1f}"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="m.safetensors"):
        cold_start(tmp_path / "m.safetensors")
