"""From nothing to text: a fresh process that imports the package, loads a bundle and recognizes one file.

What a program on a device pays once: interpreter, imports, weights, lexicon, five seconds of speech.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile

from asr_compress.evaluation.benchmark_report import BenchmarkTable
from asr_compress.evaluation.table import spread_text
from asr_compress.evaluation.timing import Spread
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError

AUDIO_S = 5
_RUNS = 7
_PROGRAM = """
import sys, time
import asr_compress as ac
print(ac.Recognizer.load(sys.argv[1]).transcribe(sys.argv[2]).text, flush=True)
print(time.process_time())
from asr_compress.evaluation.peak import peak_bytes
print(peak_bytes(), "torch" in sys.modules)
"""


@dataclass(frozen=True)
class ColdStart:
    """Of one bundle.

    Attributes:
        bundle_bytes: size of its file.
        times_s: from the start of a process to the text of a file of `AUDIO_S`, one a process; files are in the
            system's cache and Python sources are compiled, by a process before these.
        cpu_s: the processor's time of the same; less than `times_s` where the machine is not idle.
        peak_bytes: largest resident set of any of them.
        torch: whether torch was imported.
    """

    bundle_bytes: int
    times_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    peak_bytes: int
    torch: bool


def cold_start(bundle: str | Path, samples: np.ndarray | None = None, runs: int = _RUNS) -> ColdStart:
    """Measure with the package's Python interface, on one core.

    Args:
        samples: float32 (n,) at the bundle's rate, repeated or cut to `AUDIO_S`; noise by default.

    Raises:
        InputError: not a bundle; a process failed, with its last line.
    """
    rate_hz = Bundle.load(bundle).features.sample_rate_hz
    if samples is None or not len(samples):
        samples = np.random.default_rng(0).normal(0, 0.05, AUDIO_S * rate_hz).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio.wav"
        soundfile.write(audio, np.resize(samples, AUDIO_S * rate_hz), rate_hz)
        measured = [_one(Path(bundle).resolve(), audio, Path(folder) / "compiled") for _ in range(1 + runs)][1:]
    times_s, cpu_s, peaks, torch = zip(*measured, strict=True)
    return ColdStart(Path(bundle).stat().st_size, times_s, cpu_s, max(peaks), any(torch))


def _one(bundle: Path, audio: Path, compiled: Path) -> tuple[float, float, int, bool]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONPYCACHEPREFIX": str(compiled)}
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _PROGRAM, str(bundle), str(audio)]
    begin = perf_counter()
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, env={**surroundings, **threads, **paths}
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        seconds = perf_counter() - begin
        rest = process.stdout.read()
        if process.wait():
            complaints.seek(0)
            last = (complaints.read().strip() or "no message").splitlines()[-1]
            raise InputError(f"{bundle}: its own process failed: {last}")
    cpu_s, peak, torch = rest.split()
    return seconds, float(cpu_s), int(peak), torch == "True"


def cold_start_table(measured: Sequence[tuple[str, ColdStart]]) -> BenchmarkTable:
    """One row a bundle."""
    rows = tuple(
        {
            "bundle": name,
            "file MB": f"{start.bundle_bytes / 1e6:.2f}",
            "process start to text, s (min-max)": spread_text(Spread.of(start.times_s)),
            "of it on the processor, s": spread_text(Spread.of(start.cpu_s)),
            "peak memory MB": f"{start.peak_bytes / 1e6:.1f}",
            "torch imported": "yes" if start.torch else "no",
        }
        for name, start in measured
    )
    note = f"A fresh process: import, load, recognize a file of {AUDIO_S} s; one core, files in the system's cache."
    return BenchmarkTable("Cold start", rows, (note,))
