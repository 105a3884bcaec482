"""What `import asr_compress as ac` gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import asr_compress as ac


def test_names_load_when_asked_for() -> None:
    pytest.importorskip("torch")
    from asr_compress.models.adopt import adopt
    from asr_compress.runtime.recognizer import Recognizer

    assert ac.Recognizer is Recognizer
    assert ac.adopt is adopt
    assert set(ac.__all__) <= set(dir(ac))
    with pytest.raises(AttributeError, match="Recogniser"):
        _ = ac.Recogniser


def test_the_recognizer_needs_little() -> None:
    """Neither the search nor any decoder of audio is loaded before it is used."""
    program = (
        "import sys, asr_compress as ac; ac.Recognizer; print(*{'flashlight', 'soundfile', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
