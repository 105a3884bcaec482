"""A footprint must be that of the child alone."""

from __future__ import annotations

import numpy as np
import pytest

from asr_compress.evaluation.memory import footprint
from asr_compress.evaluation.peak import peak_bytes
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.errors import InputError
from tests.evaluation.bundles import bundle

NOISE = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1


def test_parent_size_does_not_count(tmp_path):
    ballast = np.ones(300 * 2**20, np.uint8)
    assert peak_bytes() > ballast.nbytes
    measured = footprint(Variant("small", bundle(tmp_path), "reference"), NOISE)
    assert measured.peak_bytes < 200 * 2**20
    assert measured.start_bytes <= measured.peak_bytes
    assert measured.load_s > 0


def test_larger_model_has_larger_peak(tmp_path):
    small = footprint(Variant("small", bundle(tmp_path), "reference"), NOISE)
    large = footprint(Variant("large", bundle(tmp_path, "large", hidden=1200, bidirectional=False), "reference"), NOISE)
    weights = 4 * 1200 * (1200 + 32) * 4
    assert large.peak_bytes - small.peak_bytes > weights


def test_failure_is_told_in_a_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        footprint(Variant("missing", tmp_path / "missing.safetensors", "reference"), NOISE)
