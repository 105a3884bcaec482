"""Peak memory and loading time of a variant, from a fresh process that loads it and recognizes one utterance.

In the process that measures, other variants' libraries and weights are in memory too, and a peak never goes down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_compress.evaluation.backends import Unavailable
from asr_compress.evaluation.peak import peak_bytes
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.errors import InputError

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Footprint:
    """A fresh process with one variant.

    Attributes:
        peak_bytes: largest resident set of the process: interpreter, libraries, model and buffers.
        start_bytes: resident set before the engine and the model were loaded: interpreter and numpy.
        load_s: from the bundle's path to a recognizer ready to run, engine's imports included; files are in the
            system's cache.
    """

    peak_bytes: int
    start_bytes: int
    load_s: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def footprint(variant: Variant, samples: np.ndarray) -> Footprint:
    """Measure in a fresh process. samples: float32 (n,), what it recognizes.

    Raises:
        InputError: the process could not do it; the message has its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "samples.npy"
        np.save(audio, samples)
        request = {**asdict(variant), "bundle": str(variant.bundle.resolve())}
        request["lm"] = str(variant.lm.resolve()) if variant.lm else None
        threads = {name: str(variant.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "asr_compress.evaluation.memory", str(audio)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"variant {variant.key!r}: no answer from its own process in {_TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(f"variant {variant.key!r}: its own process failed: {last}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    variant = Variant(**json.loads(sys.stdin.read()))
    samples = np.load(sys.argv[1])
    start = peak_bytes()
    try:
        recognition = Recognition(variant)
    except Unavailable as error:
        sys.exit(str(error))
    recognition.recognize([samples] * variant.batch)
    print(json.dumps(Footprint(peak_bytes(), start, recognition.load_s).to_json()))


if __name__ == "__main__":
    _main()
